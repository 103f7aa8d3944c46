"""Lines and readings are packed in order, each once, and each batch fits an event."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.metric.v1.batches_pb2 import AttemptRef, LogStream
from runyard_agent.domain.batching import (
    CHUNK_BYTES_MAX,
    CHUNK_LINES_MAX,
    POINTS_MAX,
    LogLine,
    log_chunks,
    metric_batches,
    metric_readings,
)

REF = AttemptRef(run_id="run", attempt=1)
STDOUT, STDERR = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR


def out(text: str, time: int = 7) -> LogLine:
    return LogLine(text, STDOUT, time)


@given(
    texts=st.lists(st.text(max_size=5) | st.just("x" * 20_000) | st.just("y" * 70_000), max_size=30),
    first=st.integers(1, 2**40),
)
def test_chunks_hold_every_line_once_in_order(texts: list[str], first: int) -> None:
    chunks = list(log_chunks(REF, first, [out(text) for text in texts]))

    assert [line for chunk in chunks for line in chunk.lines] == texts
    for chunk in chunks:
        assert chunk.first_line_number == first
        assert len(chunk.lines) == len(chunk.streams) == len(chunk.times_unix_milliseconds)
        assert len(chunk.lines) == 1 or sum(len(line.encode()) for line in chunk.lines) <= CHUNK_BYTES_MAX
        first += len(chunk.lines)


def test_many_short_lines_are_bounded_by_their_count() -> None:
    chunks = list(log_chunks(REF, 1, [out("")] * (CHUNK_LINES_MAX + 1)))

    assert [len(chunk.lines) for chunk in chunks] == [CHUNK_LINES_MAX, 1]


def test_only_whole_lines_of_standard_output_are_metrics() -> None:
    text = '{"loss": 1}'
    lines = [out("a"), LogLine(text, STDERR, 1), LogLine(text, STDOUT, 1, is_whole=False), out(text, 9)]

    found = metric_readings(10, lines)

    assert [(numbered.line_number, numbered.time_unix_milliseconds) for numbered in found] == [(13, 9)]


def test_a_line_that_says_its_time_has_points_of_that_time_and_others_when_they_were_read() -> None:
    lines = [out('{"_time": "1970-01-01T00:00:05Z", "a": 1}', 100), out('{"a": 2}', 200)]

    (batch,) = metric_batches(REF, metric_readings(5, lines))

    assert list(batch.names) == ["a"]
    assert list(batch.times_unix_milliseconds) == [5_000, 200]


def test_points_carry_name_time_line_and_value() -> None:
    lines = [out('{"a": 1, "b": 2}', 100), out('{"b": 3, "note": "x"}', 200)]

    (batch,) = metric_batches(REF, metric_readings(5, lines))

    assert list(batch.names) == ["a", "b"]
    points = zip(
        batch.name_indices, batch.times_unix_milliseconds, batch.line_numbers, batch.values, strict=True
    )
    assert list(points) == [(0, 100, 5, 1.0), (1, 100, 5, 2.0), (1, 200, 6, 3.0)]
    assert dict(batch.json_values) == {"note": '"x"'}
    assert dict(batch.json_times_unix_milliseconds) == {"note": 200}


@settings(max_examples=25)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9), min_size=1), max_size=15)
)
def test_batches_hold_every_point_once_in_order(rows: list[dict[str, int]]) -> None:
    lines = [out(json.dumps(row)) for row in rows for _ in range(60)]

    batches = list(metric_batches(REF, metric_readings(1, lines)))

    found = [
        (line, batch.names[index], value)
        for batch in batches
        for line, index, value in zip(batch.line_numbers, batch.name_indices, batch.values, strict=True)
    ]
    assert found == [
        (number, name, float(value))
        for number, row in enumerate((row for row in rows for _ in range(60)), start=1)
        for name, value in row.items()
    ]
    assert all(len(batch.values) <= POINTS_MAX for batch in batches)
