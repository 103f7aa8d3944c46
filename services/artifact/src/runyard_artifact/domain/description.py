"""Reads what a run says of its outputs: from the keys of the run contract to what is to be done.

Nothing that somebody wrote into a sidecar may cost a run its outputs: whatever cannot be read becomes a
sentence, and the rest is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from runyard.artifact.v1.registry_types_pb2 import DescribedOutput, VersionFile
from runyard_artifact.domain.naming import check_label, parse_dataset_version, parse_model
from runyard_core.errors import InvalidInput

TAGS_KEY = "valohai.tags"
ALIAS_KEY = "valohai.alias"
DATASETS_KEY = "valohai.dataset-versions"
MODELS_KEY = "valohai.model-versions"
_MEANINGFUL = frozenset({TAGS_KEY, ALIAS_KEY, DATASETS_KEY, MODELS_KEY})


@dataclass(slots=True)
class WantedDataset:
    """A version of a dataset that outputs are to be in."""

    dataset: str
    version: str
    files: dict[str, VersionFile] = field(default_factory=dict)
    """By path."""
    base: str = ""
    """Reference of the version to begin with."""
    starts_fresh: bool = False
    """Begin without the files of the base."""
    excluded: list[str] = field(default_factory=list)
    """Paths and patterns of files of the base to leave out."""
    aliases: list[str] = field(default_factory=list)

    def all_files(self, base_files: Iterable[VersionFile]) -> list[VersionFile]:
        """Give the files of the version when it begins with these."""
        kept = {} if self.starts_fresh else {file.path: file for file in base_files}
        # Every output of a version may say the same of it.
        patterns = list(dict.fromkeys(self.excluded))
        for path in list(kept):
            if any(_is_meant(path, pattern) for pattern in patterns):
                del kept[path]
        return list({**kept, **self.files}.values())


@dataclass(slots=True)
class WantedModel:
    """A version of a model that outputs are to be in."""

    model: str
    files: dict[str, VersionFile] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    release_note: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What one file is called."""

    tags: tuple[str, ...]
    properties: Struct
    alias: str


@dataclass(frozen=True, slots=True)
class Description:
    """All that a run says of its outputs."""

    labels: list[tuple[DescribedOutput, Labels]] = field(default_factory=list)
    datasets: dict[tuple[str, str], WantedDataset] = field(default_factory=dict)
    models: dict[str, WantedModel] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def datasets_in_order(self) -> list[WantedDataset]:
        """Give the versions to make, each after the one that it begins with: a run may make both."""
        ordered: dict[tuple[str, str], WantedDataset] = {}
        for key in self.datasets:
            chain: dict[tuple[str, str], WantedDataset] = {}
            while (wanted := self.datasets.get(key)) is not None:
                if key in ordered or key in chain:
                    break
                chain[key] = wanted
                base = parse_dataset_version(wanted.base) if wanted.base else None
                key = (base.name, base.version) if base else ("", "")
            ordered.update(reversed(chain.items()))
        return list(ordered.values())


def read_description(outputs: Iterable[DescribedOutput]) -> Description:
    """Read the metadata of outputs. Never raises: what cannot be read is among the problems."""
    description = Description()
    for output in outputs:
        try:
            metadata: Mapping[str, object] = MessageToDict(output.metadata)
        except (ValueError, JsonError) as error:
            description.problems.append(_problem(output, "metadata", f"cannot be read: {error}"))
            continue
        description.labels.append((output, _labels(output, metadata, description.problems)))
        file = VersionFile(path=output.path, sha256=output.sha256, size_bytes=output.size_bytes)
        for key, add in ((DATASETS_KEY, _add_dataset), (MODELS_KEY, _add_model)):
            for entry in _listed(metadata.get(key)):
                try:
                    add(description, entry, file)
                except InvalidInput as error:
                    description.problems.append(_problem(output, key, error.message))
    return description


def _labels(output: DescribedOutput, metadata: Mapping[str, object], problems: list[str]) -> Labels:
    tags = []
    for tag in _listed(metadata.get(TAGS_KEY)):
        if isinstance(tag, str) and tag and "\0" not in tag:
            tags.append(tag)
        else:
            problems.append(_problem(output, TAGS_KEY, f"{tag!r} is no text"))
    alias = ""
    if (given := metadata.get(ALIAS_KEY)) is not None:
        try:
            alias = check_label(_text(given), "alias")
        except InvalidInput as error:
            problems.append(_problem(output, ALIAS_KEY, error.message))
    properties = Struct(
        fields={name: value for name, value in output.metadata.fields.items() if name not in _MEANINGFUL}
    )
    return Labels(tuple(tags), properties, alias)


def _add_dataset(description: Description, entry: object, file: VersionFile) -> None:
    details: Mapping[str, object] = entry if isinstance(entry, dict) else {"uri": entry}
    name = parse_dataset_version(_text(details.get("uri")))
    base = _text(details.get("from") or "")
    aliases = [check_label(_text(alias), "alias") for alias in _listed(details.get("targeting_aliases"))]
    excluded = [_text(pattern) for pattern in _listed(details.get("exclude"))]
    if base:
        parse_dataset_version(base)
    wanted = description.datasets.setdefault(
        (name.name, name.version), WantedDataset(name.name, name.version)
    )
    wanted.files[file.path] = file
    wanted.base = base or wanted.base
    wanted.starts_fresh = wanted.starts_fresh or bool(details.get("start_fresh"))
    wanted.excluded += excluded
    wanted.aliases += aliases


def _add_model(description: Description, entry: object, file: VersionFile) -> None:
    details: Mapping[str, object] = entry if isinstance(entry, dict) else {"model_uri": entry}
    name = parse_model(_text(details.get("model_uri")))
    tags = [_text(tag) for tag in _listed(details.get("model_version_tags"))]
    note = _text(details.get("model_release_note") or "")
    wanted = description.models.setdefault(name.name, WantedModel(name.name))
    wanted.files[file.path] = file
    wanted.tags += [tag for tag in tags if tag not in wanted.tags]
    wanted.release_note = note or wanted.release_note


def _is_meant(path: str, pattern: str) -> bool:
    """Say whether a path is what somebody left out: "*" stands for anything, folders too."""
    first, *others = pattern.split("*")
    if not others:
        return path == pattern
    # From left to right and never back: a regular expression may try for years.
    *between, last = others
    at = len(first)
    for part in between:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return path.startswith(first) and path.endswith(last) and at + len(last) <= len(path)


def _listed(value: object) -> Sequence[object]:
    if value is None:
        return ()
    return value if isinstance(value, list) else (value,)


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise InvalidInput(f"{value!r} is no text", code="BAD_NAME")
    return value


def _problem(output: DescribedOutput, key: str, reason: str) -> str:
    return f"output {output.path!r}: {key}: {reason}"
