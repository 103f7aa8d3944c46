"""A JSON object on a line of its own is a reading; everything else is log."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.domain.metric_lines import JSON_VALUE_LENGTH_MAX, MetricReading, read_metric_line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_numbers_are_points_and_the_rest_is_json() -> None:
    reading = read_metric_line('{"loss": 0.5, "epoch": 3, "ok": true, "note": "good", "matrix": [[1, 2]]}')

    assert reading == MetricReading(
        {"loss": 0.5, "epoch": 3.0}, {"ok": "true", "note": '"good"', "matrix": "[[1, 2]]"}
    )


def test_diverged_loss_is_a_number_too() -> None:
    reading = read_metric_line('{"loss": NaN, "norm": Infinity}')

    assert reading is not None
    assert math.isnan(reading.numbers["loss"])
    assert reading.numbers["norm"] == math.inf


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "loss: 0.5",
        "[1, 2]",
        '{"loss": 0.5',
        '{"loss": 0.5} done',
        "{'loss': 1}",
        "{" * 100_000 + "}",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert read_metric_line(line) is None


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-01T12:00:00.250Z",
        "2026-07-01T12:00:00.250",
        "2026-07-01 12:00:00.250000",
        "2026-07-01T14:00:00.250+02:00",
    ],
)
def test_a_time_of_the_programs_own_is_that_of_its_line_and_no_metric(text: str) -> None:
    reading = read_metric_line(json.dumps({"_time": text, "loss": 0.5, "note": "good"}))

    assert reading == MetricReading({"loss": 0.5}, {"note": '"good"'}, 1_782_907_200_250)


@pytest.mark.parametrize(
    "value", ["soon", "", "2026-07-01", "2026-07-01T25:00:00", "1969-12-31T23:59:59Z", None, ["x"], True]
)
def test_what_is_no_time_is_kept_as_a_value(value: object) -> None:
    reading = read_metric_line(json.dumps({"_time": value, "loss": 0.5}))

    assert reading == MetricReading({"loss": 0.5}, {"_time": json.dumps(value)})


def test_a_number_does_not_say_what_it_counts_and_is_no_time() -> None:
    assert read_metric_line('{"_time": 1782907200}') == MetricReading({"_time": 1_782_907_200.0}, {})


def test_a_time_alone_is_nothing_to_record() -> None:
    assert read_metric_line('{"_time": "2026-07-01T12:00:00Z"}') is None


def test_the_edges_of_the_calendar_break_nothing() -> None:
    for text in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        read_metric_line(json.dumps({"_time": text, "loss": 1}))


def test_names_that_no_table_could_hold_are_left_out() -> None:
    line = json.dumps({"": 1, "a\u0000b": 2, "\ud800": 3, "x" * 201: 4, "good": 5})

    assert read_metric_line(line) == MetricReading({"good": 5.0}, {})


def test_number_beyond_all_floats_is_kept_as_json() -> None:
    reading = read_metric_line('{"big": 1' + "0" * 400 + "}")

    assert reading is not None
    assert reading.json_values == {"big": "1" + "0" * 400}


def test_huge_values_are_left_to_the_log() -> None:
    assert read_metric_line(json.dumps({"matrix": [0] * JSON_VALUE_LENGTH_MAX})) is None


@given(value=st.dictionaries(st.text(), JSON, max_size=4))
def test_any_object_gives_text_that_any_wire_can_carry(value: dict[str, object]) -> None:
    reading = read_metric_line(json.dumps(value))

    if reading is not None:
        assert set(reading.numbers) | set(reading.json_values) <= set(value)
        for name, encoded in reading.json_values.items():
            name.encode()
            encoded.encode()
            json.loads(encoded)
