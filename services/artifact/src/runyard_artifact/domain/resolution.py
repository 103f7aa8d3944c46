"""Turns resolved references into the files of an input, each at its place below the input's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runyard.run.v1.types_pb2 import Input, InputFile

_KEEPS_DIRECTORIES = frozenset({"suffix", "full"})


@dataclass(frozen=True, slots=True)
class ResolvedFile:
    """A file that a reference stands for."""

    uri: str
    sha256: str
    name: str
    """Path below the outputs directory that it came from."""
    size_bytes: int
    resolved_uri: str = ""
    """What a name that moves stood for; empty when ``uri`` says it already."""


def place_files(wanted: Input, resolved: Sequence[ResolvedFile]) -> Input:
    """Give the input with the resolved files filled in; references that were not resolved stay as they are.

    A file goes by its own name, without directories unless the input keeps them; ``filename`` renames
    the file of an input that has only one reference. Of several files with one path all are given, in the
    order of their references: whoever lays them out lets the last one stay, as the run contract says.
    """
    placed = Input()
    placed.CopyFrom(wanted)
    del placed.files[:]
    placed.files.extend(
        InputFile(
            uri=file.uri,
            path=_path(wanted, file),
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            resolved_uri=file.resolved_uri,
        )
        for file in resolved
    )
    return placed


def _path(wanted: Input, file: ResolvedFile) -> str:
    if wanted.filename and len(wanted.uris) == 1:
        return wanted.filename
    if wanted.keep_directories in _KEEPS_DIRECTORIES:
        return file.name
    return file.name.rpartition("/")[2]
