"""GPUs in words: what is wrong is said first, what a card does not offer is not made up."""

from __future__ import annotations

from runyard.metric.v1.batches_pb2 import AttemptRef
from runyard.metric.v1.gpus_pb2 import GpuProcessOwner, GpuQuantity
from runyard.metric.v1.metric_service_pb2 import GpuProcess, GpuReading, GpuValue, Statistic
from runyard.node.v1.types_pb2 import GpuDevice, MigDevice, Node, NodeInventory, NodeState, Reservation
from runyard_cli.commands.gpus import gpu_notes, gpu_rows
from runyard_cli.gpu_words import reading_words, statistic_lines
from runyard_cli.output import Style
from runyard_cli.table import Cell

H100 = GpuDevice(uuid="GPU-1", index=0, model="H100", memory_bytes=80 << 30)


def figure(name: str, low: float, mean: float, high: float) -> Statistic:
    return Statistic(name=f"gpu_{name}", gpu_uuid="GPU-1", min=low, mean=mean, max=high, sample_count=60)


def node(gpu: GpuDevice, **reservation: object) -> Node:
    inventory = NodeInventory(gpus=[gpu])
    held = [Reservation(run_id="0198", gpu_uuids=["GPU-1"])] if reservation.get("held") else []
    return Node(node_id="n1", state=NodeState.NODE_STATE_ATTACHED, inventory=inventory, reservations=held)


def test_what_a_card_does_not_offer_is_a_dash() -> None:
    reading = GpuReading(memory_used_bytes=1 << 30, not_offered_bits=0b1101)
    assert reading_words(reading, H100) == ("-", "1.0 GiB of 80.0 GiB", "-", "-", "-")


def test_a_reading_that_is_not_of_now_says_how_far_it_is_behind_and_nothing_else() -> None:
    foreign = GpuProcess(pid=1, owner=GpuProcessOwner.GPU_PROCESS_OWNER_FOREIGN)
    reading = GpuReading(
        gpu_uuid="GPU-1", utilization_percent=93, processes=[foreign], behind_milliseconds=7_260_000
    )
    (row,) = gpu_rows(node(H100), {"GPU-1": reading}, {})
    assert row[3:9] == (Cell("free", Style.FAINT), "2 h 1 min behind", "", "", "", "")
    assert list(gpu_notes(node(H100), {"GPU-1": reading}, {}, with_processes=True)) == []


def test_a_clock_that_is_held_down_says_why() -> None:
    values = [
        GpuValue(quantity=GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ, value=1100),
        GpuValue(quantity=GpuQuantity.GPU_QUANTITY_THROTTLE_REASONS, value=0x4 | 0x20 | 0x40),
    ]
    assert reading_words(GpuReading(values=values), H100)[4] == "1100 MHz (heat)"


def test_a_gpu_that_cannot_be_used_says_so_and_why() -> None:
    lost = GpuDevice(uuid="GPU-1", unusable_reason="it does not answer: GPU is lost")
    assert gpu_rows(node(lost), {}, {})[0][3] == Cell("unusable", Style.BAD)
    assert gpu_rows(node(lost, held=True), {}, {"0198": "a#3"})[0][3] == Cell("a#3, failed", Style.BAD)
    notes = list(gpu_notes(node(lost), {}, {}, with_processes=False))
    assert notes == ["n1 GPU 0 is not used: it does not answer: GPU is lost"]


def test_mig_devices_are_listed() -> None:
    cut = GpuDevice(
        uuid="GPU-1", mig_devices=[MigDevice(uuid="MIG-1", profile="1g.10gb", memory_bytes=10 << 30)]
    )
    (line,) = gpu_notes(node(cut), {}, {}, with_processes=False)
    assert line == "n1 GPU 0 has MIG device 1g.10gb, 10.0 GiB, MIG-1"


def test_processes_where_they_do_not_belong_are_always_named() -> None:
    reading = GpuReading(
        processes=[
            GpuProcess(
                pid=7,
                name="python",
                owner=GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER,
                attempt=AttemptRef(run_id="0198"),
                memory_bytes=4 << 30,
                sm_utilization_percent=40,
            ),
            GpuProcess(
                pid=8, name="game", owner=GpuProcessOwner.GPU_PROCESS_OWNER_FOREIGN, memory_bytes=1 << 30
            ),
        ]
    )
    readings, names = {"GPU-1": reading}, {"0198": "a#3"}
    assert list(gpu_notes(node(H100), readings, names, with_processes=False)) == [
        "n1 GPU 0: game (8) of no run: 1.0 GiB"
    ]
    own, _ = gpu_notes(node(H100), readings, names, with_processes=True)
    assert own == "n1 GPU 0: python (7) of a#3: 4.0 GiB, 40 %"


def test_figures_of_a_gpu_are_a_few_lines_and_counters_that_stood_still_none() -> None:
    lines = list(
        statistic_lines(
            [
                figure("utilization_percent", 40, 93.04, 99),
                figure("memory_used_bytes", 1 << 30, 2 << 30, 3 << 30),
                figure("power_milliwatts", 350_000, 350_000, 350_000),
                figure("energy_millijoules_total", 7.2e6, 7.2e6, 7.2e6),
                figure("throttled_percent", 0, 3, 100),
                figure("power_capped_percent", 0, 0, 0),
                figure("ecc_corrected_errors_total", 0, 0, 0),
                figure("ecc_uncorrected_errors_total", 2, 2, 2),
                figure("pcie_link_generation", 5, 5, 5),
                figure("pcie_link_width", 16, 16, 16),
                figure("pcie_sent_kilobytes_per_second", 0, 1_500_000, 2_000_000),
            ]
        )
    )
    assert lines == [
        "GPU-1: mean (lowest to highest) of 60 samples",
        "  used 93 % (40 % to 99 %), memory 2.0 GiB (1.0 GiB to 3.0 GiB)",
        "  power 350 W, energy 2.00 Wh",
        "  held down by heat or power 3 % of the time",
        "  PCIe 5 x16, PCIe out 1.5 GB/s (0 MB/s to 2.0 GB/s)",
        "  uncorrected ECC errors: 2",
    ]
