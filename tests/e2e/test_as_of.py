"""Every read shows any past moment: what it answered then, it answers again, whatever happened since."""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from runyard.artifact.v1 import artifact_service_pb2 as artifact_pb
from runyard.artifact.v1 import registry_service_pb2 as registry_pb
from runyard.cost.v1 import cost_service_pb2 as cost_pb
from runyard.event.v1.read_pb2 import ReadOptions
from runyard.history.v1 import history_service_pb2 as history_pb
from runyard.lineage.v1 import lineage_service_pb2 as lineage_pb
from runyard.metric.v1 import metric_service_pb2 as metric_pb
from runyard.record.v1 import record_service_pb2 as record_pb
from runyard.run.v1 import scheduler_service_pb2 as scheduler_pb
from runyard.run.v1 import secret_service_pb2 as secret_pb
from runyard.run.v1.types_pb2 import Executor, Input, Run, RunSpec
from tests.contract import reads as rpcs
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

PROJECT = "as-of"
NAMES = json.dumps(
    {
        "valohai.tags": ["tried"],
        "valohai.alias": "newest",
        "valohai.dataset-versions": [
            {"uri": "dataset://images/VERSION", "targeting_aliases": ["newest"]},
            {"uri": "dataset://others/VERSION"},
        ],
        "valohai.model-versions": [{"model_uri": "model://net/"}, {"model_uri": "model://other-net/"}],
    }
)
"""What each run says of its output."""
Answers = dict[str, Message]
Call = Callable[..., Awaitable[Any]]


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
        """Ask it about a moment; gives the answer at rest."""
        request = type(self.request)()
        request.CopyFrom(self.request)
        request.read.CopyFrom(read)
        return at_rest(await self.call(request, timeout=30))


def at_rest(answer: Message) -> Message:
    """Leave out what goes on while nothing happens: idle GPUs are sampled, behind the last event, too."""
    still = type(answer)()
    still.CopyFrom(answer)
    match still:
        case metric_pb.GetRunSummaryResponse():
            still.ClearField("telemetry_position")
        case metric_pb.GpuReading():
            return _whose(still)
        case metric_pb.ListGpuReadingsResponse():
            return metric_pb.ListGpuReadingsResponse(readings=map(_whose, still.readings))
        case _:
            pass
    return still


def _whose(reading: metric_pb.GpuReading) -> metric_pb.GpuReading:
    return metric_pb.GpuReading(node_id=reading.node_id, gpu_uuid=reading.gpu_uuid)


