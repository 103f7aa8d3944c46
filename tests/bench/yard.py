"""Benchmarks of an embedded yard: start, idle cost, time to the first line, command line, a large file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard.run.v1.types_pb2 import Executor, RunSpec
from tests.bench.processes import cpu_seconds, pss_bytes, status_kilobytes, tree_of
from tests.bench.result import Result, measured
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import process_of

IMAGE = "local/python:3.11"
MIB = 1024 * 1024


def benchmarks() -> list[Result]:
    """Measure a yard of its own, in a temporary home."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        yard = Yard(home=Path(folder) / "home")
        try:
            return [
                *_starts(yard),
                *_idle(yard),
                *asyncio.run(_first_lines(yard)),
                _ps(yard),
                _large_file(yard),
            ]
        finally:
            yard.down()


def _starts(yard: Yard) -> Iterator[Result]:
    cold = _seconds(yard.up)
    yield measured("yard: cold up", [cold], "s", "lower")
    warm = []
    for _ in range(3):
        yard.down()
        warm.append(_seconds(yard.up))
    yield measured("yard: warm up", warm, "s", "lower", target=10)


def _idle(yard: Yard) -> Iterator[Result]:
    # The first seconds after a start are not idle: caches fill, checkpoints are written.
    time.sleep(10)
    pids = pids_of(yard)
    before, started = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(20)
    percent = 100 * (sum(map(cpu_seconds, pids)) - before) / (time.monotonic() - started)
    yield measured("yard: idle memory (PSS)", [sum(map(pss_bytes, pids)) / MIB], "MiB", "lower", target=900)
    yield measured("yard: idle CPU of one core", [percent], "%", "lower", target=5)


async def _first_lines(yard: Yard) -> list[Result]:
    results = []
    async with Clients(yard) as clients:
        await _queued_to_first_line(clients, Executor.EXECUTOR_PROCESS)
        samples = [await _queued_to_first_line(clients, Executor.EXECUTOR_PROCESS) for _ in range(7)]
        results.append(measured("queued to first line, process", samples, "s", "lower", target=1.0))
        if not _docker_answers():
            sys.stderr.write("not measured: container start, because no Docker daemon answers\n")
            return results
        ours, raw = [], []
        for _ in range(5):
            raw.append(_docker_run_to_first_line())
            ours.append(await _queued_to_first_line(clients, Executor.EXECUTOR_DOCKER))
        base = measured("", raw, "s", "lower").value
        results.append(
            measured(
                "queued to first line, container",
                ours,
                "s",
                "lower",
                target=round(base + 0.2, 3),
                baseline=("docker run", raw),
            )
        )
    return results


async def _queued_to_first_line(clients: Clients, executor: Executor.ValueType) -> float:
    """Seconds from run.queued to the moment at which the first command ran, by its own clock."""
    spec = RunSpec(step="first", command_lines=["date +%s.%N"], executor=executor, image=IMAGE)
    record = await clients.complete_record((await clients.submit(spec, "bench")).run_id)
    (line,) = await clients.lines(record.run.run_id)
    return float(line) - record.run.queued_at.ToNanoseconds() / 1e9


def _docker_run_to_first_line() -> float:
    started = time.time()
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", IMAGE, "date", "+%s.%N"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return float(done.stdout) - started


def _docker_answers() -> bool:
    asked = subprocess.run(
        ["docker", "image", "inspect", IMAGE], capture_output=True, check=False, timeout=20
    )
    return asked.returncode == 0


def _ps(yard: Yard) -> Result:
    python = [_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(9)]
    ours = [_seconds(lambda: yard.cli("ps")) for _ in range(9)]
    return measured("runyard ps", ours, "s", "lower", target=0.4, baseline=("python -c ''", python))


def _large_file(yard: Yard) -> Result:
    pid = process_of(yard, "store")["pid"]
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        file = Path(folder) / "large.bin"
        with file.open("wb") as out:
            for _ in range(64):
                out.write(os.urandom(16 * MIB))
        with _peak_reset(pid):
            seconds = _seconds(lambda: yard.cli("put", str(file), timeout_seconds=300))
        sys.stderr.write(f"1 GiB put in {seconds:.1f} s\n")
    peak = status_kilobytes(pid, "VmHWM") / 1024
    return measured("store's peak memory, 1 GiB file", [peak], "MiB", "lower", target=1024)


@contextmanager
def _peak_reset(pid: int) -> Iterator[None]:
    """Let VmHWM count from here on (proc(5), clear_refs 5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    yield


def pids_of(yard: Yard) -> list[int]:
    """Every process of the yard: the supervisor's descendants and itself."""
    return tree_of(json.loads((yard.home / "yard.json").read_text())["supervisor"]["pid"])


def _seconds(work: object) -> float:
    started = time.perf_counter()
    assert callable(work)
    work()
    return time.perf_counter() - started
