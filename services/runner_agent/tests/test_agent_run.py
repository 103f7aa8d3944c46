"""Whole runs of the real agent, on a real bus, for a scripted scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import HeldAttempt, StopOrder
from runyard.metric.v1.batches_pb2 import HostSamplesRecorded, LogStream
from runyard.run.v1.types_pb2 import CauseCode
from runyard_testkit import Bus

from .scripted_yard import (
    AgentProcess,
    Ledger,
    ScriptedArtifacts,
    ScriptedScheduler,
    ScriptedYard,
    agent_environment,
    create_stream,
    serve,
)

STDOUT, STDERR, STATUS = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR, LogStream.LOG_STREAM_STATUS


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a cache for all agents of the session: making an environment takes seconds."""
    return tmp_path_factory.mktemp("agent-cache")


@pytest.fixture
async def yard(bus: Bus, tmp_path: Path, cache: Path) -> AsyncIterator[ScriptedYard]:
    client = await bus.connect("test")
    await create_stream(client)
    ledger = Ledger()
    consuming = asyncio.ensure_future(ledger.run(client))
    scheduler = ScriptedScheduler()
    artifacts = ScriptedArtifacts()  # type: ignore[abstract] # only what outputs need
    server, address = await serve(scheduler, artifacts)
    directory = tmp_path / "agent"
    directory.mkdir()
    (directory / "cache").symlink_to(cache)
    environment = agent_environment(directory, address, bus.url, bus.password("agent-node-1"))
    agent = AgentProcess(directory, environment)
    agent.start()
    await scheduler.wait_for(lambda: bool(scheduler.hellos))
    yield ScriptedYard(scheduler, artifacts, ledger, agent)
    agent.kill()
    print(agent.log)
    await server.stop(0)
    consuming.cancel()
    await client.close()


async def test_run_leaves_its_whole_record(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant(
        "echo hello; echo trouble >&2",
        """echo '{"loss": 0.5, "epoch": 1, "note": "good"}'""",
        "printf model > $VH_OUTPUTS_DIR/model.bin",
        "sleep 1.2",
        "exit 0",
    )

    finished = (await yard.finished(grant)).finished

    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    assert finished.cause.exit_code == 0
    assert [(file.path, file.sha256) for file in finished.outputs] == [
        ("model.bin", hashlib.sha256(b"model").hexdigest())
    ]
    assert yard.ledger.lines(grant, STDOUT)[0] == "hello"
    assert yard.ledger.lines(grant, STDERR) == ["trouble"]
    assert yard.ledger.points(grant) == [("loss", 0.5), ("epoch", 1.0)]
    assert finished.telemetry.log_line_count == len(yard.ledger.lines(grant))
    assert finished.telemetry.metric_point_count == 2
    samples = [message for message in yard.ledger.messages() if isinstance(message, HostSamplesRecorded)]
    assert sum(len(batch.times_unix_milliseconds) for batch in samples) == finished.telemetry.sample_count > 0
    environment = (await yard.scheduler.report(grant, "environment_captured")).environment_captured
    assert environment.interpreter.startswith("CPython 3.")
    started = (await yard.scheduler.report(grant, "started")).started
    assert started.hardware.node_id == "node-1"
    exited = await yard.scheduler.report(grant, "exited")
    assert exited.exited.cause == finished.cause
    await yard.scheduler.wait_for(lambda: not yard.scheduler.held)
    assert list((yard.agent.directory / "attempts").iterdir()) == []


async def test_failing_program_is_a_user_error_with_its_status(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("exit 3")

    cause = (await yard.finished(grant)).finished.cause

    assert (cause.code, cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 3)
    assert cause.detail == "the program exited with status 3"
    assert yard.ledger.lines(grant, STATUS)[-1] == "the program exited with status 3"


async def test_stopped_run_gets_its_signal_then_ends(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("trap 'echo bye; exit 0' TERM", "echo ready", "while :; do sleep 0.05; done")
    await yard.scheduler.report(grant, "started")

    yard.scheduler.stop(
        StopOrder(
            run_id=grant.run_id,
            attempt=1,
            epoch=1,
            grace_seconds=10,
            cause_code=CauseCode.CAUSE_CODE_STOPPED_BY_USER,
            reason="enough",
        )
    )
    cause = (await yard.finished(grant)).finished.cause

    assert (cause.code, cause.detail) == (CauseCode.CAUSE_CODE_STOPPED_BY_USER, "enough")
    assert yard.ledger.lines(grant, STDOUT) == ["ready", "bye"]


async def test_unwanted_attempt_is_ended(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("sleep 100")
    await yard.scheduler.report(grant, "started")
    yard.scheduler.fenced.append(
        HeldAttempt(run_id=grant.run_id, attempt=1, epoch=1, lease_id=grant.lease_id)
    )

    yard.agent.kill()
    yard.agent.start()

    finished = (await yard.finished(grant)).finished
    assert finished.cause.code == CauseCode.CAUSE_CODE_AGENT_LOST


PROGRAM = """
python -u - <<'EOF'
import json, sys, time
for step in range(400):
    print(f"line {step}")
    print(json.dumps({"step": step}))
    print(f"warning {step}", file=sys.stderr)
    time.sleep(0.01)
EOF
exit 9
"""


async def test_agent_killed_again_and_again_loses_and_doubles_nothing(yard: ScriptedYard) -> None:
    chance = random.Random(2026)
    grant = yard.scheduler.grant(PROGRAM)
    kill_count = 0
    while not yard.scheduler.is_finished(grant) and kill_count < 12:
        try:
            await yard.scheduler.wait_for(lambda: yard.scheduler.is_finished(grant), chance.uniform(0.1, 1.5))
        except TimeoutError:
            yard.agent.kill()
            kill_count += 1
            yard.agent.start()

    finished = (await yard.finished(grant)).finished

    assert kill_count >= 3
    assert finished.cause.exit_code == 9
    assert [line for line in yard.ledger.lines(grant, STDOUT) if line.startswith("line")] == [
        f"line {step}" for step in range(400)
    ]
    assert yard.ledger.lines(grant, STDERR) == [f"warning {step}" for step in range(400)]
    assert yard.ledger.points(grant) == [("step", float(step)) for step in range(400)]
    assert finished.telemetry.log_line_count == len(yard.ledger.lines(grant))
    facts = sorted(str(report.WhichOneof("fact")) for report in yard.scheduler.reports.values())
    assert facts == ["environment_captured", "exited", "finished", "started"]
