"""What is known of one sealed segment: its place in the chain, its root and the signature over both.

segment_root = SHA-256(0x02, root, previous_segment_root, length of the lane's name (1 byte), the name,
first_position, last_position, event_count (8 bytes each, big-endian)). The first segment's previous root is
32 zero bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Corrupt

FORMAT = "runyard-segment-v1"
FIRST_PREVIOUS_ROOT = bytes(32)
"""Stands for the segment before the first."""
LANE_NAMES: Mapping[Lane.ValueType, str] = {Lane.LANE_DOMAIN: "domain", Lane.LANE_TELEMETRY: "telemetry"}
"""Lane -> its name in files, streams and roots."""
LANES: Mapping[str, Lane.ValueType] = {name: lane for lane, name in LANE_NAMES.items()}

_ROOT_PREFIX = b"\x02"
_NAME = re.compile(r"(?P<lane>domain|telemetry)/(?P<number>\d{8,})-(?P<first>\d{12,})-(?P<last>\d{12,})")
_HEX_LENGTHS = {
    "root": 64,
    "previous_segment_root": 64,
    "segment_root": 64,
    "parquet_sha256": 64,
    "key_id": 16,
    "signature": 128,
}


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """Names the objects of a segment: ``domain/00000002-000000010001-000000020000`` and an ending."""

    lane: str
    number: int
    """From 1 in each lane."""
    first_position: int
    last_position: int

    def __str__(self) -> str:
        """Give the name without an ending."""
        return f"{self.lane}/{self.number:08d}-{self.first_position:012d}-{self.last_position:012d}"

    @property
    def parquet(self) -> str:
        """The object with the events."""
        return f"{self}.parquet"

    @property
    def leaves(self) -> str:
        """The object with the leaf hashes, 32 bytes each."""
        return f"{self}.leaves"

    @property
    def manifest(self) -> str:
        """The object with the manifest; written last, so where it is the others are."""
        return f"{self}.json"

    @classmethod
    def parse(cls, key: str) -> SegmentName | None:
        """Read the name out of an object key; None when it is of something else."""
        found = _NAME.fullmatch(key.rpartition(".")[0])
        if found is None:
            return None
        return cls(found["lane"], int(found["number"]), int(found["first"]), int(found["last"]))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One sealed segment."""

    lane: str
    number: int
    first_position: int
    last_position: int
    event_count: int
    root: str
    """Merkle root (RFC 6962) over the events' canonical bytes, hexadecimal as all hashes here."""
    previous_segment_root: str
    segment_root: str
    key_id: str
    signature: str
    """Ed25519 over ``runyard segment root v1``, a line feed and the 32 bytes of the segment root."""
    first_recorded_at: str
    last_recorded_at: str
    """RFC 3339, UTC. This and what follows is not signed: verification compares it with the events."""
    parquet_sha256: str
    parquet_bytes: int

    @property
    def name(self) -> SegmentName:
        """The name of its objects."""
        return SegmentName(self.lane, self.number, self.first_position, self.last_position)

    def computed_segment_root(self) -> bytes:
        """Compute the segment root from what it is over."""
        return segment_root(
            bytes.fromhex(self.root),
            bytes.fromhex(self.previous_segment_root),
            self.lane,
            self.first_position,
            self.last_position,
            self.event_count,
        )

    def to_json(self) -> bytes:
        """Write it; the same segment always gives the same bytes."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def of_json(cls, data: bytes) -> Manifest:
        """Read what ``to_json`` wrote.

        Raises:
            Corrupt: it is something else.
        """
        try:
            return cls.of_mapping(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise Corrupt(f"a segment's manifest is not JSON: {error}", code="BAD_MANIFEST") from error

    @classmethod
    def of_mapping(cls, found: object) -> Manifest:
        """Read it from parsed JSON.

        Raises:
            Corrupt: a field is missing, unknown or malformed.
        """
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise Corrupt(f"not a segment's manifest: no format {FORMAT!r}", code="BAD_MANIFEST")
        fields = {name: value for name, value in found.items() if name != "format"}
        try:
            manifest = cls(**fields)
        except TypeError as error:
            raise Corrupt(f"not a segment's manifest: {error}", code="BAD_MANIFEST") from error
        for name, kind in cls.__annotations__.items():
            value = fields[name]
            if type(value).__name__ != kind:
                raise Corrupt(f"a segment's manifest: {name} is {value!r}", code="BAD_MANIFEST")
            if name in _HEX_LENGTHS and not re.fullmatch(f"[0-9a-f]{{{_HEX_LENGTHS[name]}}}", str(value)):
                raise Corrupt(f"a segment's manifest: {name} is {value!r}", code="BAD_MANIFEST")
            if kind == "int" and not 0 <= value < 2**63:
                raise Corrupt(f"a segment's manifest: {name} is {value!r}", code="BAD_MANIFEST")
        if manifest.lane not in LANES:
            raise Corrupt(f"a segment's manifest: lane is {manifest.lane!r}", code="BAD_MANIFEST")
        return manifest


def segment_root(root: bytes, previous: bytes, lane: str, first: int, last: int, count: int) -> bytes:
    """Chain a segment to the one before it."""
    name = lane.encode()
    numbers = b"".join(number.to_bytes(8, "big") for number in (first, last, count))
    return hashlib.sha256(_ROOT_PREFIX + root + previous + bytes([len(name)]) + name + numbers).digest()
