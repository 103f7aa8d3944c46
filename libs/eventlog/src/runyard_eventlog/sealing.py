"""Seals segments: events of a lane go to the archive under a signed Merkle root, and an event says so.

The steps are the Parquet file, the leaf hashes, the manifest, the event. Each may be the last one before a
kill: the next attempt finds what is there, by names that say the positions, and goes on with that segment.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, StreamName, deterministic_id, stream_name
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import Conflict, Corrupt, Unavailable
from runyard_core.merkle import merkle_root
from runyard_eventlog.archive import Archive, ArchivedEventLog
from runyard_eventlog.archive_store import ArchiveStore
from runyard_eventlog.manifest import FIRST_PREVIOUS_ROOT, LANE_NAMES, Manifest, SegmentName, segment_root
from runyard_eventlog.port import AppendCommand, EventFilter, EventLog, StreamAppend
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_event import StoredEvent
from runyard_eventlog.stored_log import SEAL_TYPE, StoredLog

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SealingSettings:
    """When a segment is full."""

    events_max: int = 10_000
    """Most events of a segment."""
    bytes_max: int = 32 * 1024 * 1024
    """Most payload bytes, unless one event alone has more. Sealing needs some five times as much memory."""
    age_max: timedelta = timedelta(minutes=10)
    """Age of the oldest unsealed event at which a segment is sealed although it is not full."""
    look_seconds: float = 30.0
    """Time between two looks at the log."""


class Sealer:
    """Seals both lanes of a log; of several at once, one at a time works on a lane."""

    def __init__(
        self,
        log: EventLog,
        stored: StoredLog,
        store: ArchiveStore,
        key: SigningKey,
        *,
        settings: SealingSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            log: as a role that may append to category ``log`` (runyard_lineage).
            stored: the rows of the same log.
            store: where segments go.
            key: signs them.
            settings: when a segment is full.
            clock: tells ages.
        """
        self._log = ArchivedEventLog(log, stored, Archive(store))
        self._stored = stored
        self._store = store
        self._key = key
        self._settings = settings or SealingSettings()
        self._clock = clock or SystemClock()
        self._is_key_published = False
        self.stopped: dict[Lane.ValueType, Corrupt] = {}
        """Lanes that are not sealed any more, and why: a person must look."""

    async def run(self) -> None:
        """Seal for ever; wait for an absent engine, and leave alone a lane whose archive is not its log's."""
        while True:
            for lane in LANE_NAMES:
                if lane not in self.stopped:
                    await self._seal_all(lane)
            await asyncio.sleep(self._settings.look_seconds)

    async def _seal_all(self, lane: Lane.ValueType) -> None:
        try:
            while (sealed := await self.seal_next(lane)) is not None:
                _log.info("sealed segment %s of %d events", sealed.name, sealed.event_count)
        except (Unavailable, Conflict) as error:
            _log.warning("sealing of lane %s: again in a while: %s", LANE_NAMES[lane], error)
        except Corrupt as error:
            _log.critical("sealing of lane %s stopped: %s", LANE_NAMES[lane], error)
            self.stopped[lane] = error

    async def seal_next(self, lane: Lane.ValueType) -> Manifest | None:
        """Seal the next segment of a lane; None when there is none to seal, or somebody else is at it.

        Raises:
            Corrupt: the archive holds something that this log did not make, or the log lacks a position.
            Conflict: somebody else sealed the same segment meanwhile.
            Unavailable: the log or the archive does not answer.
        """
        async with self._stored.sealing(lane) as is_ours:
            if not is_ours:
                return None
            last = await last_sealed(self._log, lane)
            name = await self._begun(lane, last) or await self._cut(lane, last)
            if name is None:
                return None
            await self._publish_key()
            return await self._seal(name, lane, last)

    async def _begun(self, lane: Lane.ValueType, last: LogSegmentSealed) -> SegmentName | None:
        """Find the segment that a former attempt began and did not end."""
        keys = await self._store.list(f"{LANE_NAMES[lane]}/{last.number + 1:08d}-")
        found = [(not key.endswith(".json"), name) for key in keys if (name := SegmentName.parse(key))]
        if not found:
            return None
        _, name = min(found)
        head = await self._stored.head(lane)
        if name.first_position != last.last_position + 1 or name.last_position > head:
            raise Corrupt(
                f"the archive holds {name}, but this log is sealed to {last.last_position} and ends at "
                f"{head}. Was it restored to an earlier time? Then give it an archive of its own",
                code="ARCHIVE_AHEAD",
            )
        return name

    async def _cut(self, lane: Lane.ValueType, last: LogSegmentSealed) -> SegmentName | None:
        """Decide where the next segment ends, if it is time for one."""
        settings, after = self._settings, last.last_position
        tail = await self._stored.tail(lane, after, settings.events_max)
        if tail.first_recorded_at is None:
            return None
        end = await self._stored.cut(lane, after, settings.events_max, settings.bytes_max)
        is_full = end - after == settings.events_max or end < tail.head
        is_old = self._clock.now() - tail.first_recorded_at >= settings.age_max
        # Sealing appends an event itself, which alone is no reason to seal again.
        if is_full or (is_old and not tail.is_only_seals):
            return SegmentName(LANE_NAMES[lane], last.number + 1, after + 1, end)
        return None

    async def _seal(self, name: SegmentName, lane: Lane.ValueType, last: LogSegmentSealed) -> Manifest:
        events = await self._stored.read(lane, name.first_position, name.last_position)
        previous = bytes.fromhex(last.segment_root) if last.number else FIRST_PREVIOUS_ROOT
        manifest, parquet, leaves = await asyncio.to_thread(build, name, lane, events, previous, self._key)
        there = await self._store.get(name.manifest)
        if there is None:
            await self._store.put(name.parquet, parquet)
            await self._store.put(name.leaves, leaves)
            await self._store.put(name.manifest, manifest.to_json())
        else:
            begun = Manifest.of_json(there)
            if begun.segment_root != manifest.segment_root:
                raise Corrupt(
                    f"the archive holds {name} with other events than the log has. "
                    "Was the log restored to an earlier time? Then give it an archive of its own",
                    code="ARCHIVE_DIFFERS",
                )
            manifest = begun
        await self._append(manifest)
        return manifest

    async def _append(self, manifest: Manifest) -> None:
        stream = seal_stream(manifest.lane)
        identity = deterministic_id(SEAL_TYPE, manifest.lane, manifest.number, manifest.segment_root)
        context = Context(parse_actor("service:lineage"), correlation_id=identity, source="/lineage")
        event = wrap(seal_of(manifest), stream, context, self._clock.now())
        await self._log.append(
            AppendCommand(
                CommandId(identity),
                [StreamAppend(stream, manifest.number - 1, [event])],
                request_digest=bytes.fromhex(manifest.segment_root),
            )
        )

    async def _publish_key(self) -> None:
        if not self._is_key_published:
            await self._store.put(f"keys/{self._key.public.key_id}.pem", self._key.public.pem)
            self._is_key_published = True


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


