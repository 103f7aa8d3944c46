"""Typed identifiers, and the two ways to make one: in order of time, or from what it names."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from typing import NewType

RunId = NewType("RunId", str)
NodeId = NewType("NodeId", str)
LeaseId = NewType("LeaseId", str)
EventId = NewType("EventId", str)
CommandId = NewType("CommandId", str)
SpoolId = NewType("SpoolId", str)
StreamName = NewType("StreamName", str)
Sha256 = NewType("Sha256", str)
Position = NewType("Position", int)

# Namespace of every deterministic id of this system: uuid5 of the DNS name "runyard.events".
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "runyard.events")
_STREAM_NAME = re.compile(r"(?P<category>[a-z][a-z_]*)-(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,199})")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def uuid7() -> str:
    """Make an id that sorts by time of making, in canonical text form (RFC 9562, version 7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def deterministic_id(*parts: str | int) -> str:
    """Make the id that these parts always give (UUIDv5), in canonical text form."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in parts)))


def sha256_of(data: bytes) -> Sha256:
    """Hash bytes, as 64 lower-case hexadecimal digits."""
    return Sha256(hashlib.sha256(data).hexdigest())


def is_sha256(text: str) -> bool:
    """Say whether this is a whole SHA-256 in lower-case hexadecimal."""
    return _SHA256.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Say whether this may name a project or a node: 1 to 63 of a-z, 0-9 and "-", not starting with "-"."""
    return _NAME.fullmatch(text) is not None


def stream_name(category: str, stream_id: str) -> StreamName:
    """Name the stream of one thing: ``stream_name("run", run_id)``.

    Raises:
        ValueError: the category or id has a character that a stream name cannot carry.
    """
    name = f"{category}-{stream_id}"
    if _STREAM_NAME.fullmatch(name) is None:
        raise ValueError(f"not a stream name: {name!r}")
    return StreamName(name)


def stream_category(name: str) -> str:
    """Give the category of a stream name: "run" of "run-0198..."."""
    return name.partition("-")[0]


def stream_id(name: str) -> str:
    """Give the id of a stream name: "0198..." of "run-0198..."."""
    return name.partition("-")[2]
