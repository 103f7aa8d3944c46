"""Files of this machine as inputs of a run: one file, a folder, or those that a pattern means."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runyard.artifact.v1.types_pb2 import Artifact
    from runyard.run.v1.types_pb2 import Input
    from runyard_cli.transfer import Progress
    from runyard_client import Client

RECORD_BYTES_MAX = 950_000
"""What names and hashes of local files may take of a run's specification, which holds 1,000,000 bytes."""

_RECORD_BYTES_OF_EACH = 230
"""Of each file, beside its path: its reference twice, its hash and its size."""

_UPLOADS_AT_ONCE = 8

Uploaded = Mapping[Path, "Artifact"]


@dataclass(frozen=True, slots=True)
class LocalInput:
    """What one ``--input NAME=PATH`` means."""

    source: str
    """As it was typed."""
    files: tuple[tuple[Path, str], ...]
    """Each file, and its path below the input where the input keeps folders."""

    @property
    def record_bytes(self) -> int:
        """What its files take of the specification of a run."""
        return sum(len(path.encode("utf-8", "replace")) + _RECORD_BYTES_OF_EACH for _, path in self.files)


def find_local(source: str) -> LocalInput:
    """Find the files that a path, a folder or a pattern (``*``, ``**``) means.

    Raises:
        ValueError: there are none.
    """
    path = Path(source)
    if path.is_file():
        return LocalInput(source, ((path, path.name),))
    if path.is_dir():
        root, found = path, sorted(path.rglob("*"))
    elif any(mark in source for mark in "*?["):
        fixed = Path(source).parts[: next(n for n, part in enumerate(path.parts) if glob.has_magic(part))]
        root, found = Path(*fixed), sorted(map(Path, glob.glob(source, recursive=True)))
    else:
        raise ValueError(f"{source!r} is neither a file here nor a URI")
    files = [each for each in found if each.is_file()]
    if not files:
        raise ValueError(f"{source!r} means no file here")
    return LocalInput(source, tuple((each, each.relative_to(root).as_posix()) for each in files))


def require_room(wanted: Iterable[str | LocalInput]) -> None:
    """Hold that a run can name all files: the yard would say so only when they are uploaded.

    Raises:
        ValueError: it cannot; names the input with the most.
    """
    own = [each for each in wanted if isinstance(each, LocalInput)]
    size_bytes = sum(local.record_bytes for local in own)
    if size_bytes > RECORD_BYTES_MAX:
        largest = max(own, key=lambda local: local.record_bytes)
        raise ValueError(
            f"{largest.source!r} means {len(largest.files)} files, and names and hashes of all local files "
            f"take {size_bytes} bytes, at most {RECORD_BYTES_MAX}: pack them, or share the folder"
        )


async def upload(
    client: Client, wanted: Iterable[LocalInput], project: str, tell: Callable[[LocalInput, Uploaded], None]
) -> dict[Path, Artifact]:
    """Put the files into the yard; ``tell`` hears of each input when it is there.

    Raises:
        LocalError, ClientError, Unreachable: as ``upload_file``.
    """
    from runyard_cli.transfer import Progress

    uploaded: dict[Path, Artifact] = {}
    for local in wanted:
        paths = [path for path, _ in local.files if path not in uploaded]
        progress = Progress(local.source, sum(path.stat().st_size for path in paths))
        try:
            artifacts = await _put(client, paths, project, progress)
        finally:
            progress.close()
        uploaded |= dict(zip(paths, artifacts, strict=True))
        tell(local, uploaded)
    return uploaded


async def _put(client: Client, paths: Sequence[Path], project: str, progress: Progress) -> Sequence[Artifact]:
    from runyard_client.files import upload_file
    from runyard_core.fan_out import fan_out

    async def put(path: Path) -> Artifact:
        answer = await upload_file(
            client, path, project=project, on_hashed=progress.add_hashed, on_bytes=progress.add
        )
        return answer.artifact

    return await fan_out(_UPLOADS_AT_ONCE, put, paths)


def without_own(asked: Input, chosen: Sequence[str | LocalInput], uploaded: Uploaded) -> Input:
    """Give what of an input the yard must find: no file that was just uploaded, unless it is renamed."""
    from runyard.run.v1.types_pb2 import Input

    others = Input()
    others.CopyFrom(asked)
    if not asked.filename:
        own = {uri_of(artifact) for artifact in uploaded.values()} - {*map(str, chosen)}
        others.uris[:] = [uri for uri in asked.uris if uri not in own]
    return others


def place(resolved: Input, chosen: Sequence[str | LocalInput], uploaded: Uploaded) -> None:
    """Give uploaded files of an input the paths that they have here: elsewhere the same bytes had others."""
    from runyard.run.v1.types_pb2 import InputFile

    if resolved.filename:
        return
    files = [
        InputFile(
            uri=uri_of(uploaded[path]),
            path=below if resolved.keep_directories in {"suffix", "full"} else path.name,
            sha256=uploaded[path].sha256,
            size_bytes=uploaded[path].size_bytes,
        )
        for local in chosen
        if isinstance(local, LocalInput)
        for path, below in local.files
    ]
    own = {file.uri for file in files} - {each for each in chosen if isinstance(each, str)}
    others = [file for file in resolved.files if file.uri not in own]
    del resolved.files[:]
    resolved.files.extend([*others, *files])


def uri_of(artifact: Artifact) -> str:
    """Give the reference of a stored file."""
    return f"datum://{artifact.sha256}"
