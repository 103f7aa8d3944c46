"""Processes that read much give way to all others, and end with those that wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runyard_eventlog.giving_way import NICENESS
from runyard_eventlog.turns import PAGE_EVERY

pytestmark = pytest.mark.system

SECONDS_MAX = 40.0
GIVES_WAY = """
import os, pathlib, runyard_eventlog.giving_way as it
it.give_way()
session = pathlib.Path("/proc/self/autogroup")
print(os.nice(0), os.getsid(0) == os.getpid(), session.read_text() if session.exists() else "")
"""
WORKED_SECONDS = 0.01
"""A process that gives way gets a sixtieth of a processor, and less where others work beside the busy one."""
WAITS = f"""
import asyncio, os, time, runyard_eventlog.giving_way as it
async def pause_seconds():
    it.give_way()
    end = time.process_time() + {WORKED_SECONDS}
    while time.process_time() < end:
        pass
    began = time.perf_counter()
    await it.wait_for_turn()
    return time.perf_counter() - began
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
print(asyncio.run(pause_seconds()), flush=True)
os._exit(0)
"""
BUSY = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(flush=True)
while True:
    pass
"""
VERIFIES = """
import os, pathlib, sys, time
from runyard_eventlog import verification_share as share
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    executors = []
    share.ProcessPoolExecutor = lambda *given: executors.append(made := pool(*given)) or made
    from concurrent.futures import ProcessPoolExecutor as pool
    with share.comparing(share.Places(Archive(FolderStore(folder)), None), "", 2):
        [one.result() for one in [executors[0].submit(os.getpid) for _ in range(20)]]
        print(*executors[0]._processes, flush=True)
        time.sleep(60)
"""


def test_a_process_that_gives_way_comes_last_in_a_session_of_its_own() -> None:
    said = subprocess.run(
        [sys.executable, "-c", GIVES_WAY], capture_output=True, text=True, check=True, timeout=SECONDS_MAX
    ).stdout.split(maxsplit=2)
    assert said[:2] == [str(NICENESS), "True"]
    if said[2:] and os.geteuid() == 0:
        assert said[2].split()[-1] == str(NICENESS)


def test_a_process_that_gives_way_asks_later_while_another_has_its_processor() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            said = subprocess.run(
                [sys.executable, "-c", WAITS], capture_output=True, text=True, check=True, timeout=SECONDS_MAX
            ).stdout
        finally:
            other.kill()
    assert float(said) >= PAGE_EVERY * WORKED_SECONDS


def test_processes_that_compare_end_when_the_one_that_verifies_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "verifies.py"
    program.write_text(VERIFIES)
    with subprocess.Popen(
        [sys.executable, program, tmp_path], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as verifying:
        assert verifying.stdout is not None
        pids = [int(pid) for pid in verifying.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        verifying.send_signal(signal.SIGKILL)
    until = time.monotonic() + SECONDS_MAX
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
