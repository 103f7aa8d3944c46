"""A person on another machine: enters the yard through its gate, does what people do, and is thrown out."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.metric.v1.metric_service_pb2 import WatchRunRequest
from runyard.run.v1.hands_on_service_pb2 import (
    ConnectRequest,
    ConnectResponse,
    ConnectStart,
    ForwardRequest,
)
from runyard.run.v1.scheduler_service_pb2 import GetRunRequest, StopRunRequest
from runyard.run.v1.types_pb2 import Executor, Outcome, RunSpec
from runyard_client import Client, ClientError, Context, load_context
from runyard_client.files import download_file
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120), pytest.mark.xdist_group("yard")]

ECHO = """python3 -u - <<'EOF'
import socket
server = socket.create_server(("127.0.0.1", 0))
print("port", server.getsockname()[1])
while True:
    connection, _ = server.accept()
    connection.sendall(connection.recv(99).upper())
EOF"""


async def test_a_person_elsewhere_does_all_that_people_do_until_the_token_is_revoked(
    yard: Yard, clients: Clients, tmp_path: Path
) -> None:
    # Nothing but the token, so that it can be piped to where it is kept.
    token = yard.cli("people", "invite", "alice").stdout
    laptop = Yard(tmp_path / "laptop")
    context = _joined(laptop, token)

    followed = laptop.cli("run", "count", "--steps", "2", "--executor", "process", "--follow")
    assert "step 2 of 2" in followed.stdout
    async with Client.connect(context) as client:
        finished = (await client.scheduler.GetRun(GetRunRequest(name="tiny#latest"))).run
        assert finished.outcome == Outcome.OUTCOME_SUCCEEDED
        assert finished.submitted_by == "user:alice"
        await _fetched(client, finished.run_id, tmp_path / "output")

    spec = RunSpec(step="echo", command_lines=[ECHO], executor=Executor.EXECUTOR_PROCESS)
    run_id = (await clients.submit(spec)).run_id
    async with Client.connect(context) as client:
        port = await _port(client, run_id)
        assert await _forwarded(client, run_id, port, b"hello") == b"HELLO"
        with _shell(laptop, run_id) as shell:
            assert yard.cli("people", "revoke", "alice").stdout == "alice: 1 good token revoked\n"
            _, errors = shell.communicate(timeout=20)
            assert (shell.returncode, "[TOKEN_REVOKED]" in errors) == (3, True)
            assert "runyard people invite" in errors
        with pytest.raises(ClientError, match="this token of alice was revoked"):
            await client.scheduler.GetRun(GetRunRequest(name=run_id))
    await clients.scheduler.StopRun(StopRunRequest(request_id=str(uuid.uuid4()), name=run_id), timeout=20)
    # Telemetry of a run that still goes on would come between the questions of other tests.
    await clients.finished(run_id)


def _joined(laptop: Yard, token: str) -> Context:
    done = subprocess.run(
        [sys.executable, "-m", "runyard_cli", "context", "enter"],
        input=token, env=_environment(laptop), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    path = laptop.home / "context.json"
    assert str(path) in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    context = load_context(laptop.home)
    assert context.gate is not None
    return context


async def _fetched(client: Client, run_id: str, target: Path) -> None:
    (output,) = (await client.artifacts.ListArtifacts(ListArtifactsRequest(run_id=run_id))).artifacts
    assert await download_file(client, output.sha256, target) == output.size_bytes


async def _port(client: Client, run_id: str) -> int:
    """Follow the log until the program says where it listens."""
    async for item in client.metrics.WatchRun(WatchRunRequest(run_id=run_id)):
        if item.WhichOneof("item") == "line":
            found = re.fullmatch(r"port (\d+)", item.line.text)
            if found:
                return int(found[1])
    raise AssertionError("the program does not say its port")


async def _forwarded(client: Client, run_id: str, port: int, data: bytes) -> bytes:
    async for answer in client.hands_on.Forward(ForwardRequest(name=run_id, port=port)):
        connection = client.hands_on.Connect()
        session_id = answer.opened.session_id
        await connection.write(ConnectRequest(start=ConnectStart(session_id=session_id)))
        await connection.read()
        await connection.write(ConnectRequest(input=data))
        answered = await connection.read()
        connection.cancel()
        assert isinstance(answered, ConnectResponse)
        return answered.output
    raise AssertionError("the session ended")


def _shell(laptop: Yard, run_id: str) -> subprocess.Popen[str]:
    shell = subprocess.Popen(
        [sys.executable, "-m", "runyard_cli", "exec", run_id, "--", "sh", "-c", "echo in; exec sleep 300"],
        env=_environment(laptop),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert shell.stdout is not None
    assert shell.stdout.readline() == "in\n"
    return shell


def _environment(laptop: Yard) -> dict[str, str]:
    return {**os.environ, "RUNYARD_HOME": str(laptop.home), "NO_COLOR": "1"}
