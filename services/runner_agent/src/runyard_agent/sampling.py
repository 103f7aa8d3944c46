"""Once a second: what each GPU of the node does, and what each attempt uses of the machine.

Samples are kept for two seconds and then go to the spool as one batch. While there is no attempt, GPUs are
looked at every ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from runyard.metric.v1.batches_pb2 import AttemptRef, HostSamplesRecorded, SamplesMissing
from runyard_agent.attempt_sampler import AttemptSampler, HostSample
from runyard_agent.domain.gpu_evidence import GpuEvidence
from runyard_agent.gpu_sampling import GpuHolder, GpuSampling
from runyard_agent.gpus import Gpus
from runyard_agent.missing import count_missing
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

_ACTIVE_SECONDS = 1.0
_IDLE_SECONDS = 10.0
_FLUSH_SECONDS = 2.0
_RECEIVED_START, _SENT_START = "network_received_start", "network_sent_start"

FindPids = Callable[[], Awaitable[Sequence[int]]]


@dataclass(slots=True)
class Watched:
    """An attempt that is sampled."""

    telemetry: AttemptTelemetry
    gpus: GpuHolder
    find_pids: FindPids
    sampler: AttemptSampler
    batch: HostSamplesRecorded = field(default_factory=HostSamplesRecorded)
    missing: SamplesMissing = field(default_factory=SamplesMissing)


class Sampling:
    """Samples GPUs and attempts of the node."""

    def __init__(self, telemetry: Telemetry, gpus: Gpus) -> None:
        """Prepare; nothing is read before ``run``."""
        self._telemetry = telemetry
        self.gpus = GpuSampling(telemetry, gpus)
        self._watched: list[Watched] = []
        self._changed = asyncio.Event()
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
        holder = GpuHolder(telemetry, tuple(gpu_uuids))
        start = telemetry.position(_RECEIVED_START), telemetry.position(_SENT_START)
        sampler = AttemptSampler(in_container=in_container)
        sampler.network_start = start if any(start) else None
        watched = Watched(telemetry, holder, find_pids, sampler)
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
        while True:
            started = time.monotonic()
            await self._sample()
            pause_seconds = _ACTIVE_SECONDS if self._watched else _IDLE_SECONDS
            if not self._watched or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS:
                self._flush()
            self._changed.clear()
            try:
                async with asyncio.timeout(max(started + pause_seconds - time.monotonic(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def gpu_evidence(self, watched: Watched) -> GpuEvidence:
        """Say what is known of an attempt's GPUs that may explain its end, after one more look at them."""
        if watched.gpus.gpu_uuids:
            silent = await self.gpus.read(self._telemetry.now_unix_milliseconds(), self._holders())
            if set(silent).intersection(watched.gpus.gpu_uuids):
                # One look without an answer is no loss yet.
                await self.gpus.read(self._telemetry.now_unix_milliseconds(), self._holders())
        return await self.gpus.evidence(watched.gpus)

    def _holders(self) -> list[GpuHolder]:
        return [watched.gpus for watched in self._watched]

    async def _sample(self) -> None:
        now = self._telemetry.now_unix_milliseconds()
        await self.gpus.read(now, self._holders())
        owners: dict[int, AttemptRef] = {}
        for watched in list(self._watched):
            try:
                pids = await watched.find_pids()
                owners.update(dict.fromkeys(pids, watched.telemetry.ref))
                sample = watched.sampler.sample(pids)
            except (RunyardError, OSError) as error:
                count_missing(watched.missing, "host", now, str(error))
                continue
            if sample is not None:
                _append(watched.batch, now, sample)
        self.gpus.attribute(self._holders(), owners)

    def _flush(self) -> None:
        """Put everything sampled into the spool; what it cannot take is counted as missing."""
        self._flushed_at = time.monotonic()
        self.gpus.flush(self._holders())
        for watched in self._watched:
            self._flush_attempt(watched)

    def _flush_attempt(self, watched: Watched) -> None:
        batch, watched.batch = watched.batch, HostSamplesRecorded()
        times: Sequence[int] = batch.times_unix_milliseconds
        batch.attempt.CopyFrom(watched.telemetry.ref)
        batch.node_id = self._telemetry.node_id
        reason = "" if watched.telemetry.has_room else "the spool is full"
        try:
            if times and not reason:
                start = watched.sampler.network_start or (0, 0)
                kept = dict(zip((_RECEIVED_START, _SENT_START), start, strict=True))
                watched.telemetry.write_samples(batch, kept)
                times = []
            if watched.missing.sample_count and not reason:
                watched.missing.attempt.CopyFrom(watched.telemetry.ref)
                watched.missing.node_id = self._telemetry.node_id
                watched.telemetry.write_missing(watched.missing)
                watched.missing = SamplesMissing()
        except OSError as error:
            logger.exception("samples cannot be spooled")
            reason = f"the spool cannot be written: {error.strerror}"
        for at in times:
            count_missing(watched.missing, "host", at, reason)


def _append(batch: HostSamplesRecorded, now: int, sample: HostSample) -> None:
    batch.times_unix_milliseconds.append(now)
    batch.cpu_millicores.append(sample.cpu_millicores)
    batch.memory_used_bytes.append(sample.memory_used_bytes)
    batch.disk_read_bytes.append(sample.disk_read_bytes)
    batch.disk_written_bytes.append(sample.disk_written_bytes)
    batch.network_received_bytes.append(sample.network_received_bytes)
    batch.network_sent_bytes.append(sample.network_sent_bytes)
    batch.network_is_host = sample.network_is_host
