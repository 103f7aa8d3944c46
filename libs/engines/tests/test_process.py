from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from runyard_engines import ChildProcess, EngineFailed, ProcessSpec
from runyard_engines.process import PortInUse, started_ticks, tail, wait_for_exit

pytestmark = pytest.mark.system

PYTHON = sys.executable


def child(tmp_path: Path, program: str, **options: object) -> ChildProcess:
    spec = ProcessSpec(name="child", argv=(PYTHON, "-c", program), log_path=tmp_path / "logs" / "child.log")
    for name, value in options.items():
        object.__setattr__(spec, name, value)
    return ChildProcess.start(spec)


async def said(process: ChildProcess, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in "\n".join(process.last_lines()):
            assert await process.wait(0.02) is None, process.last_lines()


async def test_the_exit_status_and_the_output_are_kept(tmp_path: Path) -> None:
    process = child(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert await process.wait(20) == 7
    assert sorted(process.last_lines()) == ["err", "out"]
    assert process.identity is None


async def test_waiting_has_an_end(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(60)")
    assert await process.wait(0.01) is None
    assert process.identity is not None
    assert process.identity.is_alive()
    process.kill()
    assert await process.wait(20) == -signal.SIGKILL


async def test_a_child_that_ignores_the_wish_to_stop_is_killed_with_its_group(tmp_path: Path) -> None:
    program = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("grandchild", grandchild.pid, flush=True)
time.sleep(60)
"""
    process = child(tmp_path, program, stop_seconds_max=0.2)
    await said(process, "grandchild")
    grandchild = int(process.last_lines()[-1].split()[1])
    assert await process.stop() == -signal.SIGKILL
    assert await wait_for_exit(grandchild, 20)


async def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = f"""
import pathlib, sys, time
from runyard_engines import ChildProcess, ProcessSpec
sleeper = (sys.executable, "-c", "import time; time.sleep(60)")
log = pathlib.Path({str(tmp_path / "sleeper.log")!r})
tied = ChildProcess.start(ProcessSpec(name="tied", argv=sleeper, log_path=log))
free = ChildProcess.start(ProcessSpec(name="free", argv=sleeper, log_path=log, survives_parent=True))
print(tied.pid, free.pid, flush=True)
time.sleep(60)
"""
    parent = child(tmp_path, program)
    await said(parent, " ")
    tied, free = (int(word) for word in parent.last_lines()[-1].split())
    # The launcher must have become the real program: only then is the wish known to the kernel.
    async with asyncio.timeout(20):
        while command_line(tied)[1:2] != ["-c"]:  # empty while it is being replaced
            assert not await wait_for_exit(tied, 0.02)
    parent.kill()
    await parent.wait()
    assert await wait_for_exit(tied, 20)
    assert started_ticks(free) is not None
    os.kill(free, signal.SIGKILL)
    assert await wait_for_exit(free, 20)


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def test_an_identity_is_not_the_number_alone(tmp_path: Path) -> None:
    process = child(tmp_path, "import time; time.sleep(60)")
    identity = process.identity
    assert identity is not None
    assert not type(identity)(identity.pid, identity.started_ticks + 1).is_alive()
    await process.stop()
    assert not identity.is_alive()


def test_a_process_that_does_not_exist_has_no_start() -> None:
    assert started_ticks(2**22 + 1) is None


async def test_a_failure_names_the_engine_its_last_line_and_its_log(tmp_path: Path) -> None:
    process = child(tmp_path, "print('first'); print('no space left')")
    await process.wait(20)
    error = process.failed("did not start")
    assert type(error) is EngineFailed
    assert error.message == f"child did not start: no space left (log: {tmp_path}/logs/child.log)"
    assert error.metadata["last_lines"] == "first\nno space left"


@pytest.mark.parametrize(
    "line",
    [
        'LOG:  could not bind IPv4 address "127.0.0.1": Address already in use',
        "[FTL] Error listening on port: 127.0.0.1:1, listen tcp: bind: address already in use",
        "port 21414 for Master on 127.0.0.1 is not available",
    ],
)
async def test_a_port_that_somebody_was_faster_to_take_is_told_apart(tmp_path: Path, line: str) -> None:
    process = child(tmp_path, f"print({line!r}); print('exiting')")
    await process.wait(20)
    assert type(process.failed("did not start")) is PortInUse


def test_the_tail_of_a_long_or_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path, 3) == []
    path.write_text("\n".join(str(number) for number in range(100_000)))
    assert tail(path, 2) == ["99998", "99999"]
