"""What becomes of an agent's samples of its GPUs: readings, figures, series and incidents."""

from __future__ import annotations

from array import array

import pytest

from runyard.metric.v1.batches_pb2 import AttemptRef, GpuIncidentSeen, GpuSamplesRecorded
from runyard.metric.v1.gpus_pb2 import GpuIncidentKind, GpuProcessOwner, GpuQuantity
from runyard_contracts.gpu_columns import ENERGY_BIT, POWER_BIT, packed_column
from runyard_core.errors import ResourceExhausted
from runyard_metrics import gpu_answers, gpu_handlers
from runyard_metrics.domain.gpu_readings import BASE_NAMES
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.gpu_answers import (
    Points,
    ReadingPlace,
    SeriesKey,
    add_gpu_points,
    gpu_statistics,
    incident_messages,
    reading_messages,
    readings_page,
)
from runyard_metrics.gpu_handlers import gather
from runyard_metrics.projections.gpus import figures_of
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import GPU_INCIDENT, GPU_READING, GPU_SERIES, GPU_USAGE, MALFORMED_BATCH
from runyard_testkit.projecting import fold

from .sent_events import committed, gpu_samples, recorded


def test_gpu_samples_give_the_newest_reading_of_each_gpu() -> None:
    folded = fold(TelemetryProjection(), recorded([gpu_samples("r1", "")]))
    row = folded.get(GPU_READING, "node-1")
    assert row is not None
    first, second = reading_messages(row)
    assert (first.time.ToMilliseconds(), first.gpu_uuid, second.gpu_uuid) == (2000, "GPU-0", "GPU-1")
    assert (first.utilization_percent, second.utilization_percent) == (2, 3)
    assert (first.holder.run_id, second.holder.run_id) == ("r1", "")
    assert (list(first.values), list(first.processes), first.not_offered_bits) == ([], [], 0)


@pytest.mark.parametrize("count_max", [1, 2, 3, 4, 5, 6])
def test_pages_of_readings_hold_every_reading_once(count_max: int) -> None:
    rows = []
    for node_id, holders in (("n1", ("",)), ("n2", ("r1", "", "")), ("n3", ("",))):
        samples = gpu_samples(*holders)
        samples.node_id = node_id
        folded = fold(TelemetryProjection(), committed([(SpoolKey(node_id, "s1"), samples)]))
        row = folded.get(GPU_READING, node_id)
        assert row is not None
        rows.append(row)
    place: ReadingPlace | None = ReadingPlace()
    pages = []
    while place is not None:
        # Rows before the place are not read again.
        page, place = readings_page([r for r in rows if r.node_id >= place.node_id], place, count_max, 0)
        pages.append(page)
    assert [len(page) for page in pages[:-1]] == [count_max] * (len(pages) - 1)
    assert [(each.node_id, each.gpu_uuid) for page in pages for each in page] == [
        ("n1", "GPU-0"), ("n2", "GPU-0"), ("n2", "GPU-1"), ("n2", "GPU-2"), ("n3", "GPU-0")
    ]  # fmt: skip


def test_a_page_of_readings_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_answers, "READINGS_BYTES_MAX", 1)
    row = fold(TelemetryProjection(), recorded([gpu_samples("r1", "")])).get(GPU_READING, "node-1")
    assert row is not None
    page, place = readings_page([row], ReadingPlace(), 1_000, 0)
    assert ([each.gpu_uuid for each in page], place) == (["GPU-0"], ReadingPlace("node-1", 1))


def test_gpu_samples_count_for_the_attempt_that_holds_the_gpu() -> None:
    folded = fold(TelemetryProjection(), recorded([gpu_samples("r1", "r2", "r1"), gpu_samples("r1", "", "")]))
    mine = folded.get(GPU_USAGE, "r1", 1, "node-1", "s1")
    other = folded.get(GPU_USAGE, "r2", 1, "node-1", "s1")
    assert mine is not None
    assert other is not None
    assert (mine.gpu_uuids, mine.sample_counts) == (("GPU-0", "GPU-2"), (4, 2))
    # GPU-0 is at indices 0 and 3 of the first batch, 0 and 3 of the second.
    assert figures_of(mine)["GPU-0"]["gpu_utilization_percent"] == Extent(4, 0, 0 + 3 + 0 + 3, 3)
    assert other.gpu_uuids == ("GPU-1",)
    assert figures_of(other)["GPU-1"]["gpu_utilization_percent"] == Extent(2, 1, 1 + 4, 4)


def test_what_a_card_does_not_offer_has_no_figure() -> None:
    batch = gpu_samples("r1", "r1")
    batch.not_offered_bits.extend([POWER_BIT | ENERGY_BIT, ENERGY_BIT])
    folded = fold(TelemetryProjection(), recorded([batch]))
    row = folded.get(GPU_USAGE, "r1", 1, "node-1", "s1")
    assert row is not None
    assert figures_of(row)["GPU-0"].keys() == {
        "gpu_utilization_percent",
        "gpu_memory_used_bytes",
        "gpu_temperature_celsius",
    }
    assert "gpu_power_milliwatts" in figures_of(row)["GPU-1"]


def _with_columns(batch: GpuSamplesRecorded, **columns: list[dict[int, int]]) -> GpuSamplesRecorded:
    for name, rows in columns.items():
        quantity = GpuQuantity.Value(f"GPU_QUANTITY_{name.upper()}")
        batch.columns.append(packed_column(quantity, rows, len(batch.gpu_uuids)))
    return batch


