"""A process of its own that reads GPUs through NVIDIA's binding: the scripted library's, or this machine's.

The library is loaded once in a process and found by LD_LIBRARY_PATH, so each scenario has its own process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRE_VARIABLE = "RUNYARD_REQUIRE_GPU"
"""When 1, a test that asks a real GPU fails where there is none instead of being skipped."""

BUILD = Path(__file__).parents[3] / "tests/tools/fake-nvml/build"

PROGRAM = """
import asyncio, ctypes, dataclasses, json, os, sys, time
from google.protobuf.json_format import MessageToDict
from runyard.metric.v1.gpus_pb2 import GpuQuantity
from runyard_agent import nvml_gpus
from runyard_agent.gpus import open_gpus

nvml_gpus._OPEN_AGAIN_SECONDS = nvml_gpus._LOOK_FOR_MORE_SECONDS = 0.0

def refusals():
    try:
        return ctypes.CDLL("libnvidia-ml.so.1").fakeNvmlRefusals()
    except (OSError, AttributeError):
        return None

def shown(sample):
    if sample is None:
        return None
    values = {GpuQuantity.Name(key).removeprefix("GPU_QUANTITY_").lower(): value
              for key, value in sample.values.items()}
    return {**dataclasses.asdict(dataclasses.replace(sample, values={})), "values": values}

async def state(gpus):
    return {
        "driver": gpus.driver_version, "cuda": gpus.cuda_version, "warnings": list(gpus.warnings),
        "devices": [MessageToDict(device) for device in await gpus.devices()],
    }

async def main():
    gpus = open_gpus()
    print(json.dumps(await state(gpus)), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        samples = await gpus.sample()
        seconds = time.perf_counter() - started
        print(json.dumps({
            "samples": [shown(sample) for sample in samples], "seconds": seconds,
            "processes": [dataclasses.asdict(process) for process in await gpus.processes()],
            "xids": [[seen.gpu_uuid, seen.xid] for seen in gpus.take_xids()],
            "refusals": refusals(), **await state(gpus),
        }), flush=True)
    gpus.close()

asyncio.run(main())
"""


class GpuMachine:
    """A process that reads GPUs whenever it is told to."""

    def __init__(self, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        self.inventory = self._line()

    def look(self) -> dict[str, Any]:
        """Read everything once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        """Let it close its GPUs."""
        self.process.communicate(timeout=40)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """End it whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate(timeout=40)

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line


@contextlib.contextmanager
def gpu_machine(**variables: str) -> Iterator[GpuMachine]:
    """Read GPUs while the block runs; it must end well."""
    machine = GpuMachine(**variables)
    try:
        yield machine
        machine.end()
    finally:
        machine.kill()


def needs_gpu(machine: GpuMachine) -> None:
    """Skip or fail where a machine has no GPU, with what its driver says of that."""
    if not machine.inventory["devices"]:
        reason = f"there is no real GPU to ask: {machine.inventory['warnings'][0]}"
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def build_library(folder: Path) -> Path:
    """Build the scripted library; skips where there is no compiler."""
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler to build the scripted NVML with")
    subprocess.run([str(BUILD), str(folder)], check=True, capture_output=True, timeout=60)
    return folder