def build(
    name: SegmentName, lane: Lane.ValueType, events: Sequence[StoredEvent], previous: bytes, key: SigningKey
) -> tuple[Manifest, bytes, bytes]:
    """Make a segment: its manifest, its Parquet file, its leaf hashes one after the other.

    Raises:
        Corrupt: the events are not those of the positions that the name says.
    """
    positions = range(name.first_position, name.last_position + 1)
    if [event.position for event in events] != list(positions):
        missing = sorted(set(positions) - {event.position for event in events})
        raise Corrupt(
            f"the log lacks positions of {name}, the first is {missing[:1]}", code="POSITION_MISSING"
        )
    columns = SegmentColumns.of_events(events)
    leaves = columns.leaf_hashes(lane)
    parquet = columns.to_parquet()
    if SegmentColumns.of_parquet(parquet).leaf_hashes(lane) != leaves:
        raise Corrupt(
            f"the file of {name} does not give back the events put into it", code="BAD_SEGMENT_FILE"
        )
    root = merkle_root(leaves)
    chained = segment_root(root, previous, name.lane, name.first_position, name.last_position, len(events))
    manifest = Manifest(
        lane=name.lane,
        number=name.number,
        first_position=name.first_position,
        last_position=name.last_position,
        event_count=len(events),
        root=root.hex(),
        previous_segment_root=previous.hex(),
        segment_root=chained.hex(),
        key_id=key.public.key_id,
        signature=key.sign(chained).hex(),
        first_recorded_at=_text(events[0].recorded_at),
        last_recorded_at=_text(events[-1].recorded_at),
        parquet_sha256=hashlib.sha256(parquet).hexdigest(),
        parquet_bytes=len(parquet),
    )
    return manifest, parquet, b"".join(leaves)


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
