"""Whole runs of the real agent, on a real bus, for a scripted scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import HeldAttempt, LeaseGrant, StopOrder
from runyard.metric.v1.batches_pb2 import HostSamplesRecorded, LogStream
from runyard.run.v1.types_pb2 import CauseCode, Executor, Input, OnLost
from runyard_agent.process_table import start_ticks
from runyard_agent.runtime_process import private_view_problem

from .running_agent import agent_changes, attempt_folder, cache, mounts, yard
from .scripted_yard import AgentProcess, ScriptedYard

pytestmark = pytest.mark.engines

__all__ = ["agent_changes", "cache", "yard"]


STDOUT, STDERR, STATUS = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR, LogStream.LOG_STREAM_STATUS


async def until_said(yard: ScriptedYard, grant: LeaseGrant, stream: LogStream.ValueType) -> None:
    """Wait for the first line of a stream: a run is started before its program has done anything."""
    async with asyncio.timeout(40), yard.ledger.news:
        await yard.ledger.news.wait_for(lambda: yard.ledger.lines(grant, stream) != [])


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


async def test_process_that_names_the_contracts_folders_itself_is_served_there(yard: ScriptedYard) -> None:
    if problem := await private_view_problem():
        pytest.skip(problem)
    grant = yard.scheduler.grant(
        "pwd; cat /valohai/config/parameters.json; echo $VH_INPUTS_DIR",
        "until [ -e go ]; do sleep 0.05; done",
        "printf model > /valohai/outputs/model.bin",
        "ln -s /valohai/outputs/model.bin /valohai/outputs/best.bin",
    )
    await yard.scheduler.report(grant, "started")
    yard.agent.kill()
    yard.agent.start()
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    finished = (await yard.finished(grant)).finished

    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    assert yard.ledger.lines(grant, STDOUT) == ["/valohai/repository", "{}", "/valohai/inputs"]
    assert [file.path for file in finished.outputs] == ["best.bin", "model.bin"]
    await yard.scheduler.wait_for(lambda: not yard.scheduler.held)
    assert str(yard.agent.directory) not in mounts()


async def test_file_that_is_made_read_only_is_stored_while_the_program_runs(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant(
        "printf one > $VH_OUTPUTS_DIR/step.bin; chmod 444 $VH_OUTPUTS_DIR/step.bin",
        "while [ -e $VH_OUTPUTS_DIR/step.bin ]; do sleep 0.05; done",
        "printf last > $VH_OUTPUTS_DIR/last.bin",
    )

    finished = (await yard.finished(grant)).finished

    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    assert [(file.path, file.sha256) for file in finished.outputs] == [
        ("last.bin", hashlib.sha256(b"last").hexdigest()),
        ("step.bin", hashlib.sha256(b"one").hexdigest()),
    ]
    assert [origin.path for origin in yard.artifacts.committed] == ["step.bin", "last.bin"]


async def test_line_that_is_written_to_dev_stderr_is_read(yard: ScriptedYard) -> None:
    """It empties the file that standard error is; all lines before it are gone, but were read."""
    grant = yard.scheduler.grant(
        "echo a warning of many words >&2",
        "until [ -e go ]; do sleep 0.05; done",
        "echo short > /dev/stderr",
    )
    await until_said(yard, grant, STDERR)
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    await yard.finished(grant)

    assert yard.ledger.lines(grant, STDERR) == ["a warning of many words", "short"]


async def test_failing_program_is_a_user_error_with_its_status(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("exit 3")

    cause = (await yard.finished(grant)).finished.cause

    assert (cause.code, cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 3)
    assert cause.detail == "the program exited with status 3"
    assert yard.ledger.lines(grant, STATUS)[-1] == "the program exited with status 3"


async def test_stopped_run_gets_its_signal_then_ends(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("trap 'echo bye; exit 0' TERM", "echo ready", "while :; do sleep 0.05; done")
    await until_said(yard, grant, STDOUT)

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


@pytest.mark.parametrize("is_killed", [False, True])
async def test_stop_condition_ends_the_run_with_its_grace(yard: ScriptedYard, is_killed: bool) -> None:
    grant = yard.scheduler.grant(
        "trap 'echo saved; exit 0' TERM",
        """echo '{"accuracy": 0.95}'""",
        "until [ -e go ]; do sleep 0.05; done",
        """echo '{"loss": 0.05}'""",
        "while :; do sleep 0.05; done",
        stop_condition="accuracy > 0.9 and loss < 0.1",
        stop_grace_seconds=10,
    )
    await yard.scheduler.report(grant, "started")
    if is_killed:
        yard.agent.kill()
        yard.agent.start()
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    cause = (await yard.finished(grant)).finished.cause

    assert cause.code == CauseCode.CAUSE_CODE_STOP_CONDITION
    assert cause.detail == "its stop condition holds: accuracy > 0.9 and loss < 0.1"
    assert yard.ledger.lines(grant, STDOUT)[-1] == "saved"


async def test_stop_condition_that_cannot_be_read_starts_nothing(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("echo never", stop_condition="__import__('os')")

    failed = (await yard.scheduler.report(grant, "failed")).failed

    assert failed.code == CauseCode.CAUSE_CODE_USER_ERROR
    assert "stop condition" in failed.detail


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


async def test_attempt_that_ends_with_its_lease_is_ended_by_its_shim_while_the_agent_is_dead(
    yard: ScriptedYard,
) -> None:
    grant = yard.scheduler.grant("sleep 100", lease_milliseconds=5_000, on_lost=OnLost.ON_LOST_REQUEUE)
    await yard.scheduler.report(grant, "started")
    shim = json.loads((attempt_folder(yard, grant) / "state" / "shim.json").read_bytes())

    yard.agent.kill()
    async with asyncio.timeout(40):
        while start_ticks(shim["pid"]) == shim["start_ticks"]:  # noqa: ASYNC110 - the shim brings it about
            await asyncio.sleep(0.02)
    yard.agent.start()

    finished = (await yard.finished(grant)).finished
    assert finished.cause.code == CauseCode.CAUSE_CODE_AGENT_LOST
    assert "lease ran out" in finished.cause.detail


async def test_renewed_lease_outlives_its_first_length(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("sleep 8", lease_milliseconds=6_000, on_lost=OnLost.ON_LOST_REQUEUE)

    finished = (await yard.finished(grant)).finished

    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED


async def test_run_that_a_reboot_ended_says_so(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("echo before; sleep 100")
    await until_said(yard, grant, STDOUT)
    yard.agent.kill()
    folder = attempt_folder(yard, grant)
    # What a reboot leaves: no process of the attempt, no exit file, and another boot id.
    shim = json.loads((folder / "state" / "shim.json").read_bytes())
    os.kill(shim["pid"], signal.SIGKILL)
    state_file = folder / "record" / "state.json"
    state = json.loads(state_file.read_bytes())
    state_file.write_text(json.dumps({**state, "boot_id": "an earlier one"}), encoding="utf-8")

    yard.agent.start()

    finished = (await yard.finished(grant)).finished
    assert finished.cause.code == CauseCode.CAUSE_CODE_NODE_REBOOT
    assert not finished.cause.HasField("exit_code")
    assert yard.ledger.lines(grant, STDOUT) == ["before"]


async def test_agent_that_is_told_to_stop_leaves_its_attempts_running(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("echo before", "until [ -e go ]; do sleep 0.05; done", "echo after")
    await yard.scheduler.report(grant, "started")

    assert yard.agent.terminate() == 0
    yard.agent.start()
    (attempt_folder(yard, grant) / "repository" / "go").touch()

    finished = (await yard.finished(grant)).finished
    assert finished.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED
    assert yard.ledger.lines(grant, STDOUT) == ["before", "after"]


async def test_stop_before_the_program_ran_is_reported_as_such(yard: ScriptedYard) -> None:
    yard.artifacts.is_slow = True
    grant = yard.scheduler.grant("echo never", inputs=[Input(name="data", uris=["datum://" + "0" * 64])])
    await yard.scheduler.wait_for(lambda: bool(yard.scheduler.held))

    yard.scheduler.stop(
        StopOrder(run_id=grant.run_id, attempt=1, epoch=1, cause_code=CauseCode.CAUSE_CODE_STOPPED_BY_USER)
    )

    failed = (await yard.scheduler.report(grant, "failed")).failed
    assert failed.code == CauseCode.CAUSE_CODE_STOPPED_BY_USER
    finished = (await yard.finished(grant)).finished
    assert finished.cause == failed
    assert yard.ledger.lines(grant, STDOUT) == []
    assert finished.telemetry.log_line_count == len(yard.ledger.lines(grant, STATUS)) > 0
    assert yard.ledger.lines(grant, STATUS)[-1] == "not started: it was stopped before"


async def test_missing_input_is_its_own_cause(yard: ScriptedYard) -> None:
    grant = yard.scheduler.grant("echo never", inputs=[Input(name="data", uris=["datum://" + "0" * 64])])

    failed = (await yard.scheduler.report(grant, "failed")).failed

    assert failed.code == CauseCode.CAUSE_CODE_INPUT_UNAVAILABLE
    assert "data" in failed.detail


async def test_second_agent_on_the_same_folder_refuses_to_start(yard: ScriptedYard) -> None:
    second = AgentProcess(yard.agent.directory, yard.agent.environment)
    second.start()
    assert second.process is not None

    assert second.process.wait(timeout=40) == 3
    assert "another agent runs in" in second.log


KILLS_MIN = 3
PROGRAM = """
python -u - <<'EOF'
import json, os, sys, time
for step in range(400):
    print(f"line {step}")
    print(json.dumps({"step": step}))
    print(f"warning {step}", file=sys.stderr)
    time.sleep(0.01)
    while step == 300 and not os.path.exists(os.environ["GO"]):
        time.sleep(0.01)
