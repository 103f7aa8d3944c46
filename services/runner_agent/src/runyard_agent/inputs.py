"""The input files of a run: fetched, held against their hashes, and laid out as the run contract says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.content_cache import ContentCache
from runyard_agent.domain.checkpoints import INPUT_NAME
from runyard_agent.domain.inputs_record import LISTED_BYTES, Listed, file_bytes, input_bytes, without_room
from runyard_agent.domain.references import WITHOUT_SERVICE, placed, scheme_of
from runyard_agent.input_sources import InputSources
from runyard_core.errors import InvalidInput, RunyardError, Unavailable
from runyard_core.fan_out import fan_out

_FILES_AT_ONCE = 4

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One file to fetch."""

    wanted: Input
    file: InputFile
    path: PurePosixPath
    """Below the inputs folder, so with the name of the input first."""


@dataclass(frozen=True, slots=True)
class InputsOf:
    """Whose inputs they are, and the ways to them."""

    project: str
    artifact_client: ArtifactClient
    cache: ContentCache
    sources: InputSources
    tell: Tell = lambda _: None
    """Gets a sentence for whatever somebody may wonder about."""


async def fetch(of: InputsOf, inputs: Sequence[Input], inputs_dir: Path) -> list[Input]:
    """Fetch all files of all inputs into ``inputs_dir/NAME/``; gives the inputs with what is there now.

    Of several files with one path the last one stays, as the contract says. Files of an input that is fetched
    on demand are only listed.

    Raises:
        Unavailable: INPUT_UNAVAILABLE, naming the input and its URI; nothing was fetched when there are more
            files than one record names.
    """
    wanted: dict[PurePosixPath, _Wanted] = {}
    for one in await _resolved(of, inputs):
        (inputs_dir / _checked_name(one.name)).mkdir(parents=True, exist_ok=True)
        for each in await _files_of(of, one):
            former = wanted.pop(each.path, None)
            if former is not None and former.file != each.file:
                of.tell(
                    f"input {one.name}: {each.path.name} of {_source(each.file)} replaces that of "
                    f"{_source(former.file)}"
                )
            wanted[each.path] = each

    _require_room(list(wanted.values()))
    await of.sources.expect([each.file for each in wanted.values() if not each.wanted.on_demand])

    async def fetch_one(each: _Wanted) -> InputFile:
        return await _fetch(of, each, inputs_dir / each.path)

    found = await fan_out(_FILES_AT_ONCE, fetch_one, list(wanted.values()))
    await of.cache.trim()
    by_input: dict[str, list[InputFile]] = {}
    for each, file in zip(wanted.values(), found, strict=True):
        by_input.setdefault(each.wanted.name, []).append(file)
    return [_with_files(one, by_input.get(one.name, [])) for one in inputs]


def _require_room(wanted: Sequence[_Wanted]) -> None:
    """Hold that one event can name all files: refused later, it would be missing from the run's record."""
    listed: dict[str, Listed] = {}
    for each in wanted:
        name = each.wanted.name
        if name == INPUT_NAME:
            # Of these a list is stored, when they are many.
            listed.setdefault(name, Listed(name, each.file.uri, LISTED_BYTES))
            continue
        if name not in listed:
            listed[name] = Listed(name, each.file.uri, input_bytes(each.wanted))
        listed[name].files.append(file_bytes(each.file, _path_in_input(each)))
    if (problem := without_room(list(listed.values()))) is not None:
        largest, error = problem
        raise unavailable(largest.name, largest.uri, error)


async def _fetch(of: InputsOf, each: _Wanted, destination: Path) -> InputFile:
    fetched = InputFile()
    fetched.CopyFrom(each.file)
    fetched.ClearField("moved_bytes")
    fetched.path = _path_in_input(each)
    if each.wanted.on_demand:
        return fetched
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        found = await of.sources.fetch(each.file, destination)
        fetched.sha256, fetched.size_bytes = found.sha256, found.size_bytes
        fetched.moved_bytes = found.moved_bytes
    except (RunyardError, OSError) as error:
        raise unavailable(each.wanted.name, _source(each.file), error) from error
    return fetched


async def _resolved(of: InputsOf, inputs: Sequence[Input]) -> list[Input]:
    """Ask for the files of references to stored files that came without them."""
    resolved: list[Input] = []
    for one in inputs:
        known = {file.uri for file in one.files}
        if all(uri in known or scheme_of(uri) in WITHOUT_SERVICE for uri in one.uris):
            resolved.append(one)
            continue
        try:
            resolved.extend(await of.artifact_client.resolve_inputs([one], of.project))
        except RunyardError as error:
            raise unavailable(one.name, ", ".join(one.uris), error) from error
    return resolved


async def _files_of(of: InputsOf, one: Input) -> list[_Wanted]:
    by_uri: dict[str, list[InputFile]] = {}
    for file in one.files:
        by_uri.setdefault(file.uri, []).append(file)
    found: list[_Wanted] = []
    for uri in one.uris or list(by_uri):
        try:
            # Files that are in the record are had as they were, also when a pattern means others by now.
            files = by_uri.get(uri) or await of.sources.expand(one, uri)
            found += [_Wanted(one, file, placed(one, file)) for file in files]
        except (RunyardError, OSError) as error:
            raise unavailable(one.name, uri, error) from error
    if one.filename and len(found) > 1:
        reason = InvalidInput(f'"filename" renames one file, but there are {len(found)}')
        raise unavailable(one.name, _source(found[1].file), reason)
    return found


def unavailable(name: str, uri: str, error: Exception) -> Unavailable:
    """Say that a file of an input cannot be had, and why."""
    reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{uri}: ")
    return Unavailable(
        f"input {name!r} ({uri}) cannot be had: {reason}",
        code="INPUT_UNAVAILABLE",
        metadata={"input": name, "uri": uri},
    )


def _with_files(one: Input, files: Sequence[InputFile]) -> Input:
    result = Input()
    result.CopyFrom(one)
    del result.files[:]
    result.files.extend(files)
    return result


def _path_in_input(each: _Wanted) -> str:
    return str(PurePosixPath(*each.path.parts[1:]))


def _source(file: InputFile) -> str:
    return file.resolved_uri or file.uri


def _checked_name(name: str) -> str:
    if not name or "/" in name or name in {".", ".."} or "\0" in name:
        raise unavailable(name, "no URI", InvalidInput("its name cannot be the name of a folder"))
    return name
