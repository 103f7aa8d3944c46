"""Whether the files of all inputs fit into the one event that names them: looked at before any is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runyard.run.v1.types_pb2 import FileList, Input, InputFile
from runyard_core.errors import InvalidInput

RECORD_BYTES_MAX = 1_020_000
"""Names, hashes and sizes of all inputs of an attempt. An event holds 1,044,480 bytes, with the hardware."""

LISTED_BYTES = 300
"""What an input takes without its files, where the record has the stored list of them."""

_SHA256 = "0" * 64
_SIZE_BYTES = 1 << 34
"""Stands for a size that nobody knows yet; up to 32 GiB none takes more."""
_BYTES_OF_EACH = 4
"""What a list adds to an entry."""


@dataclass(slots=True)
class Listed:
    """An input, and what it takes in the record once its files are fetched."""

    name: str
    uri: str
    """Of its first file."""
    size_bytes: int
    files: list[int] = field(default_factory=list)
    """What each file takes."""

    @property
    def total_bytes(self) -> int:
        """All that it takes."""
        return self.size_bytes + sum(self.files)


def input_bytes(one: Input) -> int:
    """Give what an input takes without its files."""
    bare = Input()
    bare.CopyFrom(one)
    del bare.files[:]
    return bare.ByteSize() + _BYTES_OF_EACH


def file_bytes(file: InputFile, path: str) -> int:
    """Give what a file takes once it was fetched to a path below its input."""
    fetched = InputFile()
    fetched.CopyFrom(file)
    fetched.path = path
    fetched.sha256 = file.sha256 or _SHA256
    fetched.size_bytes = file.size_bytes or _SIZE_BYTES
    fetched.moved_bytes = fetched.size_bytes
    return fetched.ByteSize() + _BYTES_OF_EACH


def has_room(inputs: Sequence[Input]) -> bool:
    """Say whether one event names all files of fetched inputs."""
    return sum(one.ByteSize() + _BYTES_OF_EACH for one in inputs) <= RECORD_BYTES_MAX


def first_files(one: Input, others: Sequence[Input], file_list: FileList) -> Input:
    """Give an input with as many of its files as one event names beside the others, and the list of all."""
    first = Input()
    first.CopyFrom(one)
    del first.files[:]
    del first.uris[:]
    first.file_list.CopyFrom(file_list)
    room = RECORD_BYTES_MAX - LISTED_BYTES - sum(each.ByteSize() + _BYTES_OF_EACH for each in others)
    uris: dict[str, None] = {}
    for file in one.files:
        room -= file.ByteSize() + _BYTES_OF_EACH
        if file.uri not in uris:
            room -= len(file.uri.encode()) + _BYTES_OF_EACH
        if room < 0:
            break
        uris[file.uri] = None
        first.files.append(file)
    first.uris.extend(uris)
    return first


def without_room(inputs: Sequence[Listed]) -> tuple[Listed, InvalidInput] | None:
    """Give the input that takes most of the record, and why it cannot be had; None when all have room."""
    size_bytes = sum(each.total_bytes for each in inputs)
    if size_bytes <= RECORD_BYTES_MAX:
        return None
    largest = max(inputs, key=lambda each: each.total_bytes)
    return largest, InvalidInput(
        f"it has {len(largest.files)} files, and names and hashes of all input files take {size_bytes} "
        f"bytes; one record holds {RECORD_BYTES_MAX}: pack them into fewer files, or mount their folder",
        code="TOO_MANY_INPUT_FILES",
    )
