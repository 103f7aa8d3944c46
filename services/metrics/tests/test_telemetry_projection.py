from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.metric.v1.batches_pb2 import (
    AttemptRef,
    GpuIncidentSeen,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    LogChunkRecorded,
    LogStream,
    MetricPointsRecorded,
)
from runyard.metric.v1.gpus_pb2 import GpuIncidentKind, GpuProcessOwner, GpuQuantity
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunQueued, RunRequeued
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts.gpu_columns import ENERGY_BIT, POWER_BIT, packed_column
from runyard_metrics import gpu_answers
from runyard_metrics.answers import latest_message
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.gpu_answers import (
    Points,
    ReadingPlace,
    SeriesKey,
    gpu_points,
    gpu_statistics,
    incident_messages,
    reading_messages,
    readings_page,
)
from runyard_metrics.projections.gpus import figures_of
from runyard_metrics.projections.runs import RunsProjection
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import (
    COMMITTED_MARK,
    GPU_INCIDENT,
    GPU_READING,
    GPU_SERIES,
    GPU_USAGE,
    HOST_USAGE,
    LOG_CHUNK,
    LOG_PROGRESS,
    MALFORMED_BATCH,
    METRIC_PROGRESS,
    METRIC_SERIES,
    RUN_PROGRESS,
    RunProgressRow,
)
from runyard_testkit.projecting import Folded, fold

from .sent_events import recorded

RUN = AttemptRef(run_id="r1", attempt=1)


def _lines(first: int, *texts: str) -> LogChunkRecorded:
    return LogChunkRecorded(
        attempt=RUN,
        first_line_number=first,
        lines=texts,
        streams=[LogStream.LOG_STREAM_STDOUT] * len(texts),
        times_unix_milliseconds=range(len(texts)),
    )


def _points(*points: tuple[str, int, float], **json_values: str) -> MetricPointsRecorded:
    names = sorted({name for name, _, _ in points})
    return MetricPointsRecorded(
        attempt=RUN,
        names=names,
        name_indices=[names.index(name) for name, _, _ in points],
        times_unix_milliseconds=[1000 * line for _, line, _ in points],
        line_numbers=[line for _, line, _ in points],
        values=[value for _, _, value in points],
        json_values=json_values,
    )


def _texts(folded: Folded) -> list[str]:
    chunks = sorted(folded.rows(LOG_CHUNK), key=lambda row: row.first_line)
    return [line for row in chunks for line in LogChunkRecorded.FromString(row.payload).lines]


def test_lines_are_kept_with_their_totals() -> None:
    folded = fold(TelemetryProjection(), recorded([_lines(1, "a", "bä"), _lines(3, "c")]))
    assert _texts(folded) == ["a", "bä", "c"]
    progress = folded.get(LOG_PROGRESS, "r1", 1)
    assert progress is not None
    assert (progress.line_count, progress.text_bytes) == (3, 5)
    assert progress.added_firsts == (3,)


def test_a_line_that_was_read_twice_is_kept_once() -> None:
    folded = fold(TelemetryProjection(), recorded([_lines(1, "a", "b"), _lines(2, "b", "c"), _lines(1, "a")]))
    assert _texts(folded) == ["a", "b", "c"]
    progress = folded.get(LOG_PROGRESS, "r1", 1)
    assert progress is not None
    assert (progress.line_count, progress.text_bytes, progress.added_firsts) == (3, 3, ())


@given(st.permutations([1, 4, 6, 7]))
def test_spools_that_arrive_in_another_order_give_the_same_log(order: list[int]) -> None:
    texts = {1: "abc", 4: "de", 6: "f", 7: "gh"}
    folded = fold(TelemetryProjection(), recorded([_lines(first, *texts[first]) for first in order]))
    assert "".join(_texts(folded)) == "abcdefgh"
    progress = folded.get(LOG_PROGRESS, "r1", 1)
    assert progress is not None
    assert (progress.range_firsts, progress.range_lasts) == ((1,), (8,))


