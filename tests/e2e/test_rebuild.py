"""Read models are disposable: dropped, they come back from the log byte for byte."""

from __future__ import annotations

import pytest

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.cost.v1.cost_service_pb2 import ListPricesRequest
from runyard.lineage.v1.lineage_service_pb2 import TraceRequest
from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest
from runyard.run.v1.types_pb2 import Executor, RunSpec
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import domain_head, drop_read_model, kill_and_await, read_model_dump

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]

SERVICES = ("cost", "lineage", "scheduler", "artifact")


async def _applied(clients: Clients, service: str, run_id: str, position: int) -> None:
    """Wait until a service's read model shows a position, by asking it for that position."""
    match service:
        case "cost":
            prices = ListPricesRequest()
            prices.read.min_position = position
            await clients.costs.ListPrices(prices, timeout=30, wait_for_ready=True)
        case "lineage":
            trace = TraceRequest(name=run_id)
            trace.read.min_position = position
            await clients.lineage.Trace(trace, timeout=30, wait_for_ready=True)
        case "scheduler":
            runs = ListRunsRequest()
            runs.read.min_position = position
            await clients.scheduler.ListRuns(runs, timeout=30, wait_for_ready=True)
        case _:
            artifacts = ListArtifactsRequest()
            artifacts.read.min_position = position
            await clients.artifacts.ListArtifacts(artifacts, timeout=30, wait_for_ready=True)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_dropped_read_model_comes_back_from_the_log_byte_for_byte(
    yard: Yard, clients: Clients, service: str
) -> None:
    yard.cli("price", "set", "1.25", "--per", "node-hour")
    command = "echo hello > $VH_OUTPUTS_DIR/o"
    spec = RunSpec(step="x", command_lines=[command], executor=Executor.EXECUTOR_PROCESS)
    run = await clients.submit(spec)
    await clients.complete_record(run.run_id)
    position = await domain_head(yard)
    await _applied(clients, service, run.run_id, position)
    before = await read_model_dump(yard, service, position)
    assert sum(map(len, before.values())) > 0

    await drop_read_model(yard, service)
    await kill_and_await(yard, service)

    await _applied(clients, service, run.run_id, position)
    assert await read_model_dump(yard, service, position) == before