EOF
exit 9
"""


async def test_container_outlives_the_agent_and_leaves_the_same_record(
    yard: ScriptedYard, test_image: str
) -> None:
    grant = yard.scheduler.grant(
        "for n in $(seq 40); do echo line $n; echo warning $n >&2; sleep 0.05; done",
        "printf model > /valohai/outputs/model.bin",
        "exit 9",
        executor=Executor.EXECUTOR_DOCKER,
        image=test_image,
    )
    await yard.scheduler.report(grant, "started")
    for _ in range(3):
        yard.scheduler.hellos.clear()
        yard.agent.kill()
        yard.agent.start()
        await yard.scheduler.wait_for(lambda: bool(yard.scheduler.hellos))

    finished = (await yard.finished(grant)).finished

    assert (finished.cause.code, finished.cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 9)
    assert [file.path for file in finished.outputs] == ["model.bin"]
    assert yard.ledger.lines(grant, STDOUT) == [f"line {n}" for n in range(1, 41)]
    assert yard.ledger.lines(grant, STDERR) == [f"warning {n}" for n in range(1, 41)]
    environment = (await yard.scheduler.report(grant, "environment_captured")).environment_captured
    assert environment.executor == Executor.EXECUTOR_DOCKER
    assert environment.image_id.startswith("sha256:")
    await yard.scheduler.wait_for(lambda: not yard.scheduler.held)
    assert attempt_folder(yard, grant).exists() is False


async def test_agent_killed_again_and_again_loses_and_doubles_nothing(
    yard: ScriptedYard, tmp_path: Path
) -> None:
    chance, go = random.Random(2026), tmp_path / "go"
    # Once before, so that the environment is there and the kills meet everything else.
    await yard.finished(yard.scheduler.grant("true"))
    grant = yard.scheduler.grant(f"export GO={go}", PROGRAM)
    kill_count = 0
    while not yard.scheduler.is_finished(grant) and kill_count < 12:
        try:
            await yard.scheduler.wait_for(lambda: yard.scheduler.is_finished(grant), chance.uniform(0.1, 1.5))
        except TimeoutError:
            yard.scheduler.hellos.clear()
            yard.agent.kill()
            kill_count += 1
            if kill_count == KILLS_MIN:
                go.touch()
            yard.agent.start()
            # Some kills meet it while it starts, most while it works.
            if chance.random() < 0.8:
                await yard.scheduler.wait_for(lambda: bool(yard.scheduler.hellos))

    finished = (await yard.finished(grant)).finished

    assert kill_count >= KILLS_MIN
    assert finished.cause.exit_code == 9
    assert [line for line in yard.ledger.lines(grant, STDOUT) if line.startswith("line")] == [
        f"line {step}" for step in range(400)
    ]
    assert yard.ledger.lines(grant, STDERR) == [f"warning {step}" for step in range(400)]
    assert yard.ledger.points(grant) == [("step", float(step)) for step in range(400)]
    assert finished.telemetry.log_line_count == len(yard.ledger.lines(grant))
    reports = [report for report in yard.scheduler.reports.values() if report.run_id == grant.run_id]
    facts = sorted(str(report.WhichOneof("fact")) for report in reports)
    assert facts == ["environment_captured", "exited", "finished", "started"]
