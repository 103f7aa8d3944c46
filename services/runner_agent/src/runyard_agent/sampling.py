"""Once a second: what each GPU of the node does, and what each attempt uses of the machine.

Samples are kept for two seconds and then go to the spool as one batch. Nothing runs on a node without GPUs
while it has no attempt; idle GPUs are looked at every ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from runyard.metric.v1.batches_pb2 import AttemptRef, GpuSamplesRecorded, HostSamplesRecorded, SamplesMissing
from runyard_agent.attempt_sampler import AttemptSampler
from runyard_agent.gpus import Gpus, GpuSample
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

_ACTIVE_SECONDS = 1.0
_IDLE_SECONDS = 10.0
_FLUSH_SECONDS = 2.0

FindPids = Callable[[], Awaitable[Sequence[int]]]


@dataclass(slots=True)
class Watched:
    """An attempt that is sampled."""

    telemetry: AttemptTelemetry
    gpu_uuids: tuple[str, ...]
    find_pids: FindPids
    sampler: AttemptSampler
    batch: HostSamplesRecorded = field(default_factory=HostSamplesRecorded)
    missing: SamplesMissing = field(default_factory=SamplesMissing)


class Sampling:
    """Samples GPUs and attempts of the node."""

    def __init__(self, telemetry: Telemetry, gpus: Gpus) -> None:
        """Prepare; nothing is read before ``run``."""
        self._telemetry = telemetry
        self._gpus = gpus
        self._watched: list[Watched] = []
        self._changed = asyncio.Event()
        self._gpu_batch = GpuSamplesRecorded()
        self._gpu_missing = SamplesMissing()
        self._flushed_at = time.monotonic()

    def watch(
        self,
        telemetry: AttemptTelemetry,
        gpu_uuids: Sequence[str],
        find_pids: FindPids,
        *,
        in_container: bool,
    ) -> Watched:
        """Begin to sample an attempt."""
        watched = Watched(telemetry, tuple(gpu_uuids), find_pids, AttemptSampler(in_container=in_container))
        self._watched.append(watched)
        self._changed.set()
        return watched

    def unwatch(self, watched: Watched) -> None:
        """Stop to sample an attempt; what was sampled is in the spool when this returns."""
        self._flush()
        self._watched.remove(watched)

    async def watched_pids(self) -> set[int]:
        """Give the pids of all attempts that are sampled."""
        return {pid for watched in list(self._watched) for pid in await watched.find_pids()}

    async def run(self) -> None:
        """Sample until cancelled."""
        has_gpus = bool(await self._gpus.devices())
        while True:
            started = time.monotonic()
            await self._sample()
            pause: float | None = _ACTIVE_SECONDS if self._watched else (_IDLE_SECONDS if has_gpus else None)
            if not self._watched or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
                self._flush()
            self._changed.clear()
            try:
                async with asyncio.timeout(
                    None if pause is None else max(started + pause - time.monotonic(), 0)
                ):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _sample(self) -> None:
        now = self._telemetry.now_unix_milliseconds()
        try:
            await self._sample_gpus(now)
        except RunyardError as error:
            logger.warning("GPUs cannot be sampled: %s", error)
            _count_missing(self._gpu_missing, "gpu", now, str(error))
        for watched in list(self._watched):
            try:
                sample = watched.sampler.sample(await watched.find_pids())
            except (RunyardError, OSError) as error:
                _count_missing(watched.missing, "host", now, str(error))
                continue
            if sample is None:
                continue
            batch = watched.batch
            batch.times_unix_milliseconds.append(now)
            batch.cpu_millicores.append(sample.cpu_millicores)
            batch.memory_used_bytes.append(sample.memory_used_bytes)
            batch.disk_read_bytes.append(sample.disk_read_bytes)
            batch.disk_written_bytes.append(sample.disk_written_bytes)
            batch.network_received_bytes.append(sample.network_received_bytes)
            batch.network_sent_bytes.append(sample.network_sent_bytes)
            batch.network_is_host = sample.network_is_host

    async def _sample_gpus(self, now: int) -> None:
        samples = await self._gpus.sample()
        answered = [sample for sample in samples if sample is not None]
        if len(answered) < len(samples):
            _count_missing(self._gpu_missing, "gpu", now, "a GPU does not answer")
        if not answered:
            return
        uuids = [sample.uuid for sample in answered]
        holders = [self._holder(uuid) for uuid in uuids]
        batch = self._gpu_batch
        if batch.times_unix_milliseconds and (
            list(batch.gpu_uuids) != uuids or list(batch.holders) != holders
        ):
            self._flush()
            batch = self._gpu_batch
        if not batch.times_unix_milliseconds:
            batch.node_id = self._telemetry.node_id
            batch.gpu_uuids.extend(uuids)
            batch.holders.extend(holders)
        _append_row(batch, now, answered)

    def _holder(self, gpu_uuid: str) -> AttemptRef:
        for watched in self._watched:
            if gpu_uuid in watched.gpu_uuids:
                return watched.telemetry.ref
        return AttemptRef()

    def _flush(self) -> None:
        """Put everything sampled into the spool; without room there it is counted as missing."""
        self._flushed_at = time.monotonic()
        try:
            self._flush_gpus()
            for watched in self._watched:
                self._flush_attempt(watched)
        except OSError:
            logger.exception("samples cannot be spooled")

    def _flush_gpus(self) -> None:
        batch, self._gpu_batch = self._gpu_batch, GpuSamplesRecorded()
        times = batch.times_unix_milliseconds
        if times and not self._telemetry.spool.has_room:
            for at in times:
                _count_missing(self._gpu_missing, "gpu", at, "the spool is full")
        elif times:
            marks = dict(
                watched.telemetry.mark_with_gpu_samples(len(times) * held_count)
                for watched in self._watched
                if (held_count := list(batch.holders).count(watched.telemetry.ref))
            )
            self._telemetry.record([batch], marks=marks)
        if self._gpu_missing.sample_count and self._telemetry.spool.has_room:
            missing, self._gpu_missing = self._gpu_missing, SamplesMissing()
            missing.node_id = self._telemetry.node_id
            self._telemetry.record([missing])

    def _flush_attempt(self, watched: Watched) -> None:
        batch, watched.batch = watched.batch, HostSamplesRecorded()
        times = batch.times_unix_milliseconds
        batch.attempt.CopyFrom(watched.telemetry.ref)
        batch.node_id = self._telemetry.node_id
        if times and not watched.telemetry.has_room:
            for at in times:
                _count_missing(watched.missing, "host", at, "the spool is full")
        elif times:
            watched.telemetry.write_samples(batch)
        if watched.missing.sample_count and watched.telemetry.has_room:
            missing, watched.missing = watched.missing, SamplesMissing()
            missing.attempt.CopyFrom(watched.telemetry.ref)
            missing.node_id = self._telemetry.node_id
            watched.telemetry.write_missing(missing)


def _append_row(batch: GpuSamplesRecorded, now: int, samples: Sequence[GpuSample]) -> None:
    batch.times_unix_milliseconds.append(now)
    for sample in samples:
        batch.utilization_percents.append(sample.utilization_percent)
        batch.memory_used_bytes.append(sample.memory_used_bytes)
        batch.power_milliwatts.append(sample.power_milliwatts)
        batch.temperature_celsius.append(sample.temperature_celsius)
        batch.energy_millijoules.append(sample.energy_millijoules)


def _count_missing(missing: SamplesMissing, kind: str, now: int, reason: str) -> None:
    missing.kind = kind
    missing.from_unix_milliseconds = missing.from_unix_milliseconds or now
    missing.to_unix_milliseconds = now
    missing.sample_count += 1
    missing.reason = reason
