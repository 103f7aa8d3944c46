"""The GPUs of the node over time: samples in batches, incidents at once, evidence for each attempt."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from runyard.metric.v1.batches_pb2 import AttemptRef, GpuIncidentSeen, SamplesMissing
from runyard_agent.domain.gpu_batch import Row, batch_of
from runyard_agent.domain.gpu_evidence import NO_GPU_EVIDENCE, GpuEvidence
from runyard_agent.domain.gpu_fault import blamed, marks_after
from runyard_agent.domain.gpu_incidents import Incident, IncidentWatch, xid_incident
from runyard_agent.domain.gpu_memory import GpuMemory
from runyard_agent.gpus import Gpus, GpuSample
from runyard_agent.missing import count_missing
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

_RECENT_SAMPLES = 15
"""Over how many seconds before its end the most that a program held of a GPU counts."""


@dataclass(slots=True)
class GpuHolder:
    """An attempt as far as GPUs go."""

    telemetry: AttemptTelemetry
    gpu_uuids: tuple[str, ...]
    recent_memory: dict[str, deque[int]] = field(default_factory=dict)


class GpuSampling:
    """Reads the GPUs and tells of them."""

    def __init__(self, telemetry: Telemetry, gpus: Gpus) -> None:
        """Prepare; nothing is read yet."""
        self.gpus = gpus
        self.health_changed: Callable[[], None] = lambda: None
        """Called when a GPU can no longer be used, or can be again."""
        self.foreign_pids: Callable[[], Collection[int]] = tuple
        """Gives the processes that were reported as foreign."""
        self._telemetry = telemetry
        self._incidents = IncidentWatch()
        self._rows: list[Row] = []
        self._missing = SamplesMissing()
        self._unusable: Mapping[str, str] = {}
        self._owners: Mapping[int, AttemptRef] = {}
        self._newest: Sequence[GpuSample | None] = ()
        self._time = 0

    async def read(self, now_unix_milliseconds: int, holders: Sequence[GpuHolder]) -> Collection[str]:
        """Read all GPUs, and tell what happened to them. What was read waits for ``attribute``.

        Gives the GPUs that did not answer.
        """
        self._newest, self._time = (), now_unix_milliseconds
        devices = await self.gpus.devices()
        try:
            self._newest = await self.gpus.sample()
        except RunyardError as error:
            logger.warning("GPUs cannot be sampled: %s", error)
            count_missing(self._missing, "gpu", now_unix_milliseconds, str(error))
        if any(sample is None for sample in self._newest):
            count_missing(self._missing, "gpu", now_unix_milliseconds, "a GPU does not answer")
        uuids = [device.uuid for device in devices]
        looks = list(zip(uuids, self._newest, strict=False))
        # A program can make thousands of the same a second.
        heard = Counter(self.gpus.take_xids())
        found = [xid_incident(seen, count) for seen, count in heard.items()]
        for uuid, sample in looks:
            found += self._incidents.look(uuid, sample, time.monotonic())
        for incident in found:
            self.tell(incident, holders)
        for holder in holders:
            _remember_memory(holder, self._newest)
        await self._look_at_health()
        return [uuid for uuid, sample in looks if sample is None]

    def attribute(self, holders: Sequence[GpuHolder], pids: Mapping[int, AttemptRef]) -> None:
        """Add what was read to the batch, its processes attributed to the attempts that own them."""
        answered = [sample for sample in self._newest if sample is not None]
        self._newest = ()
        if not answered:
            return
        # A process that has just ended may hold its memory for a while longer.
        self._owners = {
            process.pid: owner
            for sample in answered
            for process in sample.processes
            if (owner := pids.get(process.pid) or self._owners.get(process.pid)) is not None
        }
        held_by = {uuid: holder.telemetry.ref for holder in holders for uuid in holder.gpu_uuids}
        row_holders = [held_by.get(sample.uuid, AttemptRef()) for sample in answered]
        row = Row(self._time, answered, row_holders, self._owners)
        if self._rows and self._rows[0].shape != row.shape:
            self.flush(holders)
        self._rows.append(row)

    def flush(self, holders: Sequence[GpuHolder]) -> None:
        """Put everything read into the spool; what it cannot take is counted as missing."""
        rows, self._rows = self._rows, []
        reason = "" if self._telemetry.spool.has_room else "the spool is full"
        try:
            if rows and not reason:
                self._write(rows, holders)
                rows = []
            if self._missing.sample_count and not reason:
                self._missing.node_id = self._telemetry.node_id
                self._telemetry.record([self._missing])
                self._missing = SamplesMissing()
        except OSError as error:
            logger.exception("samples cannot be spooled")
            reason = f"the spool cannot be written: {error.strerror}"
        for row in rows:
            count_missing(self._missing, "gpu", row.time_unix_milliseconds, reason)

    def _write(self, rows: Sequence[Row], holders: Sequence[GpuHolder]) -> None:
        batch = batch_of(self._telemetry.node_id, rows)
        marks = [
            (holder.telemetry, *holder.telemetry.mark_with_gpu_samples(len(rows) * held_count))
            for holder in holders
            if (held_count := list(batch.holders).count(holder.telemetry.ref))
        ]
        self._telemetry.record([batch], marks={key: mark for _, key, mark in marks})
        for telemetry, _, mark in marks:
            telemetry.has_written(mark)

    def tell(self, incident: Incident, holders: Collection[GpuHolder]) -> None:
        """Record what happened to a GPU, for the attempt that holds it when there is one."""
        seen = GpuIncidentSeen(
            node_id=self._telemetry.node_id,
            gpu_uuid=incident.gpu_uuid,
            time_unix_milliseconds=self._telemetry.now_unix_milliseconds(),
            kind=incident.kind,
            number=incident.number,
            detail=incident.detail,
        )
        logger.warning("%s: %s", incident.gpu_uuid, incident.detail)
        holder = next((each for each in holders if incident.gpu_uuid in each.gpu_uuids), None)
        try:
            if holder is None:
                self._telemetry.record([seen])
            else:
                seen.holder.CopyFrom(holder.telemetry.ref)
                position, now_seconds = holder.telemetry.position, seen.time_unix_milliseconds // 1000
                kept = marks_after(incident, position, holder.gpu_uuids, now_seconds)
                holder.telemetry.write_gpu_incident(seen, kept)
        except OSError:
            logger.exception("an incident of a GPU cannot be spooled")

    async def evidence(self, holder: GpuHolder) -> GpuEvidence:
        """Say what is known of an attempt's GPUs that may explain its end."""
        if not holder.gpu_uuids:
            return NO_GPU_EVIDENCE
        totals = {device.uuid: device.memory_bytes for device in await self.gpus.devices()}
        memory = {
            uuid: GpuMemory(max(holder.recent_memory.get(uuid, (0,))), totals[uuid])
            for uuid in holder.gpu_uuids
            if uuid in totals
        }
        now_seconds = self._telemetry.now_unix_milliseconds() // 1000
        faulty, xid = blamed(holder.telemetry.position, holder.gpu_uuids, now_seconds)
        return GpuEvidence(
            gpu_uuids=holder.gpu_uuids,
            memory=memory,
            faulty_gpu_uuid=faulty,
            xid=xid,
        )

    async def _look_at_health(self) -> None:
        unusable = {
            device.uuid: device.unusable_reason
            for device in await self.gpus.devices()
            if device.unusable_reason
        }
        if unusable != self._unusable:
            self._unusable = unusable
            self.health_changed()


def _remember_memory(holder: GpuHolder, samples: Sequence[GpuSample | None]) -> None:
    for sample in samples:
        if sample is not None and sample.uuid in holder.gpu_uuids and sample.memory_used_bytes is not None:
            recent = holder.recent_memory.setdefault(sample.uuid, deque(maxlen=_RECENT_SAMPLES))
            recent.append(sample.memory_used_bytes)
