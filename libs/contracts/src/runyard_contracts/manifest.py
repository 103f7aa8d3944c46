"""The canonical manifest of a code tree: its text is the tree's identity, so it has exactly one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from runyard_contracts.ids import Sha256, is_sha256, sha256_of

PATH_BYTES_MAX = 4096
PATH_PART_BYTES_MAX = 255

_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_UNESCAPED = {"n": "\n", "\\": "\\"}


class Mode(StrEnum):
    """What an entry is, in the words of git."""

    FILE = "100644"
    EXECUTABLE = "100755"
    SYMLINK = "120000"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree."""

    path: str
    """Relative to the root, with forward slashes; see ``check_path``."""
    mode: Mode
    """Plain file, executable file, or symlink (whose content is its target)."""
    sha256: Sha256
    """Hash of the content."""
    size_bytes: int
    """Length of the content."""


class ManifestError(ValueError):
    """A manifest, or an entry of one, that breaks the rules. The message says which and where."""


def check_path(path: str) -> None:
    """Hold that a path stays inside its tree and can be written on every node.

    Relative, no empty, "." or ".." part, no ".git" part, no NUL, UTF-8, at most 4096 bytes and 255 a part.

    Raises:
        ManifestError: it does not.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise ManifestError(f"path {path!r}: not valid UTF-8; rename the file or ignore it") from None
    if len(encoded) > PATH_BYTES_MAX:
        raise ManifestError(f"path {path[:80]!r}...: over {PATH_BYTES_MAX} bytes long")
    if "\0" in path:
        raise ManifestError(f"path {path!r}: has a NUL character")
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            raise ManifestError(f'path {path!r}: must be relative, without empty, "." or ".." parts')
        # A checkout's .git is executable by way of hooks and configuration; git refuses it too.
        if part.lower() == ".git":
            raise ManifestError(f'path {path!r}: ".git" cannot be part of a code tree')
        if len(part.encode()) > PATH_PART_BYTES_MAX:
            raise ManifestError(f"path {path!r}: a part is over {PATH_PART_BYTES_MAX} bytes long")


def format_manifest(entries: Iterable[Entry]) -> bytes:
    r"""Write the canonical text: one line ``<mode> <sha256> <size> <path>\n`` an entry, sorted by path bytes.

    Raises:
        ManifestError: an entry is malformed, a path comes twice, or one path is a directory of another.
    """
    ordered = sorted(entries, key=_sort_key)
    for entry in ordered:
        _check_entry(entry)
    _check_tree(ordered)
    return "".join(_format_line(entry) for entry in ordered).encode()


def parse_manifest(data: bytes) -> tuple[Entry, ...]:
    """Read a canonical manifest. Accepts exactly what ``format_manifest`` writes.

    Raises:
        ManifestError: anything else, naming the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"manifest: not UTF-8 at byte {error.start}") from None
    if text and not text.endswith("\n"):
        raise ManifestError("manifest: the last line has no newline; it was cut")
    entries = tuple(_parse_lines(text))
    keys = [_sort_key(entry) for entry in entries]
    for number, (former, later) in enumerate(pairwise(keys), start=2):
        if former > later:
            raise ManifestError(f"manifest line {number}: not sorted by path")
    _check_tree(entries)
    return entries


def tree_sha256(entries: Iterable[Entry]) -> Sha256:
    """Give the identity of a tree: the SHA-256 of its canonical manifest.

    Raises:
        ManifestError: as ``format_manifest``.
    """
    return sha256_of(format_manifest(entries))


def escaped_path(path: str) -> str:
    """Write a path so that it takes one line."""
    return path.replace("\\", "\\\\").replace("\n", "\\n")


def unescaped_path(text: str) -> str:
    """Read what ``escaped_path`` wrote.

    Raises:
        ManifestError: it wrote no such text.
    """

    def replacement(match: re.Match[str]) -> str:
        try:
            return _UNESCAPED[match.group(1)]
        except KeyError:
            raise ManifestError(f"unknown escape {match.group(0)!r}") from None

    return _ESCAPE.sub(replacement, text)


def _sort_key(entry: Entry) -> bytes:
    return entry.path.encode("utf-8", "surrogatepass")


def _check_entry(entry: Entry) -> None:
    check_path(entry.path)
    if not is_sha256(entry.sha256):
        raise ManifestError(f"path {entry.path!r}: not a SHA-256: {entry.sha256!r}")
    if _SIZE.fullmatch(str(entry.size_bytes)) is None:
        raise ManifestError(f"path {entry.path!r}: not a size: {entry.size_bytes!r}")


def _check_tree(entries: Iterable[Entry]) -> None:
    seen: set[str] = set()
    directories: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            raise ManifestError(f"path {entry.path!r}: comes twice")
        seen.add(entry.path)
        parent = entry.path.rpartition("/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            parent = parent.rpartition("/")[0]
    # A file, or worse a symlink, that is also a directory would let an entry be written outside the tree.
    for clash in sorted(seen & directories):
        raise ManifestError(f"path {clash!r}: is both a file and a directory")


def _format_line(entry: Entry) -> str:
    return f"{entry.mode.value} {entry.sha256} {entry.size_bytes} {escaped_path(entry.path)}\n"


def _parse_lines(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        fields = line.split(" ", 3)
        if len(fields) != 4:
            raise ManifestError(f'manifest line {number}: want "<mode> <sha256> <size> <path>"')
        mode, digest, size, path = fields
        if mode not in set(Mode):
            raise ManifestError(f"manifest line {number}: unknown mode {mode!r}")
        if _SIZE.fullmatch(size) is None:
            raise ManifestError(f"manifest line {number}: not a size: {size!r}")
        try:
            entry = Entry(unescaped_path(path), Mode(mode), Sha256(digest), int(size))
            _check_entry(entry)
        except ManifestError as error:
            raise ManifestError(f"manifest line {number}: {error}") from None
        yield entry
