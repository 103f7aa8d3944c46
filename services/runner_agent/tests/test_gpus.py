"""GPUs through NVIDIA's own binding: the library below it is the scripted one of tests/tools/fake-nvml."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.gpus import open_gpus

pytestmark = pytest.mark.system

BUILD = Path(__file__).parents[3] / "tests/tools/fake-nvml/build"

# The library is loaded once in a process and by LD_LIBRARY_PATH, so each scenario has a process of its own.
PROGRAM = """
import asyncio, dataclasses, json, os, sys
from google.protobuf.json_format import MessageToDict
from runyard_agent.gpus import open_gpus

async def main():
    gpus = open_gpus()
    print(json.dumps({
        "driver": gpus.driver_version, "cuda": gpus.cuda_version, "warnings": gpus.warnings,
        "devices": [MessageToDict(device) for device in await gpus.devices()],
    }), flush=True)
    for line in sys.stdin:
        print(json.dumps({
            "samples": [sample and dataclasses.asdict(sample) for sample in await gpus.sample()],
            "processes": [dataclasses.asdict(process) for process in await gpus.processes()],
        }), flush=True)
    gpus.close()

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not BUILD.exists():
        pytest.skip(f"{BUILD} is not there")
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler to build the scripted NVML with")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run([str(BUILD), str(folder)], check=True, capture_output=True, timeout=60)
    return folder


class Machine:
    """A process that reads scripted GPUs."""

    def __init__(self, library: Path, script: Path, **variables: str) -> None:
        self.script = script
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(library),
                "FAKE_NVML_FILE": str(script),
                **variables,
            },
        )
        self.inventory = self._line()

    def look(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._line()

    def end(self) -> None:
        self.process.communicate(timeout=10)
        assert self.process.returncode == 0

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line


def test_devices_and_samples_are_what_the_driver_says(library: Path, tmp_path: Path) -> None:
    script = tmp_path / "gpus"
    script.write_text(
        f"device 0 name=Fake-H100 mem_total=85899345920 uuid=GPU-a\n"
        f"device 0 util=80 mem_used=1073741824 power=350000 temp=61 proc={os.getpid()}:536870912\n"
        "device 1 name=Fake-L4 uuid=GPU-b\n"
    )
    machine = Machine(library, script)

    assert machine.inventory == {
        "driver": "999.00.fake",
        "cuda": "12.8",
        "warnings": [],
        "devices": [
            {"uuid": "GPU-a", "model": "Fake-H100", "memoryBytes": "85899345920"},
            {"uuid": "GPU-b", "index": 1, "model": "Fake-L4", "memoryBytes": str(16 << 30)},
        ],
    }
    seen = machine.look()
    energy = seen["samples"][0].pop("energy_millijoules")
    assert seen["samples"][0] == {
        "uuid": "GPU-a",
        "utilization_percent": 80,
        "memory_used_bytes": 1 << 30,
        "power_milliwatts": 350_000,
        "temperature_celsius": 61,
    }
    assert machine.look()["samples"][0]["energy_millijoules"] > energy
    own_name = Path("/proc/self/comm").read_text().strip()
    assert seen["processes"] == [
        {"gpu_uuid": "GPU-a", "pid": os.getpid(), "memory_bytes": 512 << 20, "name": own_name}
    ]
    machine.end()


def test_a_lost_gpu_ends_neither_sampling_nor_the_others(library: Path, tmp_path: Path) -> None:
    script = tmp_path / "gpus"
    healthy = "device 0 uuid=GPU-a util=10\ndevice 1 uuid=GPU-b util=20\n"
    script.write_text(healthy)
    machine = Machine(library, script)

    script.write_text(healthy + "device 0 lost=1\n")
    lost, other = machine.look()["samples"]
    assert (lost, other["utilization_percent"]) == (None, 20)

    script.write_text(healthy)
    back, _ = machine.look()["samples"]
    assert back["utilization_percent"] == 10
    machine.end()


def test_a_gpu_that_is_lost_from_the_start_is_a_warning(library: Path, tmp_path: Path) -> None:
    script = tmp_path / "gpus"
    script.write_text("device 0 lost=1\ndevice 1 uuid=GPU-b\n")
    machine = Machine(library, script)

    assert [device["uuid"] for device in machine.inventory["devices"]] == ["GPU-b"]
    assert machine.inventory["warnings"] == ["GPU 0 cannot be used: NVML says GPU is lost."]
    machine.end()


def test_a_driver_that_is_not_loaded_means_no_gpus_and_one_sentence(library: Path, tmp_path: Path) -> None:
    machine = Machine(library, tmp_path / "gpus", FAKE_NVML_FAIL="init")

    assert machine.inventory["devices"] == []
    assert machine.inventory["warnings"] == ["No GPU can be used here: NVML says Driver Not Loaded."]
    assert machine.look() == {"samples": [], "processes": []}
    machine.end()


async def test_a_machine_without_the_library_has_no_gpus() -> None:
    gpus = open_gpus()
    if gpus.driver_version:
        pytest.skip("this machine has a driver: test_gpus_real looks at it")
    assert list(await gpus.devices()) == []
    assert list(await gpus.sample()) == []
    assert gpus.warnings == ("No GPU can be used here: NVML says NVML Shared Library Not Found.",)
    gpus.close()
