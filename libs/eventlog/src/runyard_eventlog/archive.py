"""Reads sealed segments out of their store; ``archived_log`` puts them under a log."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Corrupt
from runyard_eventlog.archive_store import ArchiveStore
from runyard_eventlog.manifest import LANE_NAMES, Manifest, SegmentName
from runyard_eventlog.segment_file import SegmentColumns

SEGMENTS_KEPT = 8
"""Decoded segments that stay in memory, a few megabytes each."""


class Archive:
    """The sealed segments of a store."""

    def __init__(self, store: ArchiveStore) -> None:
        """Read from a store; nothing is asked before it is needed."""
        self.store = store
        self._names: dict[str, list[SegmentName]] = {}
        self._recent: OrderedDict[SegmentName, SegmentColumns] = OrderedDict()

    async def names(self, lane: Lane.ValueType) -> list[SegmentName]:
        """List the segments of a lane that have a manifest, by number."""
        keys = await self.store.list(f"{LANE_NAMES[lane]}/")
        found = [SegmentName.parse(key) for key in keys if key.endswith(".json")]
        self._names[LANE_NAMES[lane]] = sorted(name for name in found if name is not None)
        return self._names[LANE_NAMES[lane]]

    async def manifest(self, name: SegmentName) -> Manifest:
        """Read a segment's manifest.

        Raises:
            Corrupt: it is missing, malformed, or of another segment.
        """
        content = await self.store.get(name.manifest)
        if content is None:
            raise Corrupt(f"the archive has no {name.manifest}", code="SEGMENT_MISSING")
        manifest = Manifest.of_json(content)
        if manifest.name != name:
            raise Corrupt(f"{name.manifest} is the manifest of {manifest.name}", code="BAD_MANIFEST")
        return manifest

    async def segment_at(self, lane: Lane.ValueType, position: int) -> SegmentName:
        """Find the segment that holds a position.

        Raises:
            Corrupt: none does.
        """
        known = self._names.get(LANE_NAMES[lane], [])
        for names in (known, None):
            for name in await self.names(lane) if names is None else names:
                if name.first_position <= position <= name.last_position:
                    return name
        raise Corrupt(
            f"position {position} of lane {LANE_NAMES[lane]} is neither in the database nor in the archive",
            code="SEGMENT_MISSING",
            metadata={"lane": LANE_NAMES[lane], "position": str(position)},
        )

    async def columns(self, name: SegmentName) -> SegmentColumns:
        """Read the events of a segment; the last few stay in memory.

        Raises:
            Corrupt: the file is missing, or is not the one that was sealed.
        """
        if name in self._recent:
            self._recent.move_to_end(name)
            return self._recent[name]
        manifest = await self.manifest(name)
        content = await self.store.get(name.parquet)
        if content is None:
            raise Corrupt(f"the archive has no {name.parquet}", code="SEGMENT_MISSING")
        columns = await asyncio.to_thread(_checked, manifest, content)
        self._recent[name] = columns
        while len(self._recent) > SEGMENTS_KEPT:
            self._recent.popitem(last=False)
        return columns


def _checked(manifest: Manifest, content: bytes) -> SegmentColumns:
    if hashlib.sha256(content).hexdigest() != manifest.parquet_sha256:
        raise Corrupt(
            f"{manifest.name.parquet} is not the file that was sealed: runyard history verify says where",
            code="BAD_SEGMENT_FILE",
        )
    columns = SegmentColumns.of_parquet(content)
    if list(columns.positions) != list(range(manifest.first_position, manifest.last_position + 1)):
        raise Corrupt(f"{manifest.name.parquet} does not hold its positions", code="BAD_SEGMENT_FILE")
    return columns
