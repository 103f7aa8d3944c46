"""Says which places a file may come from, before anything is asked of the store."""

from __future__ import annotations

import re

from runyard.artifact.v1.types_pb2 import Origin
from runyard_contracts.ids import is_name, is_sha256
from runyard_core.errors import InvalidInput

PATH_BYTES_MAX = 1024
"""Longest path of a file, in UTF-8."""

SIZE_BYTES_MAX = 250 * 1024**3
"""Largest file: 4,000 parts of 64 MiB."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_file(sha256: str, size_bytes: int) -> None:
    """Refuse what cannot name a file's content.

    Raises:
        InvalidInput: BAD_SHA256, BAD_SIZE or FILE_TOO_LARGE.
    """
    check_sha256(sha256, "sha256")
    if size_bytes < 0:
        raise _invalid("BAD_SIZE", "size_bytes", f"a file has no {size_bytes} bytes")
    if size_bytes > SIZE_BYTES_MAX:
        raise _invalid(
            "FILE_TOO_LARGE",
            "size_bytes",
            f"{size_bytes} bytes is over the limit of {SIZE_BYTES_MAX}",
        )


def check_sha256(sha256: str, field: str) -> None:
    """Refuse what is no whole SHA-256 in lower-case hexadecimal.

    Raises:
        InvalidInput: BAD_SHA256.
    """
    if not is_sha256(sha256):
        raise _invalid("BAD_SHA256", field, f"{sha256[:80]!r} is not a SHA-256: 64 digits of 0-9 a-f")


def check_origin(origin: Origin) -> None:
    """Refuse an origin that names no place below an outputs directory.

    Raises:
        InvalidInput: BAD_PATH, PATH_ESCAPES, BAD_RUN_ID, BAD_ATTEMPT or BAD_PROJECT.
    """
    check_path(origin.path, "origin.path")
    check_maker(origin)


def check_maker(origin: Origin) -> None:
    """Refuse a run, attempt or project that none can be.

    Raises:
        InvalidInput: BAD_RUN_ID, BAD_ATTEMPT or BAD_PROJECT.
    """
    if origin.run_id and _RUN_ID.fullmatch(origin.run_id) is None:
        raise _invalid("BAD_RUN_ID", "origin.run_id", f"{origin.run_id[:80]!r} is not a run id")
    if origin.attempt < 0 or (origin.attempt > 0 and not origin.run_id):
        raise _invalid("BAD_ATTEMPT", "origin.attempt", f"attempt {origin.attempt} belongs to no run")
    if origin.project and not is_name(origin.project):
        raise _invalid("BAD_PROJECT", "origin.project", f"{origin.project[:80]!r} is not a project name")


def check_versions_before(count: int, field: str) -> None:
    """Refuse a number of versions that none can be.

    Raises:
        InvalidInput: BAD_VERSIONS.
    """
    if count < 0:
        raise _invalid("BAD_VERSIONS", field, f"there are no {count} versions before one")


def check_path(path: str, field: str) -> None:
    """Refuse a path that is not below the directory that it will be put under, on any system.

    Backslashes and drive letters are refused too: they are plain characters here, but separators
    where somebody may download the file.

    Raises:
        InvalidInput: BAD_PATH or PATH_ESCAPES.
    """
    shown = path[:200]
    if not path or len(path.encode()) > PATH_BYTES_MAX:
        raise _invalid(
            "BAD_PATH", field, f"a path has 1 to {PATH_BYTES_MAX} bytes, {shown!r} has {len(path.encode())}"
        )
    if _CONTROL.search(path):
        raise _invalid("BAD_PATH", field, f"path {shown!r} holds a control character")
    if "\\" in path:
        raise _invalid(
            "PATH_ESCAPES", field, f"path {shown!r} holds a backslash; write it with forward slashes"
        )
    if path.startswith("/") or _DRIVE.match(path):
        raise _invalid(
            "PATH_ESCAPES", field, f"path {shown!r} is absolute; give it below the outputs directory"
        )
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise _invalid(
                "PATH_ESCAPES", field, f'path {shown!r} has the segment "{segment}"; give it without'
            )


def _invalid(code: str, field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", code=code, field_violations={field: problem})
