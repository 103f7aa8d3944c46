"""The bytes of the spool: frames that are whole or not there, however the writer died.

A frame is one atomic step: some records with consecutive sequences, and the marks that are true once they
are written (up to which byte a log was read). Layout: length and CRC-32 as two little-endian 32-bit
numbers, one line of JSON, then the bodies of the records one after the other.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Mark = Mapping[str, int]
"""What is known about one key, for example how far its log was read."""

FRAME_BYTES_MAX = 16 * 1024 * 1024
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class SpoolRecord:
    """One batch on its way to the log."""

    sequence: int
    """Gapless from 1 within the spool."""
    kind: str
    """Last token of its subject: "log", "metric", "gpu", "host" or "missing"."""
    body: bytes = field(repr=False)
    """A serialised envelope."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One atomic step of the spool."""

    first_sequence: int
    """Sequence of the first record; of the next one to come when there is none."""
    records: tuple[SpoolRecord, ...]
    marks: Mapping[str, Mark | None]
    """Marks that this step sets; None forgets one."""
    bytes_count: int
    """Length on the disk."""

    @property
    def last_sequence(self) -> int:
        """Sequence of the last record; of the one before when there is none."""
        return self.first_sequence + len(self.records) - 1


def encode_frame(
    first_sequence: int, records: Sequence[tuple[str, bytes]], marks: Mapping[str, Mark | None]
) -> bytes:
    """Write one frame; ``records`` are (kind, body).

    Raises:
        ValueError: the frame is larger than ``FRAME_BYTES_MAX``.
    """
    sizes = [[kind, len(body)] for kind, body in records]
    header = json.dumps({"first": first_sequence, "records": sizes, "marks": marks}).encode()
    payload = b"".join([header, b"\n", *(body for _, body in records)])
    if len(payload) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {len(payload)} bytes, at most {FRAME_BYTES_MAX}")
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def decode_frames(content: bytes) -> Iterator[Frame]:
    """Read frames up to the first byte that does not belong to a whole one."""
    offset = 0
    while len(content) - offset >= _HEAD.size:
        length, checksum = _HEAD.unpack_from(content, offset)
        payload = content[offset + _HEAD.size : offset + _HEAD.size + length]
        # Zeros are what a torn write may leave; a frame without a payload is never written.
        if length == 0 or len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield _decode(payload)
        offset += _HEAD.size + length


def _decode(payload: bytes) -> Frame:
    start = payload.index(b"\n") + 1
    header = json.loads(payload[:start])
    records = []
    for index, (kind, size) in enumerate(header["records"]):
        records.append(SpoolRecord(header["first"] + index, kind, payload[start : start + size]))
        start += size
    return Frame(header["first"], tuple(records), header["marks"], _HEAD.size + len(payload))
