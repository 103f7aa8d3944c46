"""Every read shows any past moment: what it answered then, it answers again, whatever happened since."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from runyard.artifact.v1 import artifact_service_pb2 as artifact_pb
from runyard.cost.v1 import cost_service_pb2 as cost_pb
from runyard.event.v1.read_pb2 import ReadOptions
from runyard.history.v1 import history_service_pb2 as history_pb
from runyard.lineage.v1 import lineage_service_pb2 as lineage_pb
from runyard.metric.v1 import metric_service_pb2 as metric_pb
from runyard.record.v1 import record_service_pb2 as record_pb
from runyard.run.v1 import scheduler_service_pb2 as scheduler_pb
from runyard.run.v1.types_pb2 import Executor, Run, RunSpec
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

PROJECT = "as-of"
Answers = dict[str, Message]
Call = Callable[..., Awaitable[Any]]

NOT_OF_A_MOMENT = {
    # What a store or a spool has now; no state of the log.
    "FindMissingBlobs",
    "GetCommittedMark",
    "GetDownload",
    "GetDownloads",
    "ResolveInputs",
    # Of the log itself: by position from the start.
    "ListEvents",
    "GetLogHead",
    "ListEffects",
}
READS = ("Get", "List", "Query", "Trace", "Impact", "Find", "Resolve", "Explain", "Diff")


@dataclass(frozen=True)
class Read:
    """One question to a service."""

    call: Call
    request: Any

    @property
    def name(self) -> str:
        """The request's name and what it asks for."""
        return f"{type(self.request).__name__} {self.request}"

    async def at(self, read: ReadOptions) -> Message:
        """Ask it about a moment."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        request.read.CopyFrom(read)
        answer: Message = await self.call(request, timeout=30)
        return answer


def reads(clients: Clients, run: Run) -> list[Read]:
    """Every read of every service, about one run."""
    sha256 = run.attempts[0].outputs[0].sha256
    scheduler, artifacts, metrics = clients.scheduler, clients.artifacts, clients.metrics
    costs, lineage = clients.costs, clients.lineage
    return [
        Read(scheduler.GetRun, scheduler_pb.GetRunRequest(name=run.run_id)),
        Read(scheduler.GetRun, scheduler_pb.GetRunRequest(name=f"{PROJECT}#latest")),
        Read(scheduler.ListRuns, scheduler_pb.ListRunsRequest(page_size=100)),
        Read(scheduler.ListRuns, scheduler_pb.ListRunsRequest(filter="state=FINISHED")),
        Read(scheduler.GetNode, scheduler_pb.GetNodeRequest(node_id=run.attempts[0].node_id)),
        Read(scheduler.ListNodes, scheduler_pb.ListNodesRequest()),
        Read(artifacts.GetArtifact, artifact_pb.GetArtifactRequest(name=sha256)),
        Read(artifacts.ListArtifacts, artifact_pb.ListArtifactsRequest(page_size=1000)),
        Read(artifacts.ListArtifacts, artifact_pb.ListArtifactsRequest(run_id=run.run_id)),
        Read(metrics.GetRunSummary, metric_pb.GetRunSummaryRequest(run_id=run.run_id)),
        Read(metrics.QuerySeries, metric_pb.QuerySeriesRequest(run_id=run.run_id)),
        Read(metrics.QueryGpuSeries, metric_pb.QueryGpuSeriesRequest(run_id=run.run_id)),
        Read(metrics.ListLogLines, metric_pb.ListLogLinesRequest(run_id=run.run_id)),
        Read(metrics.ListGpuReadings, metric_pb.ListGpuReadingsRequest()),
        Read(costs.ListPrices, cost_pb.ListPricesRequest()),
        Read(costs.GetRunCost, cost_pb.GetRunCostRequest(run_id=run.run_id)),
        Read(costs.ListRunCosts, cost_pb.ListRunCostsRequest(project=PROJECT)),
        Read(costs.GetProjectCost, cost_pb.GetProjectCostRequest(project=PROJECT)),
        Read(lineage.Trace, lineage_pb.TraceRequest(name=sha256)),
        Read(lineage.Impact, lineage_pb.ImpactRequest(name=run.run_id)),
        Read(clients.records.GetRecord, record_pb.GetRecordRequest(name=run.run_id)),
    ]


def test_every_read_of_every_service_can_name_a_moment() -> None:
    tried = {read.request.DESCRIPTOR.name for read in reads(_no_clients(), _any_run())}
    missing = []
    for file in (scheduler_pb, artifact_pb, metric_pb, cost_pb, lineage_pb, record_pb, history_pb):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.name in NOT_OF_A_MOMENT or not method.name.startswith(READS):
                    continue
                if not _names_a_moment(method) or (
                    file is not history_pb and method.input_type.name not in tried
                ):
                    missing.append(method.full_name)
    assert missing == []


async def test_what_was_answered_then_is_answered_again(yard: Yard, clients: Clients) -> None:
    run = await _one_more_run(clients, "first")
    position, live = await _live(clients, run)
    # Everything moves on: another price, file, run with the same output, and a later state of the node.
    yard.cli("price", "set", "7.25", "--per", "node-hour", "--from", "2020-01-01")
    yard.cli("put", __file__)
    later = await _one_more_run(clients, "first")
    then = ReadOptions()
    then.as_of.position = position
    answers = {read.name: await read.at(then) for read in reads(clients, run)}
    for name, answer in live.items():
        assert answers[name] == answer, name
    _, now = await _live(clients, later)
    changed = {name for name, answer in now.items() if name in live and answer != live[name]}
    assert {name.split()[0] for name in changed} >= {"ListRunsRequest", "ListPricesRequest"}


async def test_a_time_means_the_last_position_recorded_by_then(clients: Clients) -> None:
    run = await _one_more_run(clients, "timed")
    position, live = await _live(clients, run)
    page = await clients.history.ListEvents(
        history_pb.ListEventsRequest(after_position=position - 1, to_position=position)
    )
    await _one_more_run(clients, "after")
    then = ReadOptions()
    then.as_of.time.CopyFrom(page.events[0].envelope.recorded_at)
    for read in reads(clients, run):
        assert await read.at(then) == live[read.name], read.name


async def test_a_page_walk_shows_the_moment_of_its_first_page(yard: Yard, clients: Clients) -> None:
    run = await _one_more_run(clients, "paged")
    yard.cli("price", "set", "1.50", "--per", "node-hour")
    position, _ = await _live(clients, run)
    then, now = ReadOptions(), ReadOptions(min_position=position)
    then.as_of.position = position
    lists: Sequence[tuple[Call, Any, str]] = (
        (clients.scheduler.ListRuns, scheduler_pb.ListRunsRequest(), "runs"),
        (clients.scheduler.ListNodes, scheduler_pb.ListNodesRequest(), "nodes"),
        (clients.artifacts.ListArtifacts, artifact_pb.ListArtifactsRequest(), "artifacts"),
        (clients.metrics.ListLogLines, metric_pb.ListLogLinesRequest(run_id=run.run_id), "lines"),
        (clients.costs.ListPrices, cost_pb.ListPricesRequest(), "prices"),
        (clients.costs.ListRunCosts, cost_pb.ListRunCostsRequest(project=PROJECT), "costs"),
    )
    walks: list[tuple[str, Any, Call, Any, list[Message]]] = []
    for call, request, field in lists:
        for read in (then, now):
            request = type(request).FromString(request.SerializeToString())
            request.read.CopyFrom(read)
            request.page_size = 1
            first = await call(request, timeout=30)
            walks.append((field, request, call, first, list(getattr(first, field))))
    await _one_more_run(clients, "between pages")
    yard.cli("price", "set", "1.75", "--per", "node-hour")
    for field, request, call, first, items in walks:
        answer = first
        while answer.next_page_token:
            request.page_token = answer.next_page_token
            answer = await call(request, timeout=30)
            items.extend(getattr(answer, field))
        whole = type(request).FromString(request.SerializeToString())
        whole.page_token, whole.page_size = "", 1000
        whole.read.CopyFrom(then)
        assert items == list(getattr(await call(whole, timeout=30), field)), f"{field} {request.read}"


async def test_a_moment_that_the_log_does_not_have_is_refused_by_every_read(clients: Clients) -> None:
    run = await _one_more_run(clients, "bad")
    ahead, below = ReadOptions(), ReadOptions()
    ahead.as_of.position, below.as_of.position = 10**9, -1
    for read in reads(clients, run):
        for options, code in (
            (ahead, grpc.StatusCode.OUT_OF_RANGE),
            (below, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read.at(options)
            assert refused.value.code() is code, read.name


async def _one_more_run(clients: Clients, word: str) -> Run:
    command = f"echo '{{\"score\": 1.5}}'; echo {word}; echo {word} > $VH_OUTPUTS_DIR/o"
    spec = RunSpec(step="x", command_lines=[command], executor=Executor.EXECUTOR_PROCESS)
    run = await clients.submit(spec, PROJECT)
    return (await clients.complete_record(run.run_id)).run


async def _live(clients: Clients, run: Run) -> tuple[int, Answers]:
    """Ask everything about now, at a moment at which nothing happens."""
    for _ in range(5):
        before = (await clients.history.GetLogHead(history_pb.GetLogHeadRequest())).domain_position
        now = ReadOptions(min_position=before)
        answers = {read.name: await read.at(now) for read in reads(clients, run)}
        after = (await clients.history.GetLogHead(history_pb.GetLogHeadRequest())).domain_position
        if before == after:
            return before, answers
    raise AssertionError("the yard never was at rest")


def _names_a_moment(method: MethodDescriptor) -> bool:
    fields = method.input_type.fields_by_name
    return any(name in fields for name in ("read", "as_of", "begin"))


class _Stubs:
    def __getattr__(self, name: str) -> Any:
        return _Stubs()


def _no_clients() -> Any:
    return _Stubs()


def _any_run() -> Run:
    run = Run(run_id="r")
    run.attempts.add(node_id="n").outputs.add(sha256="0" * 64)
    return run
