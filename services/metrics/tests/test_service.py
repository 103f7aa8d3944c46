"""Telemetry in, logs and metrics out: the whole service on real engines."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import asyncpg
import grpc
import pytest

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.metric.v1 import metric_service_pb2 as pb
from runyard.metric.v1.batches_pb2 import (
    AttemptRef,
    GpuIncidentSeen,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    MetricPointsRecorded,
)
from runyard.metric.v1.gpus_pb2 import GpuIncidentKind, GpuQuantity
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
from runyard_contracts.gpu_columns import packed_column
from runyard_contracts.ids import uuid7
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.queries import MetricQueries
from runyard_testkit import Bus, Database

from .yard import (
    DEADLINE_SECONDS,
    AgentSpool,
    Scheduler,
    log_chunk,
    loss_points,
    named_points,
    next_item,
    scheduling,
    serving,
)

pytestmark = pytest.mark.engines

RUN_ID = uuid7()


@pytest.fixture
async def scheduler(database: Database) -> AsyncIterator[Scheduler]:
    async with scheduling(database, RUN_ID) as scheduler:
        yield scheduler


@pytest.fixture
async def metrics(database: Database, bus: Bus, tmp_path: Path) -> AsyncIterator[MetricServiceStub]:
    async with serving(database, bus, tmp_path) as (_, stub):
        yield stub


async def _all_lines(metrics: MetricServiceStub, **request: object) -> list[pb.LogLine]:
    lines: list[pb.LogLine] = []
    token = ""
    while True:
        asked = pb.ListLogLinesRequest(run_id=RUN_ID, page_token=token, **request)  # type: ignore[arg-type]
        page = await metrics.ListLogLines(asked)
        lines.extend(page.lines)
        token = page.next_page_token
        if not token:
            return lines


async def test_what_an_agent_sends_comes_out_as_lines_series_and_statistics(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    position = (await scheduler.started()).position
    attempt = AttemptRef(run_id=RUN_ID, attempt=1)
    host = HostSamplesRecorded(
        attempt=attempt,
        node_id="node-1",
        times_unix_milliseconds=[1, 2],
        cpu_millicores=[500, 1500],
        memory_used_bytes=[10, 30],
    )
    gpu = GpuSamplesRecorded(
        node_id="node-1",
        gpu_uuids=["GPU-a"],
        holders=[attempt],
        times_unix_milliseconds=[1_000],
        utilization_percents=[80],
        memory_used_bytes=[5],
        power_milliwatts=[300_000],
        temperature_celsius=[60],
        energy_millijoules=[0],
        columns=[packed_column(GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ, [{0: 1980}], 1)],
    )
    kind = GpuIncidentKind.GPU_INCIDENT_KIND_XID
    incident = GpuIncidentSeen(node_id="node-1", gpu_uuid="GPU-a", holder=attempt, kind=kind, number=79)
    async with AgentSpool(bus) as spool:
        spool.add(log_chunk(RUN_ID, 1, 40), log_chunk(RUN_ID, 41, 2), host, gpu)
        spool.add(loss_points(RUN_ID, 1, [3.0, 1.0]), loss_points(RUN_ID, 3, [2.0]), incident)
        await spool.send_all()
        assert spool.mark == 7
    read = ReadOptions(min_position=position)
    summary = await metrics.GetRunSummary(pb.GetRunSummaryRequest(run_id=RUN_ID, read=read))
    assert (summary.attempt, summary.log_line_count, summary.metric_point_count) == (1, 42, 3)
    assert (summary.sample_count, summary.telemetry_position) == (3, 7)
    assert list(summary.gpu_incidents) == [incident]
    (loss,) = summary.metrics
    assert (loss.name, loss.value, loss.min, loss.max, loss.point_count) == ("loss", 2.0, 1.0, 3.0, 3)
    statistics = {each.name: (each.min, each.mean, each.max) for each in summary.statistics}
    expected = {"cpu_millicores": (500.0, 1000.0, 1500.0), "gpu_utilization_percent": (80.0, 80.0, 80.0)}
    assert {name: statistics[name] for name in expected} == expected
    await check_lines_and_series(metrics)
    await check_readings(metrics, AsOf(position=position))


async def test_a_summary_of_too_many_metrics_says_that_there_are_more(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    read = ReadOptions(min_position=(await scheduler.started()).position)
    request = pb.GetRunSummaryRequest(run_id=RUN_ID, read=read)
    async with AgentSpool(bus) as spool:
        spool.add(named_points(RUN_ID, [f"sample-{number:05}" for number in range(10_000)]))
        await spool.send_all()
        whole = await metrics.GetRunSummary(request)
        spool.add(named_points(RUN_ID, ["sample-10000"]))
        await spool.send_all()
        cut = await metrics.GetRunSummary(request)
    assert (len(whole.metrics), whole.has_more_metrics) == (10_000, False)
    assert (len(cut.metrics), cut.has_more_metrics, cut.metric_point_count) == (10_000, True, 10_001)


async def test_a_summary_of_too_large_metrics_says_that_there_are_more(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    read = ReadOptions(min_position=(await scheduler.started()).position)
    attempt = AttemptRef(run_id=RUN_ID, attempt=1)
    async with AgentSpool(bus) as spool:
        for number in range(11):
            values = {f"notes-{number:02}-{place:02}": "x" * 16_000 for place in range(50)}
            spool.add(MetricPointsRecorded(attempt=attempt, json_values=values))
        await spool.send_all()
    summary = await metrics.GetRunSummary(pb.GetRunSummaryRequest(run_id=RUN_ID, read=read))
    assert 500 < len(summary.metrics) < 550
    assert summary.has_more_metrics


async def test_lines_as_long_as_they_may_be_come_in_pages_that_a_message_holds(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus, database: Database
) -> None:
    position = (await scheduler.started()).position
    # 64 KiB each, in characters of four bytes.
    chunks = [log_chunk(RUN_ID, first, 10, text="\N{ROCKET}" * 16_380) for first in range(1, 281, 10)]
    async with AgentSpool(bus) as spool:
        spool.add(*chunks)
        await spool.send_all()
    read = ReadOptions(min_position=position)
    lines = await _all_lines(metrics, page_size=10_000, read=read)
    assert [line.number for line in lines] == list(range(1, 281))
    assert lines[-1].text == chunks[-1].lines[-1]
    async with asyncpg.create_pool(database.url("metrics"), min_size=1, max_size=1) as pool:
        held = await MetricQueries(pool).log_chunks(RUN_ID, 1, 1, 10_000, len(chunks), bytes_max=2_000_000)
    assert held == chunks[:4]


async def check_lines_and_series(metrics: MetricServiceStub) -> None:
    lines = await _all_lines(metrics, page_size=7)
    assert [line.text for line in lines] == [f"line {number}" for number in range(1, 43)]
    tail = await _all_lines(metrics, tail_line_count=3)
    assert [line.number for line in tail] == [40, 41, 42]
    (series,) = (await metrics.QuerySeries(pb.QuerySeriesRequest(run_id=RUN_ID))).series
    assert list(series.values) == [3.0, 1.0, 2.0]
    names = ["gpu_sm_clock_megahertz", "gpu_power_milliwatts"]
    gpu_series = (await metrics.QueryGpuSeries(pb.QueryGpuSeriesRequest(run_id=RUN_ID, names=names))).series
    assert [(each.name, list(each.values)) for each in gpu_series] == [
        ("gpu_power_milliwatts", [300_000.0]),
        ("gpu_sm_clock_megahertz", [1980.0]),
    ]


async def check_readings(metrics: MetricServiceStub, as_of: AsOf) -> None:
    (reading,) = (
        await metrics.ListGpuReadings(pb.ListGpuReadingsRequest(read=ReadOptions(as_of=as_of)))
    ).readings
    assert (reading.gpu_uuid, reading.utilization_percent, reading.holder.run_id) == ("GPU-a", 80, RUN_ID)
    assert reading.behind_milliseconds == 0
    now = await metrics.ListGpuReadings(pb.ListGpuReadingsRequest())
    assert len(now.readings) == 0  # its time is 1970


async def test_a_node_whose_samples_come_late_is_shown_with_how_far_behind_they_are(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    read = ReadOptions(min_position=(await scheduler.started()).position)
    request = pb.ListGpuReadingsRequest(read=read, page_size=1)
    one, two = AgentSpool(bus), AgentSpool(bus, SpoolKey("node-2", "s1"))
    now = round(time.time() * 1000)
    async with one, two:
        one.add(_gpu_samples("node-1", now))
        await one.send_all()
        for minutes, expected in ((4, 0), (6, 6), (47 * 60, 47 * 60), (49 * 60, None)):
            two.add(_gpu_samples("node-2", now - minutes * 60_000))
            await two.send_all()
            request.page_token, behind = "", dict[str, int]()
            while not behind or request.page_token:
                answer = await metrics.ListGpuReadings(request)
                behind |= {each.node_id: each.behind_milliseconds // 60_000 for each in answer.readings}
                request.page_token = answer.next_page_token
            assert behind.pop("node-1") == 0
            assert behind.get("node-2") == expected


async def test_a_walk_over_the_pages_of_readings_shows_the_moment_of_the_first(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    read = ReadOptions(min_position=(await scheduler.started()).position)
    now = round(time.time() * 1000)
    one, two = AgentSpool(bus), AgentSpool(bus, SpoolKey("node-2", "s1"))
    async with one, two:
        for spool in (one, two):
            spool.add(_gpu_samples(spool.key.node_id, now))
            await spool.send_all()
        request = pb.ListGpuReadingsRequest(read=read, page_size=1)
        answer = await metrics.ListGpuReadings(request)
        two.add(_gpu_samples("node-2", now + 1))
        await two.send_all()
    seen = [*answer.readings]
    while answer.next_page_token:
        request.page_token = answer.next_page_token
        answer = await metrics.ListGpuReadings(request)
        seen.extend(answer.readings)
    assert [_place(each, now) for each in seen] == [
        ("node-1", "GPU-a", 0), ("node-1", "GPU-b", 0), ("node-2", "GPU-a", 0), ("node-2", "GPU-b", 0)
    ]  # fmt: skip
    latest = (await metrics.ListGpuReadings(pb.ListGpuReadingsRequest(read=read))).readings
    assert [_place(each, now)[2] for each in latest] == [0, 0, 1, 1]
    request.node_id = "node-2"
    with pytest.raises(grpc.aio.AioRpcError, match="another query"):
        await metrics.ListGpuReadings(request)
    alone = await metrics.ListGpuReadings(pb.ListGpuReadingsRequest(node_id="node-2", read=read))
    assert list(alone.readings) == list(latest[2:])


def _gpu_samples(node_id: str, milliseconds: int) -> GpuSamplesRecorded:
    return GpuSamplesRecorded(
        node_id=node_id,
        gpu_uuids=["GPU-a", "GPU-b"],
        holders=[AttemptRef()] * 2,
        times_unix_milliseconds=[milliseconds],
        utilization_percents=[80] * 2,
        memory_used_bytes=[5] * 2,
        power_milliwatts=[300_000] * 2,
        temperature_celsius=[60] * 2,
        energy_millijoules=[0] * 2,
    )


def _place(reading: pb.GpuReading, since_milliseconds: int) -> tuple[str, str, int]:
    return reading.node_id, reading.gpu_uuid, reading.time.ToMilliseconds() - since_milliseconds


async def test_shuffled_doubled_and_foreign_messages_change_nothing(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    position = (await scheduler.started()).position
    drawn = random.Random(7)

    def shuffled_and_doubled(sequences: list[int]) -> list[int]:
        return drawn.sample(sequences * 2, k=2 * len(sequences))

    foreign = AgentSpool(bus, SpoolKey("node-2", "s1"))
    async with AgentSpool(bus) as spool, foreign:
        for first in range(1, 201):
            spool.add(log_chunk(RUN_ID, first, 1))
        # A message that says it is node-1's, sent with node-2's credential.
        foreign.records = [spool.records[0].replace(b"line 1", b"forged")]
        await foreign.send(1)
        await spool.send_all(order=shuffled_and_doubled)
    lines = await _all_lines(metrics, read=ReadOptions(min_position=position))
    assert [line.text for line in lines] == [f"line {number}" for number in range(1, 201)]
    mark = pb.GetCommittedMarkRequest(node_id="node-1", spool_id="s1")
    assert (await metrics.GetCommittedMark(mark)).sequence == 200


async def test_a_watcher_sees_each_line_once_and_the_end(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    await scheduler.started()
    async with AgentSpool(bus) as spool:
        spool.add(log_chunk(RUN_ID, 1, 5))
        await spool.send_all()
        call = metrics.WatchRun(pb.WatchRunRequest(run_id=RUN_ID, with_metrics=True))
        seen = [await next_item(call) for _ in range(6)]
        assert seen[0].attempt_started == 1
        assert [item.line.number for item in seen[1:]] == [1, 2, 3, 4, 5]
        # Lines that another spool of the node left behind come late, and come all the same.
        spool.add(log_chunk(RUN_ID, 8, 2), log_chunk(RUN_ID, 6, 2), loss_points(RUN_ID, 3, [0.5]))
        await spool.send_all()
        await scheduler.finished(spool)
        rest = [item async for item in call if item.WhichOneof("item") != "bookmark_position"]
    assert [item.line.number for item in rest if item.HasField("line")] == [8, 9, 6, 7]
    assert [item.metric.value for item in rest if item.HasField("metric")] == [0.5]
    assert rest[-1].complete


async def test_a_watch_ends_only_when_the_telemetry_of_the_finished_run_is_committed(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    await scheduler.started()
    async with AgentSpool(bus) as spool:
        spool.add(log_chunk(RUN_ID, 1, 1), log_chunk(RUN_ID, 2, 1))
        await scheduler.finished(spool)
        call = metrics.WatchRun(pb.WatchRunRequest(run_id=RUN_ID))
        assert (await next_item(call)).attempt_started == 1
        await spool.send(1)
        assert (await next_item(call)).line.number == 1
        await spool.send(2)
        assert (await next_item(call)).line.number == 2
        assert (await next_item(call)).complete
        assert await call.read() is grpc.aio.EOF


async def test_a_watcher_follows_to_the_next_attempt(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    await scheduler.started()
    call = metrics.WatchRun(pb.WatchRunRequest(run_id=RUN_ID))
    assert (await next_item(call)).attempt_started == 1
    async with AgentSpool(bus) as spool:
        await scheduler.started(attempt=2)
        assert (await next_item(call)).attempt_started == 2
        spool.add(log_chunk(RUN_ID, 1, 1, attempt=2))
        await spool.send_all()
        line = (await next_item(call)).line
        assert (line.number, line.attempt) == (1, 2)
    await scheduler.finished(None)
    assert (await next_item(call)).complete


async def test_a_past_moment_is_shown_as_it_was(
    metrics: MetricServiceStub, scheduler: Scheduler, bus: Bus
) -> None:
    async with AgentSpool(bus) as spool:
        before = (await scheduler.started()).position
        spool.add(log_chunk(RUN_ID, 1, 3), loss_points(RUN_ID, 1, [1.0]))
        await spool.send_all()
        after = (await scheduler.started(attempt=2)).position
        spool.add(log_chunk(RUN_ID, 4, 3), loss_points(RUN_ID, 4, [9.0]))
        await spool.send_all()
    for position, line_count, value in ((before, 3, 1.0), (after, 6, 9.0)):
        read = ReadOptions(as_of=AsOf(position=position))
        request = pb.GetRunSummaryRequest(run_id=RUN_ID, attempt=1, read=read)
        summary = await metrics.GetRunSummary(request)
        assert (summary.log_line_count, summary.metrics[0].value) == (line_count, value)
        assert len(await _all_lines(metrics, attempt=1, read=read)) == line_count
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metrics.GetRunSummary(
            pb.GetRunSummaryRequest(run_id=RUN_ID, read=ReadOptions(as_of=AsOf(position=after + 1)))
        )
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_wrong_questions_are_refused_with_their_reason(
    metrics: MetricServiceStub, scheduler: Scheduler
) -> None:
    position = (await scheduler.started()).position
    read = ReadOptions(min_position=position)
    cases: list[tuple[Awaitable[object], grpc.StatusCode]] = [
        (metrics.GetRunSummary(pb.GetRunSummaryRequest(run_id="nobody")), grpc.StatusCode.NOT_FOUND),
        (metrics.GetRunSummary(pb.GetRunSummaryRequest()), grpc.StatusCode.INVALID_ARGUMENT),
        (
            metrics.GetRunSummary(pb.GetRunSummaryRequest(run_id=RUN_ID, attempt=2, read=read)),
            grpc.StatusCode.NOT_FOUND,
        ),
        (
            metrics.QuerySeries(pb.QuerySeriesRequest(run_id=RUN_ID, max_points=3)),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            metrics.ListLogLines(pb.ListLogLinesRequest(run_id=RUN_ID, page_token="x")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            metrics.ListLogLines(pb.ListLogLinesRequest(run_id=RUN_ID, tail_line_count=-1)),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (metrics.GetCommittedMark(pb.GetCommittedMarkRequest()), grpc.StatusCode.INVALID_ARGUMENT),
        (
            metrics.GetRunSummary(pb.GetRunSummaryRequest(run_id="nul\0")),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ]
    for call, code in cases:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asyncio.wait_for(call, DEADLINE_SECONDS)
        assert refused.value.code() is code
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await metrics.WatchRun(pb.WatchRunRequest(run_id="nobody")).read()
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
