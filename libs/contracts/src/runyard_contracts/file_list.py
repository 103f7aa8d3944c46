"""The text of a stored list of files, for what one event cannot name: see ``FileList`` of the contracts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runyard_contracts.manifest import escaped_path, unescaped_path


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A line of a list."""

    path: str
    sha256: str
    size_bytes: int


def format_file_list(files: Iterable[ListedFile]) -> bytes:
    r"""Write the text of a list: a line ``<sha256> <size> <path>\n`` a file, by path bytes, then hash."""
    ordered = sorted(files, key=lambda file: (file.path.encode(), file.sha256))
    lines = (f"{file.sha256} {file.size_bytes} {escaped_path(file.path)}\n" for file in ordered)
    return "".join(lines).encode()


def parse_file_list(content: bytes) -> list[ListedFile]:
    """Read a list.

    Raises:
        ValueError: it is none.
    """
    files = []
    for line in content.decode().split("\n")[:-1]:
        sha256, size, path = line.split(" ", 2)
        files.append(ListedFile(unescaped_path(path), sha256, int(size)))
    return files
