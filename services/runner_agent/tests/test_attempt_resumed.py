"""An agent that died between two writes goes on where it was, and lets go when all is told."""

# ruff: noqa: ASYNC110 - a turn of the loop is all that is waited for

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptFinished, LeaseGrant
from runyard.run.v1.types_pb2 import Cause, CauseCode, Executor, TelemetryMark
from runyard_agent import loop
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.domain.attempt import AttemptState, Phase, begun
from runyard_agent.domain.redaction import Redaction
from runyard_agent.loop import Attempts
from runyard_agent.node import Node

GRANT = LeaseGrant(run_id="0199-run", attempt=1, epoch=1, lease_id="lease-1", project="p")
AT = datetime(2026, 1, 1, tzinfo=UTC)
CAUSE = Cause(code=CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE, detail="no interpreter")


class QuietTelemetry:
    """The attempt's telemetry; ``sync`` takes as long as the test says."""

    def __init__(self, *_: object) -> None:
        self.synced = asyncio.Event()
        self.redaction = Redaction()
        made.append(self)

    def write_status(self, sentence: str) -> None:
        pass

    async def sync(self) -> None:
        await self.synced.wait()

    def telemetry_mark(self) -> TelemetryMark:
        return TelemetryMark(last_sequence=7)

    def forget(self) -> None:
        pass


made: list[QuietTelemetry] = []


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    monkeypatch.setattr(loop, "AttemptTelemetry", QuietTelemetry)


def an_attempt_that_failed(directory: Path) -> AttemptRecord:
    """The agent told that it could not start the program, and died before it wrote anything else."""
    record = AttemptStore(directory).create(GRANT, AttemptState())
    record.save(begun(record.state, Executor.EXECUTOR_PROCESS, "boot-1"))
    record.report(CAUSE, AT)
    return record


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def resumed(directory: Path, then: Callable[[Attempts], Awaitable[None]]) -> None:
    async def nobody(_: object) -> None:
        raise AssertionError("nothing may be looked for or started any more")

    executors = SimpleNamespace(choose=nobody, get=nobody)
    clock = SimpleNamespace(now=lambda: AT)
    node = cast("Node", SimpleNamespace(node_id="node-1", boot_id="boot-2", executors=executors, clock=clock))
    telemetry = SimpleNamespace(spool=SimpleNamespace(marks={}))
    attempts = Attempts(node, AttemptStore(directory), cast("Any", telemetry))
    ready = asyncio.Event()
    running = asyncio.create_task(attempts.run(ready))
    try:
        async with asyncio.timeout(20):
            await ready.wait()
            await then(attempts)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_nothing_is_started_once_the_failure_was_told(tmp_path: Path) -> None:
    record = an_attempt_that_failed(tmp_path)

    async def tells_the_rest(attempts: Attempts) -> None:
        made[0].synced.set()
        while len(list(attempts.pending_reports())) < 2:
            await asyncio.sleep(0)

    await resumed(tmp_path, tells_the_rest)

    failed, finished = record.pending_reports()
    assert (failed.failed, finished.finished.cause) == (CAUSE, CAUSE)
    (again,) = AttemptStore(tmp_path).load()
    assert again.state.phase is Phase.REPORTING


async def test_last_acknowledgement_before_the_last_write_still_lets_go(tmp_path: Path) -> None:
    record = an_attempt_that_failed(tmp_path)
    record.report(AttemptFinished(cause=CAUSE), AT)

    async def hears_first(attempts: Attempts) -> None:
        for report in list(attempts.pending_reports()):
            attempts.acknowledge(report.report_id, "")
        assert attempts.held()
        made[0].synced.set()
        while attempts.held():
            await asyncio.sleep(0)

    await resumed(tmp_path, hears_first)

    assert AttemptStore(tmp_path).load() == []


async def test_many_files_are_removed_while_the_others_go_on(tmp_path: Path) -> None:
    record = an_attempt_that_failed(tmp_path)
    record.report(AttemptFinished(cause=CAUSE), AT)
    left = record.directory / "outputs/steps"
    left.mkdir(parents=True)
    for number in range(2_000):
        (left / f"{number}.txt").touch()

    async def is_let_go_at_once(attempts: Attempts) -> None:
        made[0].synced.set()
        for report in list(attempts.pending_reports()):
            attempts.acknowledge(report.report_id, "")
        while attempts.held():
            await asyncio.sleep(0)
        assert AttemptStore.load(attempts._store) == []
        assert names_in(tmp_path) == [f".removed-{record.directory.name}"]
        while names_in(tmp_path):
            await asyncio.sleep(0)

    await resumed(tmp_path, is_let_go_at_once)
