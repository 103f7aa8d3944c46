"""Looks through a folder: how many files, how large, and a fingerprint that tells a later change.

Imports the standard library only: it is also run as a program of its own, in a view of the file system in
which something is mounted that nobody else sees (``private_view``).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator

FILES_MAX = 100_000
"""Beyond so many files no fingerprint is taken."""


def look(root: str) -> tuple[int, int, str]:
    """Give number of files, their bytes, and the SHA-256 over path, size and time of change of each.

    The number and bytes of those looked at, and no fingerprint, when there are more than ``FILES_MAX``.
    """
    digest = hashlib.sha256()
    file_count = size_bytes = 0
    for path, stat in _files_below(root):
        if file_count == FILES_MAX:
            return file_count, size_bytes, ""
        file_count += 1
        size_bytes += stat.st_size
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return file_count, size_bytes, digest.hexdigest()


def _files_below(root: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            try:
                yield os.path.relpath(path, root), os.lstat(path)
            except FileNotFoundError:
                continue


if __name__ == "__main__":
    sys.stdout.write(json.dumps(look(sys.argv[1])) + "\n")