def test_metrics_keep_points_and_cumulative_figures() -> None:
    batches = [_points(("loss", 1, 3.0), ("loss", 2, 1.0), ("acc", 2, 0.5)), _points(("loss", 3, 2.0))]
    folded = fold(TelemetryProjection(), recorded(batches))
    loss = folded.get(METRIC_SERIES, "r1", 1, "loss")
    assert loss is not None
    assert (loss.point_count, loss.low, loss.high, loss.last_value, loss.last_line) == (3, 1.0, 3.0, 2.0, 3)
    assert [row.values for row in folded.rows(METRIC_SERIES) if row.name == "loss"] == [(3.0, 1.0), (2.0,)]
    progress = folded.get(METRIC_PROGRESS, "r1", 1)
    assert progress is not None
    assert (progress.point_count, progress.names) == (4, ("loss",))


def test_nan_is_counted_but_is_neither_lowest_nor_highest() -> None:
    folded = fold(TelemetryProjection(), recorded([_points(("loss", 1, math.nan), ("loss", 2, 2.0))]))
    loss = folded.get(METRIC_SERIES, "r1", 1, "loss")
    assert loss is not None
    assert (loss.point_count, loss.number_count, loss.low, loss.high) == (2, 1, 2.0, 2.0)


def test_the_newest_value_is_that_of_the_highest_line() -> None:
    folded = fold(TelemetryProjection(), recorded([_points(("loss", 9, 9.0)), _points(("loss", 4, 4.0))]))
    loss = folded.get(METRIC_SERIES, "r1", 1, "loss")
    assert loss is not None
    assert (loss.last_value, loss.last_line) == (9.0, 9)


def test_a_value_of_no_time_that_is_has_none() -> None:
    points = _points(("loss", 1, 1.0))
    points.times_unix_milliseconds[0] = 10**18
    row = fold(TelemetryProjection(), recorded([points])).get(METRIC_SERIES, "r1", 1, "loss")
    assert row is not None
    latest = latest_message(row)
    assert (latest.value, latest.HasField("time")) == (1.0, False)


def test_a_value_that_is_not_a_number_is_kept_as_json_until_a_number_comes() -> None:
    projection = TelemetryProjection()
    folded = fold(projection, recorded([_points(classes='["a"]')]))
    row = folded.get(METRIC_SERIES, "r1", 1, "classes")
    assert row is not None
    assert (row.last_json, row.point_count) == ('["a"]', 0)
    folded = fold(projection, recorded([_points(classes='["a"]'), _points(("classes", 2, 1.0))]))
    row = folded.get(METRIC_SERIES, "r1", 1, "classes")
    assert row is not None
    assert (row.last_json, row.last_value) == ("", 1.0)


def test_a_value_that_is_not_a_number_has_its_time_where_the_batch_says_it() -> None:
    timed, untimed = _points(note='"a"'), _points(note='"b"')
    timed.json_times_unix_milliseconds["note"] = 5_000
    for batches, time in (([timed], 5_000), ([untimed], 0), ([timed, untimed], 5_000)):
        row = fold(TelemetryProjection(), recorded(batches)).get(METRIC_SERIES, "r1", 1, "note")
        assert row is not None
        assert row.last_time_unix_milliseconds == time


def test_a_name_that_postgres_cannot_store_is_made_storable() -> None:
    folded = fold(TelemetryProjection(), recorded([_points(("a\x00b", 1, 1.0), ("x" * 5000, 1, 2.0))]))
    names = sorted(row.name for row in folded.rows(METRIC_SERIES))
    assert names[0] == "a\ufffdb"
    assert len(names[1]) == 200


