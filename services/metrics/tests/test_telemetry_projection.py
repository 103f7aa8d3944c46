"""What becomes of what an agent sends of a run: lines, points, host samples, and how far they have come."""

from __future__ import annotations

import math
import random

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
from runyard.run.v1.events_pb2 import RunFinished, RunLeaseGranted, RunQueued, RunRequeued
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_metrics.answers import latest_message
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.projections.runs import RunsProjection
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import (
    COMMITTED_MARK,
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

from .sent_events import committed, gpu_samples, recorded

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


@given(st.lists(st.integers(0, 4), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_points_of_lines_that_another_spool_told_of_count_once(
    lengths: list[int], order: random.Random
) -> None:
    # Each spool that a node began anew tells of the attempt from its first line on.
    told = [[("loss", 3, 3.0)], [("loss", 4, 1.0), ("acc", 4, 0.5)], [("loss", 9, 2.0)], [("acc", 12, 0.7)]]
    spools = {SpoolKey("node-1", f"s{number}"): told[:length] for number, length in enumerate(lengths)}
    following = {spool: iter(batches) for spool, batches in spools.items()}
    sending = [spool for spool, batches in spools.items() for _ in batches]
    arriving = [(spool, _points(*next(following[spool]))) for spool in order.sample(sending, k=len(sending))]
    folded = fold(TelemetryProjection(), committed(arriving))
    once = [point for points in told[: max(lengths)] for point in points]
    points = [
        (row.name, line, value)
        for row in folded.rows(METRIC_SERIES)
        for line, value in zip(row.line_numbers, row.values, strict=True)
    ]
    assert sorted(points) == sorted(once)
    progress = folded.get(METRIC_PROGRESS, "r1", 1)
    assert (progress.point_count if progress else 0) == len(once)
    loss = folded.get(METRIC_SERIES, "r1", 1, "loss")
    assert (loss.point_count if loss else 0) == len([name for name, _, _ in once if name == "loss"])


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


def test_a_point_of_no_name_makes_a_malformed_batch() -> None:
    batch = _points(("loss", 1, 2.0))
    batch.name_indices[0] = len(batch.names)
    row = fold(TelemetryProjection(), recorded([batch])).get(MALFORMED_BATCH, "node-1", "s1")
    assert row is not None
    assert row.reason == f"name index {len(batch.names)} of {len(batch.names)} names"


def test_every_batch_moves_the_committed_mark() -> None:
    folded = fold(TelemetryProjection(), recorded([_lines(1, "a"), gpu_samples(), _points()]))
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


@pytest.mark.parametrize(
    "batch",
    [
        gpu_samples("r1"),
        HostSamplesRecorded(attempt=RUN, node_id="node-1", times_unix_milliseconds=[1]),
        GpuIncidentSeen(node_id="node-1", gpu_uuid="GPU-0", holder=RUN),
    ],
)
def test_what_a_node_says_in_the_name_of_another_is_a_malformed_batch(
    batch: GpuSamplesRecorded | HostSamplesRecorded | GpuIncidentSeen,
) -> None:
    # Its credential reaches its own subjects only: the stream is what is proved.
    folded = fold(TelemetryProjection(), committed([(SpoolKey("node-2", "s1"), batch)]))
    row = folded.get(MALFORMED_BATCH, "node-2", "s1")
    assert row is not None
    assert row.reason == "a batch of node-2 says that it is of node-1"
    assert {put.table.name for put in folded.puts} == {"malformed_batch", "committed_mark"}


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
