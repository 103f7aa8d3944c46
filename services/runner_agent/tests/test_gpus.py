"""GPUs through NVIDIA's own binding: the library below it is the scripted one of tests/tools/fake-nvml."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.gpus import open_gpus

from .gpu_machine import GpuMachine, build_library, gpu_machine

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("gpus")]

Scripted = Callable[..., AbstractContextManager[GpuMachine]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "gpus"


@pytest.fixture
def scripted(library: Path, script: Path) -> Scripted:
    def start(text: str = "", **variables: str) -> AbstractContextManager[GpuMachine]:
        if text:
            script.write_text(text)
        return gpu_machine(LD_LIBRARY_PATH=str(library), FAKE_NVML_FILE=str(script), **variables)

    return start


def test_devices_and_samples_are_what_the_driver_says(scripted: Scripted) -> None:
    text = f"""
        device 0 name=Fake-H100 mem_total=85899345920 uuid=GPU-a
        device 0 util=80 mem_used=1073741824 power=350000 temp=61 proc={os.getpid()}:536870912:40
        device 0 sm_clock=1980 mem_clock=2619 throttle=0x44 ecc_corrected=3 ecc_uncorrected=1 mem_util=12
        device 0 pcie_tx=1000000 pcie_rx=2000000 pcie_gen=5 pcie_width=16 pcie_replay=7 mem_temp=71
        device 0 nvlink_tx=4000000 nvlink_rx=3000000 nvlink_errors=2
        device 1 name=Fake-L4 uuid=GPU-b
    """
    with scripted(text) as machine:
        assert machine.inventory == {
            "driver": "999.00.fake",
            "cuda": "12.8",
            "warnings": [],
            "devices": [
                {"uuid": "GPU-a", "model": "Fake-H100", "memoryBytes": "85899345920"},
                {"uuid": "GPU-b", "index": 1, "model": "Fake-L4", "memoryBytes": str(16 << 30)},
            ],
        }
        first = machine.look()["samples"][0]
        # Long beside what passes between a count and its time where others have the processor.
        time.sleep(1.0)
        seen = machine.look()["samples"][0]

    assert not any(name.endswith("_per_second") for name in first["values"])
    assert seen["energy_millijoules"] > first["energy_millijoules"]
    check_sample(seen)


def check_sample(seen: dict[str, Any]) -> None:
    expected = {
        "uuid": "GPU-a",
        "utilization_percent": 80,
        "memory_used_bytes": 1 << 30,
        "power_milliwatts": 350_000,
        "temperature_celsius": 61,
    }
    assert expected.items() <= seen.items()
    rates = {name: value for name, value in seen["values"].items() if name.endswith("_per_second")}
    assert {name: value for name, value in seen["values"].items() if name not in rates} == {
        "sm_clock_megahertz": 1980,
        "memory_clock_megahertz": 2619,
        "throttle_reasons": 0x44,
        "ecc_corrected_errors": 3,
        "ecc_uncorrected_errors": 1,
        "pcie_link_generation": 5,
        "pcie_link_width": 16,
        "pcie_replays": 7,
        "nvlink_errors": 2,
        "memory_utilization_percent": 12,
        "memory_temperature_celsius": 71,
    }
    assert rates == {
        "pcie_sent_kilobytes_per_second": pytest.approx(1_000_000, rel=0.3),
        "pcie_received_kilobytes_per_second": pytest.approx(2_000_000, rel=0.3),
        "nvlink_sent_kilobytes_per_second": pytest.approx(4_096_000, rel=0.3),
        "nvlink_received_kilobytes_per_second": pytest.approx(3_072_000, rel=0.3),
    }
    own_name = Path("/proc/self/comm").read_text().strip()
    process = {"gpu_uuid": "GPU-a", "pid": os.getpid(), "memory_bytes": 512 << 20, "name": own_name}
    assert seen["processes"] == [{**process, "sm_utilization_percent": 40}]


def test_what_a_card_does_not_offer_is_left_out_and_asked_for_once(scripted: Scripted) -> None:
    refused = "util,power,temp,energy,ecc,clocks,throttle,nvlink,pcie_counters,pcie_throughput,pcie_link"
    text = f"device 0 unsupported={refused},pcie_replay,mem_temp,recovery,processes,process_util,mig,events\n"
    with scripted(text) as machine:
        (sample,) = machine.look()["samples"]
        refusals = machine.look()["refusals"]
        assert machine.look()["refusals"] == refusals > 10

    assert sample["memory_used_bytes"] == 0
    assert sample["values"] == {}
    left_out = ("utilization_percent", "power_milliwatts", "temperature_celsius", "energy_millijoules")
    assert [sample[name] for name in left_out] == [None] * 4


def test_throughput_is_asked_for_where_a_card_has_no_counters(scripted: Scripted) -> None:
    with scripted("device 0 unsupported=pcie_counters pcie_tx=5 pcie_rx=6\n") as machine:
        (sample,) = machine.look()["samples"]

    assert sample["values"]["pcie_sent_kilobytes_per_second"] == 5
    assert sample["values"]["pcie_received_kilobytes_per_second"] == 6


def test_a_lost_gpu_is_unusable_until_it_is_back_and_the_others_go_on(
    scripted: Scripted, script: Path
) -> None:
    healthy = "device 0 uuid=GPU-a util=10\ndevice 1 uuid=GPU-b util=20\n"
    with scripted(healthy) as machine:
        script.write_text(healthy + "device 0 lost=1\n")
        lost, other = machine.look()["samples"]
        assert (lost, other["utilization_percent"]) == (None, 20)
        first, second = machine.look()["devices"]
        assert first["unusableReason"] == "it does not answer: GPU is lost"
        assert "unusableReason" not in second

        script.write_text(healthy)
        seen = machine.look()
        assert seen["samples"][0]["utilization_percent"] == 10
        assert "unusableReason" not in seen["devices"][0]


def test_errors_of_a_gpu_that_was_lost_are_heard_again(scripted: Scripted, script: Path) -> None:
    with scripted("device 0 uuid=GPU-a\ndevice 1\n") as machine:
        script.write_text("device 0 uuid=GPU-a lost=1\ndevice 1\n")
        machine.look()
        machine.look()
        script.write_text("device 0 uuid=GPU-a xid=31\ndevice 1\n")
        assert _xids(machine, 1) == [["GPU-a", 31]]


def test_a_driver_that_goes_away_and_returns_is_opened_again(scripted: Scripted, script: Path) -> None:
    with scripted("device 0 uuid=GPU-a util=10\n") as machine:
        script.write_text("driver fail=18\ndevice 0 uuid=GPU-a\n")
        assert machine.look()["samples"] == [None]
        gone = machine.look()
        assert gone["devices"][0]["unusableReason"].startswith("it does not answer: ")
        assert gone["warnings"][0].startswith("No GPU can be used here: NVML says ")

        script.write_text("driver version=571.1\ndevice 0 uuid=GPU-a util=30\ndevice 1 uuid=GPU-b\n")
        machine.look()
        back = machine.look()
        assert back["samples"][0]["utilization_percent"] == 30
        assert back["driver"] == "571.1"
        assert [device["uuid"] for device in back["devices"]] == ["GPU-a", "GPU-b"]
        assert not any("unusableReason" in device for device in back["devices"])


def test_a_gpu_that_is_lost_from_the_start_is_a_warning_until_it_answers(
    scripted: Scripted, script: Path
) -> None:
    with scripted("device 0 lost=1\ndevice 1 uuid=GPU-b\n") as machine:
        assert [device["uuid"] for device in machine.inventory["devices"]] == ["GPU-b"]
        assert machine.inventory["warnings"] == ["GPU 0 cannot be used: NVML says GPU is lost."]
        script.write_text("device 0 uuid=GPU-a\ndevice 1 uuid=GPU-b\n")
        seen = machine.look()
        assert [device["uuid"] for device in seen["devices"]] == ["GPU-a", "GPU-b"]
        assert seen["warnings"] == []


def test_a_driver_that_is_not_loaded_means_no_gpus_and_one_sentence(scripted: Scripted, script: Path) -> None:
    with scripted("driver fail=9\n") as machine:
        assert machine.inventory["devices"] == []
        assert machine.inventory["warnings"] == ["No GPU can be used here: NVML says Driver Not Loaded."]
        assert machine.look()["samples"] == []
        script.write_text("device 0 uuid=GPU-a\n")
        assert [device["uuid"] for device in machine.look()["devices"]] == ["GPU-a"]


def test_an_xid_of_the_hardware_makes_its_gpu_unusable_until_the_driver_says_it_is_well(
    scripted: Scripted, script: Path
) -> None:
    with scripted("device 0 uuid=GPU-a\ndevice 1 uuid=GPU-b unsupported=recovery\n") as machine:
        script.write_text(
            "device 0 uuid=GPU-a xid=31 xid=95 recovery=1\ndevice 1 uuid=GPU-b unsupported=recovery xid=79\n"
        )
        assert sorted(_xids(machine, 3)) == [["GPU-a", 31], ["GPU-a", 95], ["GPU-b", 79]]
        first, second = machine.look()["devices"]
        assert (
            first["unusableReason"]
            == "the driver asks for a reset of the GPU after XID 95 (uncontained ECC error)"
        )
        assert second["unusableReason"] == "it needs a reset after XID 79 (the GPU has fallen off the bus)"
        script.write_text(
            "device 0 uuid=GPU-a xid=31 xid=95 recovery=0\ndevice 1 uuid=GPU-b unsupported=recovery xid=79\n"
        )
        machine.look()
        first, second = machine.look()["devices"]
        assert "unusableReason" not in first
        assert "unusableReason" in second


def test_a_gpu_in_mig_mode_is_listed_with_its_slices_and_not_used(scripted: Scripted) -> None:
    text = """
        device 0 name=Fake-H100 uuid=GPU-a
        device 0 mig=MIG-x:1g.10gb:10737418240:7:0 mig=MIG-y:3g.40gb:42949672960:2:0
        device 1 uuid=GPU-b
    """
    with scripted(text) as machine:
        cut, whole = machine.inventory["devices"]
        assert cut["unusableReason"] == "it is in MIG mode: runs get whole GPUs only"
        first = {"uuid": "MIG-x", "profile": "1g.10gb", "memoryBytes": "10737418240", "gpuInstanceId": 7}
        assert cut["migDevices"][0] == first
        assert cut["migDevices"][1]["profile"] == "3g.40gb"
        assert "unusableReason" not in whole
        assert machine.inventory["warnings"] == [
            "GPU 0 cannot be used: it is in MIG mode: runs get whole GPUs only (it has 1g.10gb, 3g.40gb)."
        ]


async def test_a_machine_without_the_library_has_no_gpus() -> None:
    gpus = open_gpus()
    if gpus.driver_version:
        pytest.skip("this machine has a driver: test_gpus_real looks at it")
    assert list(await gpus.devices()) == []
    assert list(await gpus.sample()) == []
    assert gpus.warnings == ("No GPU can be used here: NVML says NVML Shared Library Not Found.",)
    gpus.close()


def _xids(machine: GpuMachine, count: int) -> list[list[object]]:
    seen: list[list[object]] = []
    for _ in range(200):
        seen += machine.look()["xids"]
        if len(seen) >= count:
            return seen
        time.sleep(0.01)
    raise AssertionError(f"only {seen} were reported")
