"""Seals segments: events of a lane go to the archive under a signed Merkle root, and an event says so.

The steps are the Parquet file, the leaf hashes, the manifest, the event. Each may be the last one before a
kill: the next attempt finds what is there, by names that say the positions, and goes on with that segment.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import CommandId, deterministic_id
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import Corrupt
from runyard_core.merkle import merkle_root
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import ArchiveStore
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.manifest import FIRST_PREVIOUS_ROOT, LANE_NAMES, Manifest, SegmentName, segment_root
from runyard_eventlog.port import AppendCommand, EventLog, StreamAppend
from runyard_eventlog.segment_file import SegmentColumns
from runyard_eventlog.segment_seals import SealingSettings, last_sealed, next_segment, seal_of, seal_stream
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_event import StoredEvent
from runyard_eventlog.stored_log import SEAL_TYPE, StoredLog

_log = logging.getLogger(__name__)


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

    async def seal_due(self, lane: Lane.ValueType) -> int:
        """Seal every segment of a lane that is due; gives how many.

        Raises:
            Corrupt: see ``seal_next``.
            Conflict: see ``seal_next``.
            Unavailable: the log or the archive does not answer.
        """
        count = 0
        while (sealed := await self.seal_next(lane)) is not None:
            _log.info("sealed segment %s of %d events", sealed.name, sealed.event_count)
            count += 1
        return count

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
            name = await self._begun(lane, last) or await next_segment(
                self._stored, lane, last, self._settings, self._clock.now()
            )
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
                f"{head}. Was it restored to an earlier time? Then move what was sealed after that elsewhere",
                code="ARCHIVE_AHEAD",
            )
        return name

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
                    "Was the log restored to an earlier time? Then move what was sealed after that elsewhere",
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


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="microseconds")
