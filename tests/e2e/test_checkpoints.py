"""An attempt that is lost leaves its checkpoints to the next one, in a whole yard."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.run.v1.events_pb2 import RunStarted
from runyard.run.v1.scheduler_service_pb2 import WatchRunsRequest
from runyard.run.v1.types_pb2 import CauseCode, Executor, OnLost, RunSpec
from runyard_contracts.envelope import unwrap
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

# Trains to step 2. Each step is handed over by being made read-only; the first attempt waits to be lost.
PROGRAM = """
import json, os, pathlib, time
inputs = pathlib.Path(os.environ["VH_INPUTS_DIR"])
found = inputs / "runyard-checkpoints" / "ckpt" / "last.json"
listed = json.loads((pathlib.Path(os.environ["VH_CONFIG_DIR"]) / "inputs.json").read_text())
step = json.loads(found.read_text())["step"] if found.exists() else 0
print("begins at", step, sorted(listed), flush=True)
folder = pathlib.Path(os.environ["VH_OUTPUTS_DIR"]) / "ckpt"
while step < 2:
    step += 1
    folder.mkdir(exist_ok=True)
    (folder / "new").write_text(json.dumps({"step": step}))
    (folder / "new").rename(folder / "last.json")
    (folder / "last.json").chmod(0o444)
    while (folder / "last.json").exists():
        time.sleep(0.05)
    while step == 1 and not found.exists():
        time.sleep(0.1)
"""


async def test_a_lost_attempt_is_gone_on_from_where_it_stored_its_last_checkpoint(
    yard: Yard, clients: Clients
) -> None:
    spec = RunSpec(
        step="train",
        command_lines=[f"python3 - <<'EOF'\n{PROGRAM}\nEOF"],
        executor=Executor.EXECUTOR_PROCESS,
        on_lost=OnLost.ON_LOST_REQUEUE,
    )
    run = await clients.submit(spec)
    shim_file = yard.home / "agent" / "attempts" / f"{run.run_id}-1" / "state" / "shim.json"
    await _until_stored(clients, run.run_id)
    # Its parent dies with everything of it, as with a machine: nobody can say how it ended.
    os.kill(int(json.loads(shim_file.read_text())["pid"]), signal.SIGKILL)

    record = await clients.complete_record(run.run_id, timeout_seconds=90)

    assert record.run.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    first, second = record.run.attempts
    assert first.cause.code == CauseCode.CAUSE_CODE_AGENT_LOST
    assert "begins at 1 ['runyard-checkpoints']" in await clients.lines(run.run_id)
    (checkpoint,) = second.inputs
    assert checkpoint.name == "runyard-checkpoints"
    (file,) = checkpoint.files
    assert (file.path, file.uri) == ("ckpt/last.json", f"datum://{file.sha256}")
    assert list(first.inputs) == []
    assert [len(each.inputs) for each in await _starts(clients, run.run_id)] == [0, 1]


async def _until_stored(clients: Clients, run_id: str) -> None:
    """Wait until the catalogue shows a file that the run has left behind."""
    request = ListArtifactsRequest(run_id=run_id)
    async with asyncio.timeout(60):
        while not (await clients.artifacts.ListArtifacts(request)).artifacts:  # noqa: ASYNC110 - no event to await
            await asyncio.sleep(0.1)


async def _starts(clients: Clients, run_id: str) -> list[RunStarted]:
    found: list[RunStarted] = []
    watch = clients.scheduler.WatchRuns(WatchRunsRequest(name=run_id))
    async for item in watch:
        if item.WhichOneof("item") == "caught_up_position":
            break
        message = unwrap(item.event)
        if isinstance(message, RunStarted):
            found.append(message)
    watch.cancel()
    return found
