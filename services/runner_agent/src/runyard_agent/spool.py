"""Keeps every telemetry batch on disk until the log has committed it.

One spool a node, with a random id and gapless sequences: together with the node they name each batch, so
that sending one again is always safe. Only what is on the disk (``fdatasync``) is given out to be sent: a
sequence that was ever sent never names other bytes, also after a power cut.

Segments are named by their first sequence; ``checkpoint.json`` holds the committed sequence and the marks,
so that segments can go. One process opens a spool at a time (the agent's folder is locked).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from runyard_agent.disk_reserve import Reserve, is_full
from runyard_agent.durable_files import write_atomically
from runyard_agent.spool_aside import set_aside
from runyard_agent.spool_file import Mark, SpoolRecord, decode_frames, encode_frame
from runyard_agent.spool_given import GivenOut
from runyard_agent.spool_segments import Segments
from runyard_agent.spool_thinning import expanded, thin_segment
from runyard_contracts.ids import SpoolId
from runyard_core.errors import Corrupt

logger = logging.getLogger(__name__)

SPOOL_BYTES_MAX = 1024 * 1024 * 1024
SEGMENT_BYTES = 4 * 1024 * 1024
_STALE_FILE = "stale"
_SYNC_SECONDS_MIN = 0.02
_CHECKPOINT_SECONDS_MIN = 10.0

MakeFiller = Callable[[SpoolId, int], tuple[str, bytes]]
"""Makes the record (kind, body) that stands for a sequence whose bytes a disk damaged."""


class Spool:
    """The batches that the log does not have yet, in order."""

    def __init__(
        self,
        directory: Path,
        make_filler: MakeFiller,
        *,
        bytes_max: int = SPOOL_BYTES_MAX,
        segment_bytes: int = SEGMENT_BYTES,
        node_id: str = "",
    ) -> None:
        """Open the spool of this folder, or begin one. A torn end is cut off, damage in between is filled."""
        if (directory / _STALE_FILE).exists():
            set_aside(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self.spool_id = self._load_identity()
        self.marks: dict[str, Mark] = {}
        """All marks, as of the last append."""
        self.committed_sequence = 0
        """The log has everything up to here."""
        self.next_sequence = 1
        """Sequence that the next record gets."""
        self._segments = Segments(directory)
        self._node_id = node_id
        self._recover(make_filler)
        self._segments.begin(self._segments.current)
        self.durable_sequence = self.next_sequence - 1
        """Everything up to here is on the disk."""
        self._cursor = (0, 0, 0)  # segment, offset of the next frame, its first sequence
        self._checkpointed_at = time.monotonic()
        self._thinned: set[int] = set()
        self._given = GivenOut(directory / "given", self.next_sequence - 1)
        self._reserve = Reserve(directory / "reserve", segment_bytes)
        self._appended = asyncio.Event()
        self._durable = asyncio.Condition()

    @property
    def has_room(self) -> bool:
        """False when producers must wait: the log has been out of reach for long."""
        return self._segments.all_bytes < self._bytes_max

    def append(
        self, records: Sequence[tuple[str, bytes]], marks: Mapping[str, Mark | None] | None = None
    ) -> int:
        """Write records (kind, body) and marks as one step: after a crash all of it is there, or nothing.

        The first record gets ``next_sequence``. The last one's sequence is returned. Where there is no room,
        the oldest samples that were never sent make some.

        Raises:
            OSError: the disk is full or broken; nothing was written.
        """
        frame = encode_frame(self.next_sequence, records, marks or {})
        try:
            self._put(frame)
        except OSError as error:
            if not is_full(error) or not self._make_room(len(frame)):
                raise
            self._put(frame)
        self.next_sequence += len(records)
        self._set_marks(marks or {})
        self._appended.set()
        if not self.has_room:
            self._make_room(self._bytes_max // 10)
        return self.next_sequence - 1

    async def keep_synced(self) -> None:
        """Put what was appended on the disk, in groups, until cancelled."""
        while True:
            await self._appended.wait()
            began_at = time.monotonic()
            await self.sync()
            # A record after a pause goes at once; of many, most share their sync with others.
            await asyncio.sleep(max(0.0, began_at + _SYNC_SECONDS_MIN - time.monotonic()))

    async def sync(self) -> None:
        """Put everything that was appended before this call on the disk."""
        self._appended.clear()
        sequence = self.next_sequence - 1
        # A copy: a rotation may close the segment meanwhile.
        descriptor = self._segments.copy_descriptor()
        try:
            await asyncio.to_thread(os.fdatasync, descriptor)
        finally:
            os.close(descriptor)
        async with self._durable:
            self.durable_sequence = max(self.durable_sequence, sequence)
            self._durable.notify_all()

    async def wait_for_durable(self, sequence: int) -> bool:
        """Wait until this sequence is on the disk."""
        async with self._durable:
            return await self._durable.wait_for(lambda: self.durable_sequence >= sequence)

    def read(self, after_sequence: int) -> list[SpoolRecord]:
        """Give the next records that are on the disk, about a megabyte of them; none when there are none."""
        wanted = max(after_sequence, self.committed_sequence) + 1
        if wanted > self.durable_sequence:
            return []
        segment, offset, first = self._cursor
        if segment not in self._segments.sizes or first != wanted:
            segment, offset = self._segments.holding(wanted), 0
        records: list[SpoolRecord] = []
        while not records:
            frames = self._segments.read_frames(segment, offset)
            if not frames:
                following = self._segments.after(segment)
                if following is None:
                    break
                segment, offset = following, 0
            for frame in frames:
                if frame.last_sequence > self.durable_sequence:
                    break
                offset += frame.bytes_count
                records += [record for record in frame.records if record.sequence >= wanted]
            else:
                continue
            break
        if records:
            self._cursor = (segment, offset, records[-1].sequence + 1)
            self._given.note(records[-1].sequence)
        return [expanded(record, self._node_id, self.spool_id) for record in records]

    def commit(self, sequence: int) -> None:
        """Take note that the log has everything up to here; segments that nobody needs any more go.

        Raises:
            Corrupt: SPOOL_IS_OLD, the log has more than was ever written here: new batches would be taken
                for known ones. Open the spool again; it begins anew, and logs are read again from the start.
        """
        if sequence <= self.committed_sequence:
            return
        if sequence >= self.next_sequence:
            (self._directory / _STALE_FILE).touch()
            raise Corrupt(
                f"the log has batch {sequence} of spool {self.spool_id}, but {self._directory} ends at"
                f" {self.next_sequence - 1}: it is an old copy. The next start begins a new spool",
                code="SPOOL_IS_OLD",
            )
        self.committed_sequence = sequence
        firsts = sorted(self._segments.sizes)
        needless = [first for first, following in pairwise(firsts) if following - 1 <= sequence]
        if needless or time.monotonic() - self._checkpointed_at > _CHECKPOINT_SECONDS_MIN:
            self._reserve.spend_on(self._write_checkpoint)
        for first in needless:
            self._segments.remove(first)
        if needless:
            self._reserve.take()

    def go_back(self, sequence: int) -> None:
        """Take note that the log has only this much any more: it was restored to an earlier time.

        Raises:
            Corrupt: SPOOL_IS_TRIMMED, what the log lost is not here any more, so nothing could ever follow.
                Open the spool again; it begins anew, and logs are read again from the start.
        """
        oldest = min(self._segments.sizes)
        if sequence + 1 < oldest:
            (self._directory / _STALE_FILE).touch()
            raise Corrupt(
                f"the log was restored: it has spool {self.spool_id} only up to batch {sequence}, and "
                f"{self._directory} begins at {oldest}. The next start begins a new spool",
                code="SPOOL_IS_TRIMMED",
            )
        logger.warning("the log has batches up to %d again, not %d", sequence, self.committed_sequence)
        self.committed_sequence = sequence
        self._write_checkpoint()

    def close(self) -> None:
        """Put everything on the disk and let go of the files."""
        self._write_checkpoint()
        self._segments.close()

    def _load_identity(self) -> SpoolId:
        path = self._directory / "spool.json"
        if not path.exists():
            write_atomically(path, json.dumps({"spool_id": str(uuid.uuid4())}).encode())
        return SpoolId(json.loads(path.read_bytes())["spool_id"])

    def _recover(self, make_filler: MakeFiller) -> None:
        through = self._load_checkpoint()
        for unfinished in self._directory.glob("*.thin"):
            unfinished.unlink()
        firsts = self._segments.on_disk()
        self.next_sequence = firsts[0] if firsts else through + 1
        for first, next_first in zip(firsts, [*firsts, through + 1][1:], strict=True):
            valid_bytes = 0
            content = self._segments.path(first).read_bytes()
            for frame in decode_frames(content):
                valid_bytes += frame.bytes_count
                self.next_sequence = frame.last_sequence + 1
                if frame.first_sequence > through:
                    self._set_marks(frame.marks)
            if valid_bytes < len(content):
                logger.warning("cut %d torn bytes off spool segment %d", len(content) - valid_bytes, first)
                os.truncate(self._segments.path(first), valid_bytes)
            self._segments.sizes[first] = valid_bytes + self._fill_damage(first, next_first, make_filler)
        if not firsts:
            self._segments.sizes[self.next_sequence] = 0

    def _fill_damage(self, segment: int, next_first: int, make_filler: MakeFiller) -> int:
        """Put fillers up to the next segment: a hole in the sequences would hold up all that follow."""
        lost = range(self.next_sequence, next_first)
        if not lost:
            return 0
        logger.error("spool records %d to %d were damaged on disk and are lost", lost[0], lost[-1])
        frame = encode_frame(lost[0], [make_filler(self.spool_id, sequence) for sequence in lost], {})
        with self._segments.path(segment).open("ab") as file:
            file.write(frame)
        self.next_sequence = next_first
        return len(frame)

    def _load_checkpoint(self) -> int:
        """Load marks and committed sequence; give the sequence that the marks include."""
        path = self._directory / "checkpoint.json"
        if not path.exists():
            return 0
        checkpoint = json.loads(path.read_bytes())
        self.committed_sequence = checkpoint["committed"]
        self.marks = dict(checkpoint["marks"])
        return int(checkpoint["through"])

    def _write_checkpoint(self) -> None:
        # Marks must not run ahead of the records on the disk: lines would be taken for sent that were lost.
        self._segments.sync()
        content = {
            "committed": self.committed_sequence,
            "through": self.next_sequence - 1,
            "marks": self.marks,
        }
        write_atomically(self._directory / "checkpoint.json", json.dumps(content).encode())
        self._checkpointed_at = time.monotonic()

    def _rotate(self) -> None:
        self._segments.sync()
        self._segments.begin(self.next_sequence)

    def _make_room(self, bytes_wanted: int) -> bool:
        """Thin the oldest samples; False when there are none that nobody was given yet."""
        sizes = self._segments.sizes
        is_large = self._segments.current_bytes > self._segment_bytes // 2
        if not is_large and not sizes.keys() - self._thinned - {self._segments.current}:
            return False
        freed = 0
        try:
            self._reserve.spend_on(self._write_checkpoint)
            if is_large:
                self._reserve.spend_on(self._rotate)
            for first in sorted(sizes)[:-1]:
                if freed < bytes_wanted and first not in self._thinned:
                    freed += self._thin(first)
        except OSError:
            logger.exception("no room can be made in the spool")
        self._cursor = (0, 0, 0)
        self._reserve.take()
        return freed > 0

    def _thin(self, first: int) -> int:
        path, through = self._segments.path(first), self._given.through
        left_bytes = self._reserve.spend_on(lambda: thin_segment(path, through))
        freed = self._segments.sizes[first] - left_bytes
        self._segments.sizes[first] = left_bytes
        self._thinned.add(first)
        return freed

    def _put(self, frame: bytes) -> None:
        is_too_large = self._segments.current_bytes + len(frame) > self._segment_bytes
        if is_too_large and self.next_sequence > self._segments.current:
            self._rotate()
        self._segments.write(frame)

    def _set_marks(self, marks: Mapping[str, Mark | None]) -> None:
        for key, mark in marks.items():
            if mark is None:
                self.marks.pop(key, None)
            else:
                self.marks[key] = mark
