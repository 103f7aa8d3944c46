"""Files with a key in them: there whole or not at all, and for their owner's eyes alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runyard_core.errors import InvalidInput

_FILE_BYTES_MAX = 10_000


def create_key_file(path: Path, content: bytes) -> None:
    """Write a new key (0600); whoever is first wins, and a file that is there stays as it is.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            return
    finally:
        partial.unlink()


def read_key_file(path: Path) -> bytes:
    """Read a key that nobody else may read.

    Raises:
        InvalidInput: it cannot be read (BAD_KEY_FILE), or others may read it (KEY_FILE_OPEN).
    """
    content, mode = _read(path)
    if mode & 0o077:
        raise InvalidInput(
            f"{path} has mode {mode:04o}: others may read the key. chmod 600 it",
            code="KEY_FILE_OPEN",
        )
    return content


def read_public_key_file(path: Path) -> bytes:
    """Read a key that everybody may read.

    Raises:
        InvalidInput: it cannot be read (BAD_KEY_FILE).
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX), stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise InvalidInput(
            f"cannot read the key file {path}: {error.strerror}", code="BAD_KEY_FILE"
        ) from error
