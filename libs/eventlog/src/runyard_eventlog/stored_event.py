"""An event exactly as the log stores it, and the one byte string that stands for it in a Merkle tree.

Canonical bytes, all numbers big-endian: lane (2 bytes); position, version, after_position (8 each);
recorded_at (8, microseconds since 2000-01-01T00:00:00Z, as PostgreSQL counts); event id (16); the byte
lengths (4 each) of causation id (0 or 16), stream, type, correlation id, actor and payload; then these six in
that order, text as UTF-8. Nothing that the log stores of an event is left out, and no two events have the
same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Corrupt

HEADER = struct.Struct(">hqqqq16s6I")
"""Everything of the canonical bytes before the texts and the payload."""

RECORDED_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""What the canonical bytes count ``recorded_at`` from."""

_MICROSECOND = timedelta(microseconds=1)


class StoredEvent(NamedTuple):
    """One row of the log."""

    position: int
    after_position: int
    version: int
    recorded_at: datetime
    event_id: UUID
    causation_id: UUID | None
    stream: str
    type: str
    correlation_id: str
    actor: str
    payload: bytes
    """Serialised envelope without position, recorded_at and after_position."""


COLUMNS: Sequence[str] = StoredEvent._fields
"""The columns of ``log.event`` that make a ``StoredEvent``, in its order."""


def canonical_bytes(event: StoredEvent, lane: Lane.ValueType) -> bytes:
    """Write an event as the bytes that its leaf hash is over."""
    causation = event.causation_id.bytes if event.causation_id else b""
    texts = [text.encode() for text in (event.stream, event.type, event.correlation_id, event.actor)]
    body = (causation, *texts, event.payload)
    header = HEADER.pack(
        lane,
        event.position,
        event.version,
        event.after_position,
        (event.recorded_at - RECORDED_EPOCH) // _MICROSECOND,
        event.event_id.bytes,
        *map(len, body),
    )
    return b"".join((header, *body))


def parse_canonical(content: bytes) -> tuple[Lane.ValueType, StoredEvent]:
    """Read what ``canonical_bytes`` wrote.

    Raises:
        Corrupt: these are not the canonical bytes of an event.
    """
    try:
        lane, position, version, after_position, recorded, event_id, *lengths = HEADER.unpack_from(content)
        if lane not in (Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY):
            raise ValueError(f"no lane {lane}")
        if len(content) != HEADER.size + sum(lengths):
            raise ValueError(f"{len(content)} bytes, not {HEADER.size + sum(lengths)}")
        body, at = [], HEADER.size
        for length in lengths:
            body.append(content[at : at + length])
            at += length
        causation, stream, type_name, correlation, actor, payload = body
        event = StoredEvent(
            position=position,
            after_position=after_position,
            version=version,
            recorded_at=RECORDED_EPOCH + timedelta(microseconds=recorded),
            event_id=UUID(bytes=event_id),
            causation_id=UUID(bytes=causation) if causation else None,
            stream=stream.decode(),
            type=type_name.decode(),
            correlation_id=correlation.decode(),
            actor=actor.decode(),
            payload=payload,
        )
    except (struct.error, ValueError, OverflowError) as error:
        raise Corrupt(f"not the canonical bytes of an event: {error}", code="BAD_CANONICAL_BYTES") from error
    return lane, event
