from __future__ import annotations

import pytest
from click import BadParameter
from google.protobuf.struct_pb2 import ListValue, NullValue, Value
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.metric.v1.metric_service_pb2 import MetricLatest
from runyard.run.v1.types_pb2 import Cause, CauseCode, Outcome, Run, RunState
from runyard_cli.commands.price import micro_usd
from runyard_cli.words import (
    cause_words,
    duration_words,
    money_words,
    number_words,
    points_words,
    run_seconds,
    size_words,
    state_word,
    value_words,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.85, "850 ms"),
        (3.14, "3.1 s"),
        (18, "18 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (11_040, "3 h 4 min"),
        (176_400, "2 d 1 h"),
        (-1, "0 ms"),
    ],
)
def test_duration_is_written_for_people(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_300_000, "1.2 MiB"), (5 << 40, "5.0 TiB")],
)
def test_size_is_written_for_people(size: int, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(
    ("micro_usd", "words"),
    [
        (0, "$0.00"),
        (12_500_000, "$12.50"),
        (1_234_567_890, "$1,234.57"),
        (42_000, "$0.042"),
        (4200, "$0.0042"),
        (8, "$0.000008"),
        (-8, "-$0.000008"),
    ],
)
def test_small_money_is_never_rounded_away(micro_usd: int, words: str) -> None:
    assert money_words(micro_usd) == words


@pytest.mark.parametrize(
    ("text", "expected"), [("2.5", 2_500_000), ("$0.000001", 1), ("0", 0), ("1e2", 10**8)]
)
def test_price_is_read_exactly(text: str, expected: int) -> None:
    assert micro_usd(text) == expected


@pytest.mark.parametrize("text", ["-1", "abc", "0.0000001", "nan", "inf", "", "1e30"])
def test_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="want dollars"):
        micro_usd(text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Value(number_value=5), "5"),
        (Value(number_value=0.1), "0.1"),
        (Value(string_value="fast"), "fast"),
        (Value(string_value=""), "''"),
        (Value(string_value=" a"), "' a'"),
        (Value(bool_value=False), "false"),
        (Value(null_value=NullValue.NULL_VALUE), "-"),
        (Value(list_value=ListValue(values=[Value(number_value=1), Value(string_value="b")])), "[1, b]"),
    ],
)
def test_parameter_shows_what_it_is(value: Value, words: str) -> None:
    assert value_words(value) == words


def test_cause_names_exit_code_signal_and_detail() -> None:
    user_error = CauseCode.CAUSE_CODE_USER_ERROR
    assert cause_words(Cause(code=user_error, exit_code=1)) == "exit code 1"
    assert cause_words(Cause(code=user_error, signal=9)) == "ended by signal 9"
    told = Cause(code=user_error, exit_code=3, detail="the program exited with status 3")
    assert cause_words(told) == "the program exited with status 3"
    assert cause_words(Cause(code=user_error, exit_code=3, detail="no data")) == "exit code 3: no data"
    assert cause_words(Cause(code=CauseCode.CAUSE_CODE_TIME_LIMIT, detail="10 min")) == "time limit: 10 min"
    assert cause_words(Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, exit_code=0)) == ""
    denied = "the program exited with status 0; could start no process, 3 times: limit 60"
    assert cause_words(Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, detail=denied)) == denied


def test_every_state_and_outcome_has_a_word() -> None:
    for state in RunState.values()[1:]:
        for outcome in Outcome.values()[1:]:
            assert state_word(Run(state=state, outcome=outcome))[0] not in {"unknown", "finished"}


def test_run_lasts_from_its_start_to_its_end_or_now() -> None:
    assert run_seconds(Run(), now=100) is None
    assert run_seconds(Run(started_at=Timestamp(seconds=40)), now=100) == 60
    over = Run(started_at=Timestamp(seconds=40), finished_at=Timestamp(seconds=50, nanos=500_000_000))
    assert run_seconds(over, now=100) == 10.5


NAN = float("nan")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (MetricLatest(value=0.5, point_count=3, min=0.25, max=0.5), "3 points, 0.25 to 0.5"),
        (MetricLatest(value=0, point_count=1), "1 point, 0 to 0"),
        (MetricLatest(value=NAN, point_count=3, min=0.25, max=0.5), "3 points, 0.25 to 0.5"),
        (MetricLatest(value=NAN, point_count=3), "3 points"),
        (MetricLatest(json_value="[1]", point_count=2, min=1, max=2), "2 points"),
    ],
)
def test_points_of_no_number_lie_between_no_numbers(metric: MetricLatest, words: str) -> None:
    assert points_words(metric, number_words) == words