def test_counters_tell_how_much_they_grew_and_throttling_its_share_of_time() -> None:
    first = _with_columns(
        gpu_samples("r1"), ecc_corrected_errors=[{0: 7}, {0: 9}], throttle_reasons=[{0: 0x4}, {0: 0x44}]
    )
    # The driver was loaded anew in between.
    second = _with_columns(
        gpu_samples("r1"), ecc_corrected_errors=[{0: 1}, {0: 2}], throttle_reasons=[{0: 0}, {0: 0}]
    )
    row = fold(TelemetryProjection(), recorded([first, second])).get(GPU_USAGE, "r1", 1, "node-1", "s1")
    assert row is not None
    shown = {each.name: each for each in gpu_statistics([row])}
    assert shown["gpu_ecc_corrected_errors_total"].max == (9 - 7) + 2
    assert (shown["gpu_throttled_percent"].mean, shown["gpu_power_capped_percent"].mean) == (25, 50)


def test_series_of_an_attempt_are_of_its_own_gpus_and_their_processes() -> None:
    batch = _with_columns(gpu_samples("r2", "r1"), sm_clock_megahertz=[{0: 1, 1: 1980}, {0: 2, 1: 1975}])
    owner = GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER
    batch.processes.add(
        gpu_index=1, pid=9, name="python", owner=owner, first_row=1, row_count=1, memory_bytes=[5]
    )
    row = fold(TelemetryProjection(), recorded([batch])).get(GPU_SERIES, "r1", 1, "node-1")
    assert row is not None
    names = frozenset({"gpu_sm_clock_megahertz", "gpu_process_memory_bytes"})
    points: dict[SeriesKey, Points] = {}
    add_gpu_points(points, [GpuSamplesRecorded.FromString(row.payload)], names)
    assert points == {
        SeriesKey("GPU-1", "gpu_sm_clock_megahertz"): _points([1000, 2000], [1980, 1975]),
        SeriesKey("GPU-1", "gpu_process_memory_bytes", 9, "python"): _points([2000], [5]),
    }
    add_gpu_points(points, [GpuSamplesRecorded.FromString(row.payload)], frozenset())
    assert {key.name for key in points if not key.pid} == {*BASE_NAMES[:4], "gpu_sm_clock_megahertz"}


def test_more_points_than_an_answer_may_be_made_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_handlers, "GATHERED_POINTS_MAX", 4)
    payload, names = gpu_samples("r1", "r1").SerializeToString(), frozenset({"gpu_power_milliwatts"})
    gathered: dict[SeriesKey, Points] = {}
    gather(gathered, [payload], names)
    with pytest.raises(ResourceExhausted, match="fewer names"):
        gather(gathered, [payload], names)


def test_points_that_came_in_another_order_are_sorted_by_time() -> None:
    assert _points([3, 4, 1, 2], [30, 40, 10, 20]).in_order() == _points([1, 2, 3, 4], [10, 20, 30, 40])
    assert _points([1, 2], [1, 2]).in_order() == _points([1, 2], [1, 2])


def _points(times: list[int], values: list[float]) -> Points:
    return Points(array("q", times), array("d", values))


def test_an_incident_is_kept_for_the_attempt_that_held_the_gpu() -> None:
    seen = GpuIncidentSeen(
        node_id="node-1",
        gpu_uuid="GPU-0",
        holder=AttemptRef(run_id="r1", attempt=1),
        time_unix_milliseconds=7,
        kind=GpuIncidentKind.GPU_INCIDENT_KIND_XID,
        number=79,
        detail="gone",
    )
    folded = fold(TelemetryProjection(), recorded([seen]))
    assert incident_messages(folded.rows(GPU_INCIDENT)) == [seen]
    assert folded.rows(GPU_INCIDENT)[0].run_id == "r1"


def test_a_gpu_whose_uuid_postgres_cannot_store_has_figures() -> None:
    samples = gpu_samples("r1", "r1")
    samples.gpu_uuids[:] = ["GPU-\0", "GPU-b"]
    folded = fold(TelemetryProjection(), recorded([samples, samples]))
    usage = folded.get(GPU_USAGE, "r1", 1, "node-1", "s1")
    assert usage is not None
    assert (usage.gpu_uuids, usage.sample_counts) == (("GPU-\ufffd", "GPU-b"), (4, 4))


@pytest.mark.parametrize("time", [-1, 253_402_300_800_000])
def test_a_reading_of_no_time_that_is_makes_a_malformed_batch(time: int) -> None:
    samples = gpu_samples("r1", "r1")
    samples.times_unix_milliseconds[-1] = time
    folded = fold(TelemetryProjection(), recorded([samples]))
    assert folded.get(MALFORMED_BATCH, "node-1", "s1") is not None
    assert folded.rows(GPU_READING) == []


def test_gpu_columns_that_do_not_fit_make_a_malformed_batch() -> None:
    batch = gpu_samples("r1")
    batch.columns.add(values=[1, 2, 3])
    folded = fold(TelemetryProjection(), recorded([batch]))
    assert folded.get(MALFORMED_BATCH, "node-1", "s1") is not None
    assert folded.get(GPU_USAGE, "r1", 1, "node-1", "s1") is None


@pytest.mark.parametrize(
    ("first_row", "gpu_index", "is_within"), [(0, 0, True), (1, 0, False), (0, 1, False)]
)
def test_a_process_outside_its_batch_makes_a_malformed_batch(
    first_row: int, gpu_index: int, is_within: bool
) -> None:
    batch = gpu_samples("r1")
    batch.processes.add(pid=7, gpu_index=gpu_index, first_row=first_row, row_count=2, memory_bytes=[1, 1])
    folded = fold(TelemetryProjection(), recorded([batch]))
    assert (folded.get(MALFORMED_BATCH, "node-1", "s1") is None) == is_within
