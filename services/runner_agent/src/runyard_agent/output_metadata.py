"""What a program says of its outputs: sidecars beside them, and one file of lines for all of them.

``FILE.metadata.json`` holds a JSON object about FILE; each line of ``valohai.metadata.jsonl`` is an object
with ``file`` and ``metadata``. Both are control files and no outputs. What cannot be read costs nobody an
output: it is said, and a sidecar that cannot be read, or belongs to no file, is stored like any other file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from runyard_agent.below import read_below

SIDECAR_SUFFIX = ".metadata.json"
LINES_FILE = "valohai.metadata.jsonl"

SIDECAR_BYTES_MAX = 1 << 20
LINES_BYTES_MAX = 64 << 20

Tell = Callable[[str], None]


@dataclass(slots=True)
class OutputMetadata:
    """What is said of each output, by the name that it is recorded under."""

    lines: dict[str, Struct] = field(default_factory=dict)
    """What the file of lines says of a path."""
    sidecars: dict[str, Struct] = field(default_factory=dict)
    """What a sidecar says of the file beside it."""
    control_files: set[str] = field(default_factory=set)
    """Paths that are no outputs."""

    def of_newest(self, path: str, then: Struct | None) -> Struct:
        """Give what is said of the newest version of a path; ``then`` when it was handed over."""
        return merged(merged(then, self.lines.get(path)), self.sidecars.get(path))

    def of_older(self, path: str, then: Struct | None) -> Struct:
        """Give what is said of an older one: the sidecar that is there now is not about it."""
        return merged(self.lines.get(path), then)


def read_metadata(
    outputs_dir: Path,
    paths: Sequence[str],
    stored_paths: Iterable[str],
    tell: Tell,
    named: Callable[[str], str] = str,
) -> OutputMetadata:
    """Read the control files among the files of an outputs folder.

    Args:
        outputs_dir: the folder.
        paths: the files in it.
        stored_paths: names of the files that were in it and are stored already.
        tell: gets a sentence for what cannot be read.
        named: gives the name that a path is recorded under.
    """
    metadata = OutputMetadata()
    known = {*(named(path) for path in paths), *stored_paths}
    if LINES_FILE in paths:
        metadata.control_files.add(LINES_FILE)
        _read_lines(outputs_dir, known, metadata, tell, named)
    for path in paths:
        owner = path.removesuffix(SIDECAR_SUFFIX)
        name = named(owner)
        if owner != path and name in known:
            said = read_sidecar(outputs_dir, owner, tell)
            if said is not None:
                metadata.control_files.add(path)
                metadata.sidecars[name] = said
    return metadata


def read_sidecar(outputs_dir: Path, path: str, tell: Tell) -> Struct | None:
    """Read the sidecar of an output; None when there is none that can be read."""
    sidecar = f"{path}{SIDECAR_SUFFIX}"
    try:
        return _struct(read_below(outputs_dir, PurePosixPath(sidecar), SIDECAR_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ParseError) as error:
        tell(f"output {sidecar!r} says nothing of {path!r}: {error}")
        return None


def merged(former: Struct | None, later: Struct | None) -> Struct:
    """Give what both say; of one name the later counts."""
    result = Struct()
    for each in (former, later):
        if each is not None:
            for name, value in each.fields.items():
                result.fields[name].CopyFrom(value)
    return result


def _read_lines(
    outputs_dir: Path, known: set[str], metadata: OutputMetadata, tell: Tell, named: Callable[[str], str]
) -> None:
    try:
        content = read_below(outputs_dir, PurePosixPath(LINES_FILE), LINES_BYTES_MAX)
    except OSError as error:
        tell(f"output {LINES_FILE!r} cannot be read: {error}")
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = _object(line)
            path, said = entry.get("file"), entry.get("metadata")
            if not isinstance(path, str) or not isinstance(said, dict):
                raise ValueError('want {"file": "...", "metadata": {...}}')  # noqa: TRY004 - one way to say it
            struct = ParseDict(said, Struct())
        except (ValueError, RecursionError, ParseError) as error:
            tell(f"output {LINES_FILE!r}, line {number}: {error}")
            continue
        if (name := named(path)) in known:
            metadata.lines[name] = merged(metadata.lines.get(name), struct)
        else:
            tell(f"output {LINES_FILE!r}, line {number}: there is no output {path!r}")


def _struct(content: bytes) -> Struct:
    return ParseDict(_object(content), Struct())


def _object(content: bytes) -> dict[str, Any]:
    value = json.loads(content, parse_constant=_refuse)
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what json raises, too
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
