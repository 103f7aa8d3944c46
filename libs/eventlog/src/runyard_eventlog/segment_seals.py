"""The events that say that a segment is sealed: their streams, what they hold, and when the next is due."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard_contracts.ids import StreamName, stream_name
from runyard_core.errors import Corrupt
from runyard_eventlog.manifest import LANE_NAMES, Manifest, SegmentName
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.stored_log import SEAL_TYPE, StoredLog


@dataclass(frozen=True, slots=True)
class SealingSettings:
    """When a segment is full."""

    events_max: int = 10_000
    """Most events of a segment."""
    bytes_max: int = 32 * 1024 * 1024
    """Most payload bytes, unless one event alone has more. Sealing needs some five times as much memory."""
    age_max: timedelta = timedelta(minutes=10)
    """Age of the oldest unsealed event at which a segment is sealed although it is not full."""


def seal_stream(lane_name: str) -> StreamName:
    """Name the stream of a lane's seals; its version is the number of the last segment."""
    return stream_name("log", lane_name)


async def last_sealed(log: EventLog, lane: Lane.ValueType) -> LogSegmentSealed:
    """Give the last seal of a lane; an empty one, number 0, when there is none.

    Raises:
        Corrupt: the stream of seals holds something else.
    """
    stream = seal_stream(LANE_NAMES[lane])
    wanted = EventFilter(types=[SEAL_TYPE], streams=[stream])
    page = await log.read(Lane.LANE_DOMAIN, filter=wanted, limit=1, descending=True)
    if not page.events:
        return LogSegmentSealed(segment_lane=LANE_NAMES[lane])
    (event,) = page.events
    message = event.message
    if not isinstance(message, LogSegmentSealed) or message.number != event.envelope.stream_version:
        raise Corrupt(f"stream {stream} is not one seal a segment at position {event.position}")
    return message


async def next_segment(
    stored: StoredLog,
    lane: Lane.ValueType,
    last: LogSegmentSealed,
    settings: SealingSettings,
    now: datetime,
) -> SegmentName | None:
    """Say which segment of a lane is due; None when it is too early for one.

    Raises:
        Unavailable: the log does not answer.
    """
    after = last.last_position
    tail = await stored.tail(lane, after, settings.events_max)
    if tail.first_recorded_at is None:
        return None
    end = await stored.cut(lane, after, settings.events_max, settings.bytes_max)
    is_full = end - after == settings.events_max or end < tail.head
    is_old = now - tail.first_recorded_at >= settings.age_max
    # Sealing appends an event itself, which alone is no reason to seal again.
    if is_full or (is_old and not tail.is_only_seals):
        return SegmentName(LANE_NAMES[lane], last.number + 1, after + 1, end)
    return None


def seal_of(manifest: Manifest) -> LogSegmentSealed:
    """Say in an event what a manifest says."""
    seal = LogSegmentSealed(
        segment_lane=manifest.lane,
        number=manifest.number,
        first_position=manifest.first_position,
        last_position=manifest.last_position,
        event_count=manifest.event_count,
        root=manifest.root,
        previous_segment_root=manifest.previous_segment_root,
        segment_root=manifest.segment_root,
        key_id=manifest.key_id,
        signature=bytes.fromhex(manifest.signature),
        object_key=manifest.name.parquet,
        parquet_sha256=manifest.parquet_sha256,
        parquet_bytes=manifest.parquet_bytes,
    )
    seal.first_recorded_at.FromDatetime(datetime.fromisoformat(manifest.first_recorded_at))
    seal.last_recorded_at.FromDatetime(datetime.fromisoformat(manifest.last_recorded_at))
    return seal


def manifest_of(seal: LogSegmentSealed) -> Manifest:
    """Give the manifest back that a seal was made of."""
    return Manifest(
        lane=seal.segment_lane,
        number=seal.number,
        first_position=seal.first_position,
        last_position=seal.last_position,
        event_count=seal.event_count,
        root=seal.root,
        previous_segment_root=seal.previous_segment_root,
        segment_root=seal.segment_root,
        key_id=seal.key_id,
        signature=seal.signature.hex(),
        first_recorded_at=_text(seal.first_recorded_at.ToDatetime(UTC)),
        last_recorded_at=_text(seal.last_recorded_at.ToDatetime(UTC)),
        parquet_sha256=seal.parquet_sha256,
        parquet_bytes=seal.parquet_bytes,
    )


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")
