"""Looks through, opens and removes what is below a folder that a hostile program may be changing meanwhile.

No symlink is ever followed, also not one that takes the place of a folder between two looks; nothing depends
on how deep folders are nested; and mode bits that shut the owner out are set right when they are in the way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path, PurePosixPath

DEPTH_MAX = 500
"""Folders in each other that are looked through; deeper ones are refused."""

_STEP_FILES = 500
_STEP_FOLDERS = 100
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Refuse = Callable[[str, str], None]
"""Gets the name below the root of a folder that is not looked through, and why."""


def walk_below(root: Path, refuse: Refuse) -> Iterator[tuple[str, int]]:
    """Give name below the root (may be no text) and mode of everything but folders."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        parts = folder.split("/") if folder else []
        try:
            with _folder_below(root, parts) as descriptor:
                found = list(_entries(descriptor))
        except OSError as error:
            refuse(folder, error.strerror or str(error))
            continue
        for entry_name, mode in found:
            name = f"{folder}/{entry_name}" if folder else entry_name
            if not stat.S_ISDIR(mode):
                yield name, mode
            elif len(parts) < DEPTH_MAX:
                waiting.append(name)
            else:
                refuse(name, f"it is the last of {DEPTH_MAX} folders in each other")


def remove_tree(root: Path) -> bool:
    """Remove a folder with all that is in it, however deep or shut off; False when something stays."""
    steps = removing_tree(root)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


def removing_tree(root: Path) -> Generator[None, None, bool]:
    """Do the same in steps of some hundred files: all of a million may take minutes.

    A folder that is not empty gives what it holds to the root first, so that nothing grows with the depth.
    """
    try:
        top = _opened_folder(os.fspath(root), None)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        waiting = yield from _folders_left(top)
        folder_count = 0
        while waiting:
            name = waiting.pop()
            folder_count += 1
            if folder_count % _STEP_FOLDERS == 0:
                yield
            with contextlib.suppress(OSError):
                descriptor = _opened_folder(name, top)
                try:
                    for child in (yield from _folders_left(descriptor)):
                        moved = f".moved-{secrets.token_hex(8)}"
                        # A folder changes its parent only for who may write into it.
                        _let_owner_in(child, descriptor)
                        os.rename(child, moved, src_dir_fd=descriptor, dst_dir_fd=top)
                        waiting.append(moved)
                finally:
                    os.close(descriptor)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    try:
        os.rmdir(root)
    except OSError:
        return False
    return True


def open_below(root: Path, path: PurePosixPath) -> int:
    """Open a regular file below a folder for reading, whatever else changes names there meanwhile.

    Raises:
        OSError: it is gone, or a symlink or something else has taken its place.
    """
    with _parent_of(root, path) as directory:
        # Not blocking: opening a pipe that has taken the file's place would wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path.name, flags, dir_fd=directory)
        except PermissionError:
            _let_owner_in(path.name, directory)
            descriptor = os.open(path.name, flags, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file any more")
    return descriptor


def read_below(root: Path, path: PurePosixPath, bytes_max: int) -> bytes:
    """Read a small file below a folder.

    Raises:
        OSError: as ``open_below``, or it is larger.
    """
    descriptor = open_below(root, path)
    try:
        content = b""
        while chunk := os.read(descriptor, 1 << 16):
            content += chunk
            if len(content) > bytes_max:
                raise OSError(f"{path} has more than {bytes_max} bytes")
        return content
    finally:
        os.close(descriptor)


def remove_below(root: Path, path: PurePosixPath, opened: os.stat_result) -> bool:
    """Remove the file that was opened, if it is still the one of that name and unchanged.

    Raises:
        OSError: it may not be removed.
    """
    with _parent_of(root, path) as directory:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        if (found.st_ino, found.st_mtime_ns, found.st_size) != (
            opened.st_ino, opened.st_mtime_ns, opened.st_size,
        ):  # fmt: skip
            return False
        os.unlink(path.name, dir_fd=directory)
    return True


def _parent_of(root: Path, path: PurePosixPath) -> contextlib.AbstractContextManager[int]:
    return _folder_below(root, path.parts[:-1])


@contextlib.contextmanager
def _folder_below(root: Path, parts: Sequence[str]) -> Iterator[int]:
    directory = _opened_folder(os.fspath(root), None)
    try:
        for part in parts:
            child = _opened_folder(part, directory)
            os.close(directory)
            directory = child
        yield directory
    finally:
        os.close(directory)


def _opened_folder(name: str, parent: int | None) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _let_owner_in(name, parent)
        return os.open(name, _FOLDER, dir_fd=parent)


def _let_owner_in(name: str, parent: int | None) -> None:
    """Give the owner what mode bits have taken from him; the write bits of a file stay as they are.

    Raises:
        OSError: it is not ours.
    """
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(descriptor).st_mode
        wanted = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IRUSR
        # By its descriptor: the name may stand for something else by now.
        os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(mode) | wanted)
    finally:
        os.close(descriptor)


def _entries(directory: int) -> Iterator[tuple[str, int]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                yield entry.name, entry.stat(follow_symlinks=False).st_mode


def _folders_left(directory: int) -> Generator[None, None, list[str]]:
    """Remove the files of a folder, and its folders that are empty; gives the names of the others."""
    found: list[tuple[str, int]] = []
    for entry in _entries(directory):
        found.append(entry)
        if len(found) % _STEP_FILES == 0:
            yield
    left = []
    for number, (name, mode) in enumerate(found, start=1):
        if _is_folder_left(directory, name, mode):
            left.append(name)
        if number % _STEP_FILES == 0:
            yield
    return left


def _is_folder_left(directory: int, name: str, mode: int) -> bool:
    """Remove a file, or a folder that is empty; True when a folder is still there."""
    try:
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=directory)
            return False
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    except OSError:
        return stat.S_ISDIR(mode)
    return False
