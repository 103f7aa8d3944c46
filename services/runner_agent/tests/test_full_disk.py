"""The disk of the agent's folder is full for a while: the agent lives, and what it was told is all there."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import StopOrder
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, OnLost
from runyard_agent.spool import SEGMENT_BYTES
from runyard_testkit import Bus

from .running_agent import attempt_folder, cache, running_agent
from .scripted_yard import HEARTBEAT_MILLISECONDS, ScriptedYard

__all__ = ["cache"]

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(180)]

STDOUT = LogStream.LOG_STREAM_STDOUT
LEASE_MILLISECONDS = 6_000


@pytest.fixture
async def yard(bus: Bus, tmp_path: Path, cache: Path) -> AsyncIterator[ScriptedYard]:
    """Run the agent in a folder on a disk of 20 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    async with AsyncExitStack() as stack:
        small = tmp_path / "agent"
        small.mkdir()
        mounted = subprocess.run(  # noqa: ASYNC221
            ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", small], check=False
        )
        if mounted.returncode != 0:
            pytest.skip("no small disk can be mounted here")
        stack.callback(lambda: subprocess.run(["umount", "-l", small], check=True))
        changes = {"RUNYARD_DISK_MEGABYTES": "1000"}
        yield await stack.enter_async_context(running_agent(bus, small, cache, changes))


async def until(path: Path, *, exists: bool) -> None:
    async with asyncio.timeout(30):
        while os.path.lexists(path) is not exists:  # noqa: ASYNC110, ASYNC240 - others bring it about
            await asyncio.sleep(0.02)


async def test_full_disk_costs_no_line_and_no_end(yard: ScriptedYard, tmp_path: Path) -> None:
    full, go = tmp_path / "full", tmp_path / "go"
    grant = yard.scheduler.grant(
        "for n in 1 2 3; do echo before $n; done",
        f"head -c 90000000 /dev/zero > $VH_OUTPUTS_DIR/all || true; touch {full}",
        f"until [ -e {go} ]; do sleep 0.05; done; rm $VH_OUTPUTS_DIR/all",
        "for n in 1 2 3; do echo after $n; done; echo kept > $VH_OUTPUTS_DIR/kept; exit 5",
        lease_milliseconds=LEASE_MILLISECONDS,
        on_lost=OnLost.ON_LOST_REQUEUE,
    )
    await until(full, exists=True)
    disk = os.statvfs(yard.agent.directory)
    # Not a byte, or what the agent kept back and is writing into just now.
    assert disk.f_bavail * disk.f_frsize < SEGMENT_BYTES
    # Longer than its lease: it must be renewed on a full disk.
    await yard.scheduler.renewals(LEASE_MILLISECONDS // HEARTBEAT_MILLISECONDS + 2)
    go.touch()

    finished = (await yard.finished(grant)).finished

    assert (finished.cause.code, finished.cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 5)
    assert [file.path for file in finished.outputs] == ["kept"]
    expected = [f"{when} {n}" for when in ("before", "after") for n in (1, 2, 3)]
    assert yard.ledger.lines(grant, STDOUT) == expected
    assert yard.agent.process is not None
    assert yard.agent.process.poll() is None


async def test_run_is_stopped_on_a_full_disk(yard: ScriptedYard, tmp_path: Path) -> None:
    full = tmp_path / "full"
    grant = yard.scheduler.grant(
        f"head -c 90000000 /dev/zero > $VH_OUTPUTS_DIR/all || true; touch {full}; sleep 100"
    )
    await until(full, exists=True)

    yard.scheduler.stop(
        StopOrder(run_id=grant.run_id, attempt=1, epoch=1, cause_code=CauseCode.CAUSE_CODE_STOPPED_BY_USER)
    )

    shim_exit = attempt_folder(yard, grant) / "state" / "exit.json"
    await until(shim_exit, exists=True)
    (attempt_folder(yard, grant) / "outputs" / "all").unlink()
    cause = (await yard.finished(grant, 90)).finished.cause
    assert cause.code == CauseCode.CAUSE_CODE_STOPPED_BY_USER
    assert yard.agent.process is not None
    assert yard.agent.process.poll() is None