def test_host_samples_give_running_statistics() -> None:
    def samples(*millicores: int) -> HostSamplesRecorded:
        return HostSamplesRecorded(
            attempt=RUN,
            node_id="node-1",
            times_unix_milliseconds=range(len(millicores)),
            cpu_millicores=millicores,
            memory_used_bytes=[10 * each for each in millicores],
            disk_read_bytes=millicores,
        )

    folded = fold(TelemetryProjection(), recorded([samples(100, 300), samples(200)]))
    row = folded.get(HOST_USAGE, "r1", 1, "node-1")
    assert row is not None
    assert (row.sample_count, row.cpu_millicores_low, row.cpu_millicores_total, row.cpu_millicores_high) == (
        3,
        100,
        600,
        300,
    )
    assert (row.memory_bytes_high, row.disk_read_bytes, row.disk_written_bytes) == (3000, 300, 0)


def _gpu_samples(*holders: str, rows: int = 2) -> GpuSamplesRecorded:
    count = rows * len(holders)
    return GpuSamplesRecorded(
        node_id="node-1",
        gpu_uuids=[f"GPU-{index}" for index in range(len(holders))],
        holders=[AttemptRef(run_id=run_id, attempt=1 if run_id else 0) for run_id in holders],
        times_unix_milliseconds=[1000 * (row + 1) for row in range(rows)],
        utilization_percents=range(count),
        memory_used_bytes=[1 << 40] * count,
        power_milliwatts=range(100, 100 + count),
        temperature_celsius=[50] * count,
        energy_millijoules=[0] * count,
    )


def test_gpu_samples_give_the_newest_reading_of_each_gpu() -> None:
    folded = fold(TelemetryProjection(), recorded([_gpu_samples("r1", "")]))
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
        samples = _gpu_samples(*holders)
        samples.node_id = node_id
        row = fold(TelemetryProjection(), recorded([samples])).get(GPU_READING, node_id)
        assert row is not None
        rows.append(row)
    place: ReadingPlace | None = ReadingPlace()
    pages = []
    while place is not None:
        # Rows before the place are not read again.
        page, place = readings_page([r for r in rows if r.node_id >= place.node_id], place, count_max)
        pages.append(page)
    assert [len(page) for page in pages[:-1]] == [count_max] * (len(pages) - 1)
    assert [(each.node_id, each.gpu_uuid) for page in pages for each in page] == [
        ("n1", "GPU-0"), ("n2", "GPU-0"), ("n2", "GPU-1"), ("n2", "GPU-2"), ("n3", "GPU-0")
    ]  # fmt: skip


def test_a_page_of_readings_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_answers, "READINGS_BYTES_MAX", 1)
    row = fold(TelemetryProjection(), recorded([_gpu_samples("r1", "")])).get(GPU_READING, "node-1")
    assert row is not None
    page, place = readings_page([row], ReadingPlace(), 1_000)
    assert ([each.gpu_uuid for each in page], place) == (["GPU-0"], ReadingPlace("node-1", 1))


def test_gpu_samples_count_for_the_attempt_that_holds_the_gpu() -> None:
    folded = fold(
        TelemetryProjection(), recorded([_gpu_samples("r1", "r2", "r1"), _gpu_samples("r1", "", "")])
    )
    mine = folded.get(GPU_USAGE, "r1", 1, "node-1")
    other = folded.get(GPU_USAGE, "r2", 1, "node-1")
    assert mine is not None
    assert other is not None
    assert (mine.gpu_uuids, mine.sample_counts) == (("GPU-0", "GPU-2"), (4, 2))
    # GPU-0 is at indices 0 and 3 of the first batch, 0 and 3 of the second.
    assert figures_of(mine)["GPU-0"]["gpu_utilization_percent"] == Extent(4, 0, 0 + 3 + 0 + 3, 3)
    assert other.gpu_uuids == ("GPU-1",)
    assert figures_of(other)["GPU-1"]["gpu_utilization_percent"] == Extent(2, 1, 1 + 4, 4)