def reads(clients: Clients, run: Run) -> list[Read]:
    """Every read of every service, about one run; HistoryService has tests of its own."""
    sha256, node_id = run.attempts[0].outputs[0].sha256, run.attempts[0].node_id
    names = Input(name="x", uris=["datum://newest", "dataset://images/newest", "model://net/1"])
    scheduler, artifacts, registry, secrets = (
        clients.scheduler, clients.artifacts, clients.registry, clients.secrets
    )  # fmt: skip
    metrics, costs, lineage = clients.metrics, clients.costs, clients.lineage
    return [
        Read(scheduler.GetRun, scheduler_pb.GetRunRequest(name=run.run_id)),
        Read(scheduler.GetRun, scheduler_pb.GetRunRequest(name=f"{PROJECT}#latest")),
        Read(scheduler.ListRuns, scheduler_pb.ListRunsRequest(page_size=100)),
        Read(scheduler.ListRuns, scheduler_pb.ListRunsRequest(filter="state=FINISHED")),
        Read(scheduler.GetNode, scheduler_pb.GetNodeRequest(node_id=node_id)),
        Read(scheduler.ListNodes, scheduler_pb.ListNodesRequest()),
        Read(secrets.ListSecrets, secret_pb.ListSecretsRequest(project=PROJECT)),
        Read(artifacts.GetArtifact, artifact_pb.GetArtifactRequest(name=sha256)),
        Read(artifacts.ListArtifacts, artifact_pb.ListArtifactsRequest(page_size=1000)),
        Read(artifacts.ListArtifacts, artifact_pb.ListArtifactsRequest(run_id=run.run_id)),
        Read(artifacts.ResolveInputs, artifact_pb.ResolveInputsRequest(project=PROJECT, inputs=[names])),
        Read(registry.ListDatasets, registry_pb.ListDatasetsRequest(project=PROJECT)),
        Read(
            registry.ListDatasetVersions,
            registry_pb.ListDatasetVersionsRequest(project=PROJECT, dataset="images"),
        ),
        Read(
            registry.GetDatasetVersion,
            registry_pb.GetDatasetVersionRequest(project=PROJECT, name="images/newest"),
        ),
        Read(registry.ListModels, registry_pb.ListModelsRequest(project=PROJECT)),
        Read(registry.ListModelVersions, registry_pb.ListModelVersionsRequest(project=PROJECT, model="net")),
        Read(registry.GetModelVersion, registry_pb.GetModelVersionRequest(project=PROJECT, name="net")),
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


def test_every_read_of_every_service_is_tried() -> None:
    tried = {read.request.DESCRIPTOR.full_name for read in reads(_no_clients(), _any_run())}
    known = {method.input_type.full_name for method in rpcs.reads()}
    assert {name for name in known - tried if not name.startswith("runyard.history.")} == set()


async def test_what_was_answered_then_is_answered_again(yard: Yard, clients: Clients) -> None:
    run = await _one_more_run(clients, "first")
    position, live = await _live(clients, run)
    # Everything moves on: another price, file, run with the same output, and a later state of the node.
    yard.cli("price", "set", "7.25", "--per", "node-hour", "--from", "2020-01-01")
    yard.cli("put", __file__)
    secret = secret_pb.SetSecretRequest(
        request_id=str(uuid.uuid4()), project=PROJECT, name="TOKEN", value="a secret"
    )
    await clients.secrets.SetSecret(secret, timeout=30)
    later = await _one_more_run(clients, "first")
    then = ReadOptions()
    then.as_of.position = position
    answers = {read.name: await read.at(then) for read in reads(clients, run)}
    for name, answer in live.items():
        assert answers[name] == answer, name
    _, now = await _live(clients, later)
    changed = {name for name, answer in now.items() if name in live and answer != live[name]}
    assert {name.split()[0] for name in changed} >= {
        "GetDatasetVersionRequest",
        "ListModelVersionsRequest",
        "ListPricesRequest",
        "ListRunsRequest",
        "ListSecretsRequest",
        "ResolveInputsRequest",
    }


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
    lists = [read for read in reads(clients, run) if rpcs.is_paged(read.request.DESCRIPTOR)]
    walks: list[tuple[str, Any, Call, Any, list[Message]]] = []
    for listed in lists:
        field = _listed_field(listed.request.DESCRIPTOR)
        for read in (then, now):
            request = type(listed.request).FromString(listed.request.SerializeToString())
            request.read.CopyFrom(read)
            request.page_size = 1
            first = await listed.call(request, timeout=30)
            walks.append((field, request, listed.call, first, list(getattr(first, field))))
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
        all_items = getattr(await call(whole, timeout=30), field)
        assert list(map(at_rest, items)) == list(map(at_rest, all_items)), f"{field} {request.read}"


async def test_a_moment_that_the_log_does_not_have_is_refused_by_every_read(clients: Clients) -> None:
    run = await _one_more_run(clients, "bad")
    ahead, below, future, before = ReadOptions(), ReadOptions(), ReadOptions(), ReadOptions()
    ahead.as_of.position, below.as_of.position = 10**9, -1
    future.as_of.time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    before.as_of.time.FromDatetime(datetime(2020, 1, 1, tzinfo=UTC))
    for read in reads(clients, run):
        for options, code in (
            (ahead, grpc.StatusCode.OUT_OF_RANGE),
            (future, grpc.StatusCode.OUT_OF_RANGE),
            (before, grpc.StatusCode.OUT_OF_RANGE),
            (below, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read.at(options)
            assert refused.value.code() is code, read.name


async def _one_more_run(clients: Clients, word: str) -> Run:
    command = (
        f"echo '{{\"score\": 1.5}}'; echo {word}; echo {word} > $VH_OUTPUTS_DIR/o; "
        f"sed s/VERSION/$VH_EXECUTION_ID/ > $VH_OUTPUTS_DIR/o.metadata.json <<'END'\n{NAMES}\nEND"
    )
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


def _listed_field(request: Descriptor) -> str:
    """Name the field of the answer that has what is listed."""
    [method] = [each for each in rpcs.reads() if each.input_type.full_name == request.full_name]
    fields = method.output_type.fields
    return str(next(field.name for field in fields if field.is_repeated and field.message_type))


class _Stubs:
    def __getattr__(self, name: str) -> Any:
        return _Stubs()


def _no_clients() -> Any:
    return _Stubs()


def _any_run() -> Run:
    run = Run(run_id="r")
    run.attempts.add(node_id="n").outputs.add(sha256="0" * 64)
    return run
