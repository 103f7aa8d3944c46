"""Paths that others chose (inputs, outputs, code) held below the folder they belong to."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from runyard_core.errors import InvalidInput

_PART_BYTES_MAX = 255
_PATH_BYTES_MAX = 4000


def relative_path(text: str) -> PurePosixPath:
    """Read a path that must stay below its folder.

    Raises:
        InvalidInput: PATH_ESCAPES, with a sentence; absolute, "..", empty parts, NUL, too long, not UTF-8.
    """
    parts = text.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise _escapes(text, "it is not valid UTF-8") from None
    if "\0" in text:
        raise _escapes(text, "it has a NUL character")
    if text.startswith("/"):
        raise _escapes(text, "it is absolute")
    if any(part in {"", ".", ".."} for part in parts):
        raise _escapes(text, 'it has an empty, "." or ".." part')
    if max(sizes) > _PART_BYTES_MAX or sum(sizes) + len(sizes) > _PATH_BYTES_MAX:
        raise _escapes(text, "it is too long for a file system")
    return PurePosixPath(text)


def is_inside(path: str, root: str) -> bool:
    """Say whether a real path (no symlinks left in it) is strictly below a real folder."""
    return posixpath.commonpath((path, root)) == root and path != root


def _escapes(text: str, reason: str) -> InvalidInput:
    return InvalidInput(f"path {text[:200]!r} is refused: {reason}", code="PATH_ESCAPES")
