"""Read models are disposable: dropped, they come back from the log byte for byte."""

from __future__ import annotations

import pytest
from tests.faults.processes import drop_read_model, kill_service, read_model_dump, wait_until_applied

from runyard.run.v1.types_pb2 import Executor, RunSpec
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180), pytest.mark.xdist_group("yard")]


@pytest.mark.parametrize("service", ["cost", "lineage", "scheduler", "artifact"])
async def test_a_dropped_read_model_comes_back_from_the_log_byte_for_byte(
    yard: Yard, clients: Clients, service: str
) -> None:
    yard.cli("price", "set", "--node-hour", "1.25")
    spec = RunSpec(
        step="x", command_lines=["echo hello > $VH_OUTPUTS_DIR/o"], executor=Executor.EXECUTOR_PROCESS
    )
    await clients.complete_record((await clients.submit(spec)).run_id)
    position = await wait_until_applied(yard, service)
    before = await read_model_dump(yard, service, position)
    assert sum(map(len, before.values())) > 0

    await drop_read_model(yard, service)
    kill_service(yard, service)

    await wait_until_applied(yard, service, position)
    assert await read_model_dump(yard, service, position) == before