def test_what_a_card_does_not_offer_has_no_figure() -> None:
    batch = _gpu_samples("r1", "r1")
    batch.not_offered_bits.extend([POWER_BIT | ENERGY_BIT, ENERGY_BIT])
    folded = fold(TelemetryProjection(), recorded([batch]))
    row = folded.get(GPU_USAGE, "r1", 1, "node-1")
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
        _gpu_samples("r1"), ecc_corrected_errors=[{0: 7}, {0: 9}], throttle_reasons=[{0: 0x4}, {0: 0x44}]
    )
    # The driver was loaded anew in between.
    second = _with_columns(
        _gpu_samples("r1"), ecc_corrected_errors=[{0: 1}, {0: 2}], throttle_reasons=[{0: 0}, {0: 0}]
    )
    row = fold(TelemetryProjection(), recorded([first, second])).get(GPU_USAGE, "r1", 1, "node-1")
    assert row is not None
    shown = {each.name: each for each in gpu_statistics([row])}
    assert shown["gpu_ecc_corrected_errors_total"].max == (9 - 7) + 2
    assert (shown["gpu_throttled_percent"].mean, shown["gpu_power_capped_percent"].mean) == (25, 50)


def test_series_of_an_attempt_are_of_its_own_gpus_and_their_processes() -> None:
    batch = _with_columns(_gpu_samples("r2", "r1"), sm_clock_megahertz=[{0: 1, 1: 1980}, {0: 2, 1: 1975}])
    owner = GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER
    batch.processes.add(
        gpu_index=1, pid=9, name="python", owner=owner, first_row=1, row_count=1, memory_bytes=[5]
    )
    row = fold(TelemetryProjection(), recorded([batch])).get(GPU_SERIES, "r1", 1, "node-1")
    assert row is not None
    names = frozenset({"gpu_sm_clock_megahertz", "gpu_process_memory_bytes"})
    points = gpu_points([GpuSamplesRecorded.FromString(row.payload)], names)
    assert points == {
        SeriesKey("GPU-1", "gpu_sm_clock_megahertz"): Points([1000, 2000], [1980, 1975]),
        SeriesKey("GPU-1", "gpu_process_memory_bytes", 9, "python"): Points([2000], [5]),
    }


def test_points_that_came_in_another_order_are_sorted_by_time() -> None:
    assert Points([3, 4, 1, 2], [30, 40, 10, 20]).in_order() == Points([1, 2, 3, 4], [10, 20, 30, 40])
    assert Points([1, 2], [1, 2]).in_order() == Points([1, 2], [1, 2])


def test_an_incident_is_kept_for_the_attempt_that_held_the_gpu() -> None:
    seen = GpuIncidentSeen(
        node_id="node-1",
        gpu_uuid="GPU-0",
        holder=RUN,
        time_unix_milliseconds=7,
        kind=GpuIncidentKind.GPU_INCIDENT_KIND_XID,
        number=79,
        detail="gone",
    )
    folded = fold(TelemetryProjection(), recorded([seen]))
    assert incident_messages(folded.rows(GPU_INCIDENT)) == [seen]
    assert folded.rows(GPU_INCIDENT)[0].run_id == "r1"


def test_a_gpu_whose_uuid_postgres_cannot_store_has_figures() -> None:
    samples = _gpu_samples("r1", "r1")
    samples.gpu_uuids[:] = ["GPU-\0", "GPU-b"]
    folded = fold(TelemetryProjection(), recorded([samples, samples]))
    usage = folded.get(GPU_USAGE, "r1", 1, "node-1")
    assert usage is not None
    assert (usage.gpu_uuids, usage.sample_counts) == (("GPU-\ufffd", "GPU-b"), (4, 4))


@pytest.mark.parametrize("time", [-1, 253_402_300_800_000])
def test_a_reading_of_no_time_that_is_makes_a_malformed_batch(time: int) -> None:
    samples = _gpu_samples("r1", "r1")
    samples.times_unix_milliseconds[-1] = time
    folded = fold(TelemetryProjection(), recorded([samples]))
    assert folded.get(MALFORMED_BATCH, "node-1", "s1") is not None
    assert folded.rows(GPU_READING) == []


