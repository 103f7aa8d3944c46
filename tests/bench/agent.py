"""Benchmarks of the runner agent: what it costs, what it slows down, how soon lines and files arrive.

The start of a container is measured with the yard (yard.py).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

from runyard.run.v1.types_pb2 import Executor, RunSpec, RunState
from tests.bench.agent_files import files
from tests.bench.processes import cpu_seconds, status_kilobytes
from tests.bench.result import Result, measured
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import process_of
from tests.replay.recorded_yard import FAKE_NVML

GPU_COUNT = 8
WATCHED_SECONDS = 20
TRAINING_SECONDS = 120
_PROCESS = Executor.EXECUTOR_PROCESS

TALK = """
import json, time
began = time.monotonic()
for tick in range({seconds} * 100):
    for line in range(9):
        print("tick", tick, "line", line, "of a log that is as long as most lines of a log are")
    points = {{f"metric-{{name}}": tick / 7 + name for name in range(10)}}
    print(json.dumps({{"step": tick, **points}}), flush=True)
    time.sleep(max(0.0, began + (tick + 1) / 100 - time.monotonic()))
"""
"""1,000 lines and 1,000 points a second."""

TRAIN = """
import json, time
began = time.monotonic()
step = 0
while time.monotonic() < began + {seconds}:
    step += 1
    started, loss = time.monotonic(), 0.0
    for sample in range(100_000):
        loss += (sample % 7) * 0.5
    print(json.dumps({{"step": step, "loss": loss, "accuracy": step / 1e6, "started": started}}), flush=True)
"""

CLOCK = """
import time
for _ in range(200):
    print(time.time(), flush=True)
    time.sleep(0.05)
"""


def benchmarks() -> list[Result]:
    """Measure a yard of its own with eight scripted GPUs, in a temporary home."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as name:
        folder = Path(name)
        os.environ |= _gpus(folder)
        yard = Yard(home=folder / "home")
        try:
            yard.up()
            return asyncio.run(_benchmarks(yard, folder))
        finally:
            yard.down()


async def _benchmarks(yard: Yard, folder: Path) -> list[Result]:
    async with Clients(yard) as clients:
        # The first run makes the environment.
        await clients.complete_record((await clients.submit(_step("true"), "bench")).run_id)
        return [
            *await _cost(yard, clients),
            await _training_speed(yard, clients),
            await _line_latency(yard, clients),
            *await files(yard, clients, folder),
        ]


async def _cost(yard: Yard, clients: Clients) -> list[Result]:
    pid = process_of(yard, "agent")["pid"]
    quiet = await _cpu_percent(clients, pid, f"sleep {WATCHED_SECONDS + 10}")
    memory = status_kilobytes(pid, "VmRSS") / 1024
    busy = await _cpu_percent(clients, pid, _python(TALK.format(seconds=WATCHED_SECONDS + 10)))
    return [
        measured(f"agent: CPU, {GPU_COUNT} GPUs at 1 Hz", [quiet], "%", "lower", target=2),
        measured(f"agent: resident memory, {GPU_COUNT} GPUs", [memory], "MiB", "lower", target=90),
        measured("agent: CPU, 1,000 lines and points a second", [busy], "%", "lower", target=10),
    ]


async def _cpu_percent(clients: Clients, pid: int, command: str) -> float:
    """Percent of one core that the agent takes while a run runs; its start is not counted."""
    run = await clients.submit(_step(command), "bench")
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)
    await asyncio.sleep(4)
    before, started = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(WATCHED_SECONDS)
    percent = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)
    await clients.complete_record(run.run_id)
    return percent


async def _training_speed(yard: Yard, clients: Clients) -> Result:
    """One loop, beside which the agent is halted for every other tenth of a second.

    The speed of a shared machine changes by a tenth from one second to the next, and by less from one tenth
    of a second to the next. What the agent missed it does in its own tenths: in these it takes more of a core
    than an agent that is never halted does on the average (5.5 % beside 4.4 %), so they bear all of its work.
    What the services do with what it sends falls into both kinds alike: nodes of a team do not run them.
    """
    pid = process_of(yard, "agent")["pid"]
    run = await clients.submit(_step(_python(TRAIN.format(seconds=TRAINING_SECONDS + 20))), "bench")
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)
    await asyncio.sleep(4)
    edges = [time.monotonic()]
    try:
        for number in range(TRAINING_SECONDS * 10):
            os.kill(pid, signal.SIGCONT if number % 2 else signal.SIGSTOP)
            await asyncio.sleep(0.1)
            edges.append(time.monotonic())
    finally:
        os.kill(pid, signal.SIGCONT)
    await clients.complete_record(run.run_id)
    begun = [json.loads(line)["started"] for line in await clients.lines(run.run_id) if line.startswith("{")]
    speeds = [
        (_steps_by(begun, end) - _steps_by(begun, start)) / (end - start) for start, end in pairwise(edges)
    ]
    # The agent has its samples to take once in a second, so a tenth by itself says nothing.
    of_two_seconds = (speeds[first : first + 20] for first in range(0, len(speeds), 20))
    return measured(
        "training loop that prints metrics, of its speed alone",
        [statistics.fmean(each[1::2]) / statistics.fmean(each[::2]) for each in of_two_seconds],
        "x",
        "higher",
        target=0.99,
    )


def _steps_by(begun: list[float], moment: float) -> float:
    """Give how many steps were done by a moment, the one that was under way in proportion."""
    last = bisect_right(begun, moment) - 1
    return last + (moment - begun[last]) / (begun[last + 1] - begun[last])


async def _line_latency(yard: Yard, clients: Clients) -> Result:
    """From the clock that a line shows to its arrival in ``runyard logs -f``."""
    run = await clients.submit(_step(_python(CLOCK)), "bench")
    follower = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "runyard_cli", "logs", "-f", run.run_id),
        env={**os.environ, "RUNYARD_HOME": str(yard.home)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert follower.stdout is not None
    lags = []
    async with asyncio.timeout(60):
        async for line in follower.stdout:
            with_clock = line.strip().replace(b".", b"", 1).isdigit()
            if with_clock:
                lags.append(time.time() - float(line))
        await follower.wait()
    # The first ones were written before the command line had started.
    late = sorted(lags[len(lags) // 2 :])
    return measured("log line to logs -f, p95", [late[len(late) * 95 // 100]], "s", "lower", target=0.5)


def _step(command: str) -> RunSpec:
    return RunSpec(step="bench", command_lines=[command], executor=_PROCESS)


def _python(program: str) -> str:
    return f"python - <<'END'\n{textwrap.dedent(program)}\nEND"


def _gpus(folder: Path) -> dict[str, str]:
    library = subprocess.run(
        [str(FAKE_NVML), str(folder / "nvml")], check=True, capture_output=True, text=True
    ).stdout.strip()
    script = folder / "gpus"
    readings = (
        "util=93,96 power=480000,470000 temp=61 mem_used=60000000000 sm_clock=1980,1965 throttle=4 "
        "pcie_tx=1000000,1200000 pcie_rx=200000,300000 nvlink_tx=9000000 nvlink_rx=8000000,9000000 "
        f"mem_total=85899345920 proc={os.getpid()}:60000000000:93"
    )
    script.write_text("".join(f"device {index} name=Fake-H100 {readings}\n" for index in range(GPU_COUNT)))
    return {"LD_LIBRARY_PATH": library, "FAKE_NVML_FILE": str(script)}
