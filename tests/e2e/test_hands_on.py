"""A shell beside a run and a port of it, from the command line and from a client that is not ours."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from runyard.run.v1 import hands_on_service_pb2 as pb
from runyard.run.v1.hands_on_pb2 import HandsOnEndReason, HandsOnSession
from runyard.run.v1.hands_on_service_pb2_grpc import HandsOnServiceStub
from runyard.run.v1.scheduler_service_pb2 import GetRunRequest, StopRunRequest, SubmitRunRequest
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import Executor, Outcome, RunSpec, RunState
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import kill_process

pytestmark = [pytest.mark.engines, pytest.mark.timeout(90), pytest.mark.xdist_group("yard")]

PROJECT = "hands"
# Answers two at once only: each waits for the other.
PROGRAM = """
import http.server, os, pathlib, threading
print("group", pathlib.Path("/proc/self/cgroup").read_text().split(), flush=True)
both = threading.Barrier(2)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/both": both.wait(20)
        body = os.environ["VH_JOB_ID"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port", server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
while not os.path.exists("done"): threading.Event().wait(0.1)
print("untouched", flush=True)
"""


@pytest.fixture(scope="module")
def run_id(yard: Yard) -> Iterator[str]:
    """Give a run that goes on for all tests."""
    with _serving(yard) as made:
        yield made


@contextmanager
def _serving(yard: Yard) -> Iterator[str]:
    """Give a run that goes on until somebody makes file "done" beside it."""
    lines = [f"python3 - <<'EOF'\n{PROGRAM}\nEOF"]
    spec = RunSpec(step="serve", command_lines=lines, executor=Executor.EXECUTOR_PROCESS)
    with grpc.insecure_channel(yard.context["addresses"]["scheduler"]) as channel:
        # Typed for channels of asyncio, and made for both kinds.
        stub: Any = SchedulerServiceStub(channel)  # type: ignore[arg-type]
        request = SubmitRunRequest(request_id=str(uuid.uuid4()), project=PROJECT, spec=spec)
        answer = stub.SubmitRun(request, metadata=yard.metadata, timeout=20)
        made: str = answer.run.run_id
        _reach(stub, yard, made, answer.position, RunState.RUN_STATE_RUNNING)
        yield made
        stop = StopRunRequest(request_id=str(uuid.uuid4()), name=made)
        stopped = stub.StopRun(stop, metadata=yard.metadata, timeout=20)
        # Telemetry of a run that still goes on would come between the questions of other tests.
        _reach(stub, yard, made, stopped.position, RunState.RUN_STATE_FINISHED)


def _reach(stub: Any, yard: Yard, run_id: str, position: int, state: int) -> None:
    gives_up_at = time.monotonic() + 60
    while _state(stub, yard, run_id, position) != state and time.monotonic() < gives_up_at:
        time.sleep(0.1)


def _state(stub: Any, yard: Yard, run_id: str, position: int) -> int:
    request = GetRunRequest(name=run_id)
    request.read.min_position = position
    answer = stub.GetRun(request, metadata=yard.metadata, timeout=20)
    return int(answer.run.state)


def _environment(yard: Yard) -> dict[str, str]:
    return {**os.environ, "RUNYARD_HOME": str(yard.home), "NO_COLOR": "1", "TERM": "xterm"}


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runyard_cli", *words]


async def _sessions(clients: Clients, run_id: str) -> list[HandsOnSession]:
    """Give the sessions of a run, all of which have ended."""
    gives_up_at = time.monotonic() + 20
    while time.monotonic() < gives_up_at:
        answer = await clients.scheduler.GetRun(GetRunRequest(name=run_id), timeout=20)
        sessions = list(answer.run.hands_on_sessions)
        if all(session.HasField("ended_at") for session in sessions):
            return sessions
        await asyncio.sleep(0.1)
    raise AssertionError("a session does not end")


async def _port(clients: Clients, run_id: str) -> str:
    """Give the port that the program told."""
    gives_up_at = time.monotonic() + 20
    while time.monotonic() < gives_up_at:
        for line in await clients.lines(run_id):
            if line.startswith("port "):
                return line.split()[1]
        await asyncio.sleep(0.1)
    raise AssertionError("the program does not tell its port")


async def test_a_command_beside_the_run_has_its_world_and_hands_its_status_through(
    yard: Yard, clients: Clients, run_id: str
) -> None:
    script = "pwd; echo $VH_JOB_ID; cat; echo $(cat /proc/self/cgroup); echo oh >&2; exit 3"
    done = subprocess.run(  # noqa: ASYNC221 - nothing else is to be done meanwhile
        _command("exec", run_id, "--", "sh", "-c", script),
        input="from here\n", capture_output=True, text=True, env=_environment(yard), timeout=60, check=False,
    )  # fmt: skip
    folder, job, typed, group = done.stdout.splitlines()
    # Whatever holds the program's limits holds those of the command.
    assert f"group {group.split()}" in await clients.lines(run_id)
    assert folder.endswith("/repository")
    assert (job, typed, done.stderr, done.returncode) == (f"exec-{run_id}", "from here", "oh\n", 3)


def test_a_shell_has_a_terminal_that_changes_its_size(yard: Yard, run_id: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = _command("exec", run_id)
        os.execve(words[0], words, _environment(yard))
    try:
        _resize(terminal, 111, 33)
        os.write(terminal, b"stty si''ze\n")
        _read_until(terminal, b"33 111")
        _resize(terminal, 99, 44)
        # The kernel tells the command line, which tells the run's node: the shell is asked until it knows.
        gives_up_at = time.monotonic() + 20
        while b"44 99" not in _read(terminal):
            assert time.monotonic() < gives_up_at
            os.write(terminal, b"stty si''ze\n")
        os.write(terminal, b"exit 5\n")
        _read_until(terminal, b"exit")
    finally:
        # Hangs up: nothing may wait for keys any more.
        _read(terminal)
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 5


def test_any_client_can_run_a_command(yard: Yard, run_id: str) -> None:
    requests = [
        pb.ExecRequest(start=pb.ExecStart(name=run_id, command=["tr", "a-z", "A-Z"])),
        pb.ExecRequest(input=b"hello"),
        pb.ExecRequest(input_end=pb.HandsOnStreamEnd()),
    ]
    over = threading.Event()

    def say() -> Iterator[pb.ExecRequest]:
        yield from requests
        over.wait(30)

    with grpc.insecure_channel(yard.context["addresses"]["scheduler"]) as channel:
        stub: Any = HandsOnServiceStub(channel)  # type: ignore[arg-type]
        answers = list(stub.Exec(say(), metadata=yard.metadata, timeout=30))
        over.set()
    assert answers[0].opened.run_id == run_id
    assert b"".join(answer.output for answer in answers) == b"HELLO"
    assert answers[-1].exit_status.exit_code == 0


async def test_a_port_of_the_run_is_reached_by_two_at_once(yard: Yard, clients: Clients, run_id: str) -> None:
    port = await _port(clients, run_id)
    forward = subprocess.Popen(  # noqa: ASYNC220 - ends below
        _command("forward", run_id, f"{port}:0"), env=_environment(yard), stdout=subprocess.PIPE, text=True
    )
    assert forward.stdout is not None
    said = forward.stdout.readline()
    address = re.search(r"127\.0\.0\.1:\d+", said)
    assert address, said

    def get(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{address[0]}{path}", timeout=30) as answer:
            body: bytes = answer.read()
            return body

    with ThreadPoolExecutor(2) as two:
        assert list(two.map(get, ["/both", "/both"])) == [f"exec-{run_id}".encode()] * 2
    forward.send_signal(signal.SIGINT)
    assert forward.wait(20) == 0
    forward.stdout.close()
    session = (await _sessions(clients, run_id))[-1]
    assert (session.port, session.connection_count) == (int(port), 2)
    assert session.end_reason == HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT
    assert session.received_bytes > 2 * len(f"exec-{run_id}")


def test_what_cannot_be_done_is_refused_with_a_reason(yard: Yard, run_id: str) -> None:
    # The scheduler's own port is open on this machine, and none of the run's.
    port = str(yard.context["addresses"]["scheduler"]).rpartition(":")[2]
    with subprocess.Popen(
        _command("forward", run_id, f"{port}:0"), env=_environment(yard),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as forward:  # fmt: skip
        assert forward.stdout is not None
        assert forward.stderr is not None
        address = re.search(r"127\.0\.0\.1:\d+", forward.stdout.readline())
        assert address
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://{address[0]}/", timeout=20)
        assert "[NOT_YOUR_PORT]" in forward.stderr.readline()
        forward.send_signal(signal.SIGINT)
    assert "[RUN_NOT_FOUND]" in yard.cli("exec", "77777", "--project", PROJECT, expect=3).stderr


async def test_a_killed_agent_ends_the_shell_and_nothing_else(
    yard: Yard, clients: Clients, run_id: str
) -> None:
    shell = _started(yard, "exec", run_id, "--", "sh", "-c", "echo in; exec sleep 300")
    kill_process(yard, "agent")
    assert _ended(shell) == (4, "AGENT_LOST")
    session = (await _sessions(clients, run_id))[-1]
    assert session.end_reason == HandsOnEndReason.HANDS_ON_END_REASON_AGENT_LOST
    # The next agent finds the run as it was.
    gives_up_at = time.monotonic() + 60
    while yard.cli("exec", run_id, "--", "true", expect=None).returncode != 0:
        assert time.monotonic() < gives_up_at


async def test_sessions_end_with_the_attempt_and_its_record_names_them(yard: Yard, clients: Clients) -> None:
    with _serving(yard) as run_id:
        await _end_beside_sessions(yard, clients, run_id)


async def _end_beside_sessions(yard: Yard, clients: Clients, run_id: str) -> None:
    yard.cli("exec", run_id, "--", "sh", "-c", "exit 3", expect=3)
    shell = _started(yard, "exec", run_id, "--", "sh", "-c", "echo in; exec sleep 300")
    forward = _started(yard, "forward", run_id, "6006:0")
    yard.cli("exec", run_id, "--", "touch", "done")
    assert _ended(shell) == _ended(forward) == (3, "ATTEMPT_ENDED")
    record = await clients.complete_record(run_id)
    assert record.run.outcome == Outcome.OUTCOME_SUCCEEDED
    assert "untouched" in await clients.lines(run_id)
    sessions = await _sessions(clients, run_id)
    ended = HandsOnEndReason.HANDS_ON_END_REASON_ATTEMPT_ENDED
    assert [session.end_reason for session in sessions].count(ended) == 2
    assert "hands on" in yard.cli("show", run_id).stdout
    told = yard.cli("history", "timeline", run_id, "--domain-only").stdout
    assert "run.hands_on_opened" in told
    assert "exit code 3" in told


def _started(yard: Yard, *words: str) -> subprocess.Popen[str]:
    """Start a command line, and wait for its first line."""
    started = subprocess.Popen(
        _command(*words), env=_environment(yard),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline()
    return started


def _ended(started: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; gives its exit code, and the reason that it said."""
    _, errors = started.communicate(timeout=30)
    found = re.search(r"\[([A-Z_]+)\]", errors)
    return started.returncode, found[1] if found else errors


def _resize(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _read(terminal: int, seconds: float = 0.5) -> bytes:
    """Give what comes until nothing has come for a while."""
    seen = b""
    while select.select([terminal], [], [], seconds)[0]:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    return seen


def _read_until(terminal: int, text: bytes) -> None:
    seen = b""
    gives_up_at = time.monotonic() + 30
    while text not in seen:
        assert time.monotonic() < gives_up_at, seen
        seen += _read(terminal, 0.1)
