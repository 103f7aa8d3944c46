"""What is sampled goes to the spool as batches that name their holder, or is said to be missing."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.metric.v1.batches_pb2 import (
    GpuIncidentSeen,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    SamplesMissing,
)
from runyard.metric.v1.gpus_pb2 import GpuProcessOwner, GpuQuantity
from runyard.node.v1.types_pb2 import GpuDevice
from runyard_agent import sampling
from runyard_agent.domain.foreign import GpuUser, Look, next_look
from runyard_agent.domain.gpu_memory import GpuMemory
from runyard_agent.gpus import GpuProcess, GpuSample, XidSeen
from runyard_agent.sampling import Sampling
from runyard_agent.spool import Spool
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_agent.telemetry_envelope import Cause
from runyard_contracts.envelope import unwrap
from runyard_contracts.gpu_columns import ENERGY_BIT
from runyard_core.clock import ManualClock
from runyard_core.errors import DeadlineExceeded


class TwoGpus:
    """Two GPUs whose driver does as it is told."""

    driver_version = "1"
    cuda_version = "13.0"
    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.hangs = False
        self.xids: list[XidSeen] = []
        self.values: dict[GpuQuantity.ValueType, int] = {}
        self.used_bytes = 1_000
        self.processes_on: dict[str, tuple[GpuProcess, ...]] = {}

    async def devices(self) -> Sequence[GpuDevice]:
        return [GpuDevice(uuid=uuid, memory_bytes=10_000) for uuid in ("GPU-0", "GPU-1")]

    async def sample(self) -> Sequence[GpuSample | None]:
        if self.hangs:
            raise DeadlineExceeded("the driver hangs")
        return [
            None
            if uuid in self.lost
            else GpuSample(
                *(uuid, 50, self.used_bytes, 200_000, 60, None),
                self.values,
                self.processes_on.get(uuid, ()),
            )
            for uuid in ("GPU-0", "GPU-1")
        ]

    async def processes(self) -> Sequence[GpuProcess]:
        return []

    def take_xids(self) -> Sequence[XidSeen]:
        seen, self.xids = self.xids, []
        return seen

    def close(self) -> None:
        pass


class Bench:
    """A sampler over a spool."""

    def __init__(self, directory: Path, bytes_max: int = 1 << 20) -> None:
        self.spool = Spool(directory, lambda *_: ("missing", b""), bytes_max=bytes_max)
        self.telemetry = Telemetry(self.spool, "node-1", ManualClock())
        self.gpus = TwoGpus()
        self.sampling = Sampling(self.telemetry, self.gpus)

    def attempt(self, run_id: str = "run") -> AttemptTelemetry:
        return AttemptTelemetry(self.telemetry, run_id, 1, Cause())

    async def batches(self) -> list[Message]:
        self.sampling._flush()
        await self.spool.sync()
        return [unwrap(Envelope.FromString(record.body)) for record in self.spool.read(0)]


async def own_pids() -> list[int]:
    return [os.getpid()]


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_gpu_rows_name_the_attempt_that_holds_each_gpu(bench: Bench) -> None:
    attempt = bench.attempt()
    bench.sampling.watch(attempt, ["GPU-1"], own_pids, in_container=False)
    await bench.sampling._sample()
    await bench.sampling._sample()

    (batch,) = [batch for batch in await bench.batches() if isinstance(batch, GpuSamplesRecorded)]

    assert list(batch.gpu_uuids) == ["GPU-0", "GPU-1"]
    assert [holder.run_id for holder in batch.holders] == ["", "run"]
    assert len(batch.times_unix_milliseconds) == 2
    assert list(batch.utilization_percents) == [50] * 4
    assert list(batch.power_milliwatts) == [200_000] * 4


async def test_attempt_counts_its_own_samples_and_the_spool_agrees(bench: Bench) -> None:
    attempt = bench.attempt()
    watched = bench.sampling.watch(attempt, ["GPU-1"], own_pids, in_container=False)
    for _ in range(3):
        await bench.sampling._sample()
    bench.sampling.unwatch(watched)

    batches = await bench.batches()

    host = [batch for batch in batches if isinstance(batch, HostSamplesRecorded)]
    assert sum(len(batch.times_unix_milliseconds) for batch in host) == 3
    assert host[0].memory_used_bytes[0] > 1_000_000
    mark = attempt.telemetry_mark()
    assert mark.sample_count == 3 + 3
    assert mark.last_sequence == len(batches)
    assert bench.attempt().telemetry_mark() == mark


async def test_network_of_an_attempt_is_counted_on_by_the_next_agent(bench: Bench) -> None:
    watched = bench.sampling.watch(bench.attempt(), [], own_pids, in_container=False)
    await bench.sampling._sample()
    bench.sampling.unwatch(watched)
    # As if the machine had received and sent so much since the attempt began, before this agent died.
    attempt, start = bench.attempt(), watched.sampler.network_start
    assert start is not None
    received, sent = (max(0, each - 1_000_000) for each in start)
    attempt.write_samples(
        HostSamplesRecorded(), {"network_received_start": received, "network_sent_start": sent}
    )

    again = bench.sampling.watch(bench.attempt(), [], own_pids, in_container=False)
    await bench.sampling._sample()

    assert again.batch.network_received_bytes[0] >= start[0] - received
    assert again.batch.network_sent_bytes[0] >= start[1] - sent
    bench.sampling.unwatch(again)
    assert bench.attempt().position("network_received_start") == received


async def test_batch_ends_where_the_holder_changes(bench: Bench) -> None:
    await bench.sampling._sample()
    bench.sampling.watch(bench.attempt(), ["GPU-0"], own_pids, in_container=False)
    await bench.sampling._sample()

    batches = [batch for batch in await bench.batches() if isinstance(batch, GpuSamplesRecorded)]

    assert [[holder.run_id for holder in batch.holders] for batch in batches] == [["", ""], ["run", ""]]


async def test_lost_gpu_is_missing_and_never_zero(bench: Bench) -> None:
    await bench.sampling._sample()
    bench.gpus.lost.add("GPU-0")
    await bench.sampling._sample()

    batches = await bench.batches()

    gpu = [list(batch.gpu_uuids) for batch in batches if isinstance(batch, GpuSamplesRecorded)]
    assert gpu == [["GPU-0", "GPU-1"], ["GPU-1"]]
    (missing,) = [batch for batch in batches if isinstance(batch, SamplesMissing)]
    assert (missing.kind, missing.sample_count) == ("gpu", 1)


async def test_processes_on_a_gpu_are_the_holders_or_foreign(bench: Bench) -> None:
    bench.sampling.watch(bench.attempt(), ["GPU-1"], own_pids, in_container=False)
    own = GpuProcess("GPU-1", os.getpid(), 500, "python", 40)
    bench.gpus.processes_on["GPU-1"] = (own, GpuProcess("GPU-1", 1, 5, "game"))
    await bench.sampling._sample()
    bench.gpus.processes_on["GPU-1"] = (GpuProcess("GPU-1", os.getpid(), 700, "python", 41),)
    await bench.sampling._sample()
    bench.gpus.processes_on = {"GPU-0": (GpuProcess("GPU-0", os.getpid(), 700, "python"),)}
    await bench.sampling._sample()

    (batch,) = [batch for batch in await bench.batches() if isinstance(batch, GpuSamplesRecorded)]

    mine, foreign, elsewhere = batch.processes
    assert (mine.owner, mine.name) == (GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER, "python")
    assert (mine.first_row, mine.row_count, list(mine.memory_bytes)) == (0, 2, [500, 200])
    assert list(mine.sm_utilization_percents) == [40, 41]
    assert (foreign.owner, foreign.row_count) == (GpuProcessOwner.GPU_PROCESS_OWNER_FOREIGN, 1)
    assert (elsewhere.first_row, elsewhere.run_id) == (2, "run")
    assert elsewhere.owner == GpuProcessOwner.GPU_PROCESS_OWNER_OTHER_ATTEMPT


async def test_a_process_that_has_just_ended_is_not_foreign_while_its_memory_is_there(bench: Bench) -> None:
    pids = [os.getpid()]

    async def living() -> list[int]:
        return pids

    bench.sampling.watch(bench.attempt(), ["GPU-1"], living, in_container=False)
    bench.gpus.processes_on["GPU-1"] = (GpuProcess("GPU-1", os.getpid(), 500, "python"),)
    await bench.sampling._sample()
    pids.clear()
    await bench.sampling._sample()

    (batch,) = [batch for batch in await bench.batches() if isinstance(batch, GpuSamplesRecorded)]

    (process,) = batch.processes
    assert (process.owner, process.row_count) == (GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER, 2)


async def test_what_no_card_offers_has_no_column(bench: Bench) -> None:
    bench.gpus.values = {GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ: 1980}
    await bench.sampling._sample()

    (batch,) = [batch for batch in await bench.batches() if isinstance(batch, GpuSamplesRecorded)]

    assert [column.quantity for column in batch.columns] == [GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ]
    assert list(batch.columns[0].values) == [1980, 1980]
    assert list(batch.not_offered_bits) == [ENERGY_BIT, ENERGY_BIT]


async def test_an_xid_is_told_and_explains_the_end_of_its_attempt_also_to_the_next_agent(
    bench: Bench,
) -> None:
    attempt = bench.attempt()
    watched = bench.sampling.watch(attempt, ["GPU-0", "GPU-1"], own_pids, in_container=False)
    bench.gpus.xids = [XidSeen("GPU-1", 79), XidSeen("GPU-1", 31), XidSeen("GPU-1", 31)]
    evidence = await bench.sampling.gpu_evidence(watched)

    first, second = [batch for batch in await bench.batches() if isinstance(batch, GpuIncidentSeen)]

    assert (first.gpu_uuid, first.number, first.holder) == ("GPU-1", 79, attempt.ref)
    assert (second.number, second.detail.rpartition(", ")[2]) == (31, "2 times")
    assert evidence.fault() == "GPU-1 failed: XID 79 (the GPU has fallen off the bus)"
    again = bench.sampling.watch(bench.attempt(), ["GPU-0", "GPU-1"], own_pids, in_container=False)
    assert (await bench.sampling.gpu_evidence(again)).fault() == evidence.fault()


async def test_a_gpu_that_is_lost_with_the_program_explains_its_end(bench: Bench) -> None:
    watched = bench.sampling.watch(bench.attempt(), ["GPU-1"], own_pids, in_container=False)
    await bench.sampling._sample()
    bench.gpus.lost.add("GPU-1")

    assert (await bench.sampling.gpu_evidence(watched)).fault().startswith("GPU-1 failed: it was lost")


async def test_an_error_that_programs_cause_is_told_and_blames_no_gpu(bench: Bench) -> None:
    watched = bench.sampling.watch(bench.attempt(), ["GPU-0"], own_pids, in_container=False)
    bench.gpus.xids = [XidSeen("GPU-0", 31)]

    assert (await bench.sampling.gpu_evidence(watched)).fault() == ""
    assert any(isinstance(batch, GpuIncidentSeen) for batch in await bench.batches())


async def test_the_most_memory_that_was_used_lately_is_evidence(bench: Bench) -> None:
    watched = bench.sampling.watch(bench.attempt(), ["GPU-0"], own_pids, in_container=False)
    bench.gpus.used_bytes = 9_500
    await bench.sampling._sample()
    bench.gpus.used_bytes = 10

    evidence = await bench.sampling.gpu_evidence(watched)
    assert evidence.memory == {"GPU-0": GpuMemory(9_500, 10_000)}


async def test_hanging_driver_does_not_stop_host_samples(bench: Bench) -> None:
    bench.gpus.hangs = True
    bench.sampling.watch(bench.attempt(), [], own_pids, in_container=False)
    await bench.sampling._sample()

    batches = await bench.batches()

    assert [type(batch) for batch in batches] == [SamplesMissing, HostSamplesRecorded]
    missing = batches[0]
    assert isinstance(missing, SamplesMissing)
    assert missing.reason == "the driver hangs"


async def test_full_spool_takes_no_samples_and_later_says_how_many(tmp_path: Path) -> None:
    bench = Bench(tmp_path, bytes_max=300)
    attempt = bench.attempt()
    attempt.write_status("x" * 300)
    bench.sampling.watch(attempt, [], own_pids, in_container=False)
    for _ in range(3):
        await bench.sampling._sample()
        bench.sampling._flush()
    assert len(await bench.batches()) == 1

    bench.spool._bytes_max = 100_000
    missing = [batch for batch in await bench.batches() if isinstance(batch, SamplesMissing)]

    assert [(batch.kind, batch.sample_count) for batch in missing] == [("gpu", 3), ("host", 3)]


async def test_samples_that_a_full_disk_refuses_are_missing_and_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    attempts = [bench.attempt(), bench.attempt("other")]
    for attempt, gpu_uuid in zip(attempts, ("GPU-0", "GPU-1"), strict=True):
        bench.sampling.watch(attempt, [gpu_uuid], own_pids, in_container=False)
    with monkeypatch.context() as patched:
        patched.setattr(bench.spool, "append", full)
        for _ in range(2):
            await bench.sampling._sample()
            bench.sampling._flush()
    await bench.sampling._sample()
    batches = await bench.batches()

    missing = [batch for batch in batches if isinstance(batch, SamplesMissing)]
    assert [(each.kind, each.attempt.run_id, each.sample_count) for each in missing] == [
        ("gpu", "", 2), ("host", "run", 2), ("host", "other", 2)
    ]  # fmt: skip
    host = [batch for batch in batches if isinstance(batch, HostSamplesRecorded)]
    assert [(each.attempt, len(each.times_unix_milliseconds)) for each in host] == [
        (attempt.ref, 1) for attempt in attempts
    ]
    for attempt in attempts:
        assert attempt.telemetry_mark().sample_count == 1 + 1
        assert bench.attempt(attempt.ref.run_id).telemetry_mark() == attempt.telemetry_mark()


async def test_loop_samples_at_once_when_an_attempt_begins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_IDLE_SECONDS", 3600.0)
    monkeypatch.setattr(sampling, "_ACTIVE_SECONDS", 3600.0)
    running = asyncio.ensure_future(bench.sampling.run())
    attempt = bench.attempt()
    await asyncio.sleep(0)
    watched = bench.sampling.watch(attempt, [], own_pids, in_container=False)
    async with asyncio.timeout(20):
        while not watched.batch.times_unix_milliseconds:  # noqa: ASYNC110 - the loop brings it about
            await asyncio.sleep(0.005)
    bench.sampling.unwatch(watched)
    running.cancel()

    assert attempt.telemetry_mark().sample_count >= 1


OURS = GpuUser("GPU-0", 10, 1, "python", 100)
THEIRS = GpuUser("GPU-0", 20, 2, "game", 200)


def test_foreign_process_is_told_at_its_second_look_and_once() -> None:
    first, told = next_look(Look(), [OURS, THEIRS], {10})
    assert told == []
    second, told = next_look(first, [OURS, THEIRS], {10})
    assert told == [(THEIRS, False)]
    _, told = next_look(second, [OURS, THEIRS], {10})
    assert told == []


def test_foreign_process_that_left_is_told_once() -> None:
    look = Look(frozenset({THEIRS.key}), (THEIRS,))

    look, told = next_look(look, [OURS], {10})
    assert told == [(THEIRS, True)]
    assert next_look(look, [OURS], {10})[1] == []


def test_attempt_that_is_just_starting_is_never_foreign() -> None:
    first, _ = next_look(Look(), [OURS], set())
    assert next_look(first, [OURS], {10})[1] == []


def test_recycled_pid_is_another_process() -> None:
    again = GpuUser("GPU-0", 20, 99, "game", 200)

    look, told = next_look(Look(frozenset({THEIRS.key}), (THEIRS,)), [again], set())
    assert told == [(THEIRS, True)]
    assert next_look(look, [again], set())[1] == [(again, False)]
