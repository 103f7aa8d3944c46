"""The files of a version, line by line."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard_cli.table import Row, say_table
from runyard_cli.words import size_words


def say_files(files: Iterable[VersionFile]) -> None:
    """Write the files of a dataset version or model version."""
    say_table(("FILE", "SIZE", "REFERENCE"), file_rows(files), right=(1,))


def file_rows(files: Iterable[VersionFile]) -> list[Row]:
    """Give the lines of files."""
    return [(each.path, size_words(each.size_bytes), f"datum://{each.sha256}") for each in files]
