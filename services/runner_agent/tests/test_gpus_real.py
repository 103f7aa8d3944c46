"""The same questions to this machine's GPUs, where it has some (``make gpu-check``), and to scripted ones."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from .gpu_machine import GpuMachine, build_library, gpu_machine, needs_gpu

pytestmark = pytest.mark.system

SCRIPT = """
device 0 name=Fake-H100 uuid=GPU-01234567-89ab-cdef-0123-456789abcdef mem_total=85899345920
device 0 mem_used=600000000 power=90000 temp=33 sm_clock=345 throttle=0x1 proc=1:1000:5
"""


@pytest.fixture(scope="module", params=["real", "scripted"])
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpuMachine]:
    variables: dict[str, str] = {}
    if request.param == "scripted":
        folder = tmp_path_factory.mktemp("gpus")
        (folder / "gpus").write_text(SCRIPT)
        library = build_library(folder / "library")
        variables = {"LD_LIBRARY_PATH": str(library), "FAKE_NVML_FILE": str(folder / "gpus")}
    with gpu_machine(**variables) as found:
        needs_gpu(found)
        yield found


def test_a_driver_names_its_gpus(machine: GpuMachine) -> None:
    inventory = machine.inventory
    assert inventory["driver"]
    assert re.fullmatch(r"\d+\.\d+", inventory["cuda"])
    indices = [device.get("index", 0) for device in inventory["devices"]]
    assert indices == list(range(len(indices)))
    for device in inventory["devices"]:
        assert re.fullmatch(r"GPU-[0-9a-f-]{36}", device["uuid"])
        assert device["model"]
        assert int(device["memoryBytes"]) > 1 << 30


def test_a_gpu_is_sampled_in_time_with_all_that_it_offers(machine: GpuMachine) -> None:
    machine.look()
    time.sleep(0.3)
    looks = [machine.look(), machine.look()]
    devices = machine.inventory["devices"]

    for device, sample in zip(devices, looks[1]["samples"], strict=True):
        assert sample["uuid"] == device["uuid"]
        assert 0 < sample["memory_used_bytes"] < int(device["memoryBytes"])
        assert sample["power_milliwatts"] is None or sample["power_milliwatts"] > 1000
        assert 5 < sample["temperature_celsius"] < 110
        values = sample["values"]
        assert 0 < values["sm_clock_megahertz"] < 10_000
        assert values["throttle_reasons"] < 0x200
        assert values.get("pcie_link_generation", 1) in range(1, 9)
        assert values.get("pcie_link_width", 16) in {1, 2, 4, 8, 16, 32}
        assert all(value >= 0 for value in values.values())
    # Whether it is offered is a matter of the card; when it is, it must be there every time.
    assert [sample["values"].keys() for sample in looks[0]["samples"]] == [
        sample["values"].keys() for sample in looks[1]["samples"]
    ]
    assert looks[1]["seconds"] < 0.2 * len(devices)


def test_energy_only_grows(machine: GpuMachine) -> None:
    first = machine.look()
    time.sleep(0.3)
    for before, after in zip(first["samples"], machine.look()["samples"], strict=True):
        if before["energy_millijoules"] is not None:
            assert after["energy_millijoules"] > before["energy_millijoules"] >= 0


def test_processes_are_of_its_gpus_and_no_error_is_invented(machine: GpuMachine) -> None:
    uuids = {device["uuid"] for device in machine.inventory["devices"]}
    seen = machine.look()

    for process in seen["processes"]:
        assert process["gpu_uuid"] in uuids
        assert process["pid"] > 0
        assert process["sm_utilization_percent"] is None or 0 <= process["sm_utilization_percent"] <= 100
    assert seen["xids"] == []
    whole = [device for device in seen["devices"] if "migDevices" not in device]
    assert not [device["unusableReason"] for device in whole if "unusableReason" in device]
