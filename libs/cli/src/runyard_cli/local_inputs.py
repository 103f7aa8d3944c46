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
    from runyard_client import Client

FILES_MAX = 10_000
"""Of one ``--input``; more belong into a dataset or a shared folder."""

_UPLOADS_AT_ONCE = 8

Uploaded = Mapping[Path, "Artifact"]


@dataclass(frozen=True, slots=True)
class LocalInput:
    """What one ``--input NAME=PATH`` means."""

    source: str
    """As it was typed."""
    files: tuple[tuple[Path, str], ...]
    """Each file, and its path below the input where the input keeps folders."""


def find_local(source: str) -> LocalInput:
    """Find the files that a path, a folder or a pattern (``*``, ``**``) means.

    Raises:
        ValueError: there are none, or too many; the message says which.
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
    if len(files) > FILES_MAX:
        raise ValueError(
            f"{source!r} means {len(files)} files, at most {FILES_MAX}: pack them, or share the folder"
        )
    return LocalInput(source, tuple((each, each.relative_to(root).as_posix()) for each in files))


async def upload(
    client: Client, wanted: Iterable[LocalInput], project: str, tell: Callable[[LocalInput, Uploaded], None]
) -> dict[Path, Artifact]:
    """Put the files into the yard; ``tell`` hears of each input when it is there.

    Raises:
        LocalError, ClientError, Unreachable: as ``upload_file``.
    """
    from runyard_client.files import upload_file
    from runyard_core.fan_out import fan_out

    async def put(path: Path) -> Artifact:
        return (await upload_file(client, path, project=project)).artifact

    uploaded: dict[Path, Artifact] = {}
    for local in wanted:
        paths = [path for path, _ in local.files if path not in uploaded]
        uploaded |= dict(zip(paths, await fan_out(_UPLOADS_AT_ONCE, put, paths), strict=True))
        tell(local, uploaded)
    return uploaded


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