def test_gpu_columns_that_do_not_fit_make_a_malformed_batch() -> None:
    batch = _gpu_samples("r1")
    batch.columns.add(values=[1, 2, 3])
    folded = fold(TelemetryProjection(), recorded([batch]))
    assert folded.get(MALFORMED_BATCH, "node-1", "s1") is not None
    assert folded.get(GPU_USAGE, "r1", 1, "node-1") is None


@pytest.mark.parametrize(
    ("first_row", "gpu_index", "is_within"), [(0, 0, True), (1, 0, False), (0, 1, False)]
)
def test_a_process_outside_its_batch_makes_a_malformed_batch(
    first_row: int, gpu_index: int, is_within: bool
) -> None:
    batch = _gpu_samples("r1")
    batch.processes.add(pid=7, gpu_index=gpu_index, first_row=first_row, row_count=2, memory_bytes=[1, 1])
    folded = fold(TelemetryProjection(), recorded([batch]))
    assert (folded.get(MALFORMED_BATCH, "node-1", "s1") is None) == is_within


def test_a_point_of_no_name_makes_a_malformed_batch() -> None:
    batch = _points(("loss", 1, 2.0))
    batch.name_indices[0] = len(batch.names)
    row = fold(TelemetryProjection(), recorded([batch])).get(MALFORMED_BATCH, "node-1", "s1")
    assert row is not None
    assert row.reason == f"name index {len(batch.names)} of {len(batch.names)} names"


def test_every_batch_moves_the_committed_mark() -> None:
    folded = fold(TelemetryProjection(), recorded([_lines(1, "a"), _gpu_samples(), _points()]))
    mark = folded.get(COMMITTED_MARK, "node-1", "s1")
    assert mark is not None
    assert (mark.sequence, mark.position) == (3, 3)


def test_a_malformed_batch_is_written_down_and_blocks_nothing() -> None:
    broken = _lines(2, "b")
    broken.streams.append(LogStream.LOG_STREAM_STDERR)
    folded = fold(TelemetryProjection(), recorded([_lines(1, "a"), broken, _lines(3, "c")]))
    assert _texts(folded) == ["a", "c"]
    row = folded.get(MALFORMED_BATCH, "node-1", "s1")
    mark = folded.get(COMMITTED_MARK, "node-1", "s1")
    assert row is not None
    assert mark is not None
    assert (row.position, mark.sequence) == (2, 3)
    assert "different lengths" in row.reason


def test_a_mark_that_postgres_cannot_store_is_made_storable() -> None:
    mark = TelemetryMark(node_id="node-1", spool_id="s\0", last_sequence=1)
    folded = fold(RunsProjection(), recorded([RunFinished(run_id="r1", telemetry=mark)]))
    row = folded.get(RUN_PROGRESS, "r1")
    assert row is not None
    assert (row.mark_node_id, row.mark_spool_id) == ("node-1", "s\ufffd")


def test_a_run_is_followed_to_its_telemetry_mark() -> None:
    mark = TelemetryMark(node_id="node-1", spool_id="s1", last_sequence=7)
    events = [
        RunQueued(run_id="r1"),
        RunLeaseGranted(run_id="r1", attempt=1),
        RunRequeued(run_id="r1", next_attempt=2),
        RunLeaseGranted(run_id="r1", attempt=2),
        RunFinished(run_id="r1", attempt=2, telemetry=mark),
    ]
    folded = fold(RunsProjection(), recorded(events))
    assert folded.get(RUN_PROGRESS, "r1") == RunProgressRow(
        run_id="r1",
        position=5,
        attempt=2,
        finished=True,
        mark_node_id="node-1",
        mark_spool_id="s1",
        mark_sequence=7,
    )
    assert [row.attempt for row in folded.rows(RUN_PROGRESS)] == [0, 1, 2, 2]
