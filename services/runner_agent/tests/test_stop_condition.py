"""Stop conditions say what Python says of the same numbers, and nothing else of Python gets in."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.batching import LogLine
from runyard_agent.domain.metric_lines import MetricReading
from runyard_agent.domain.stop_condition import StopCondition
from runyard_agent.runtime import LaunchPlan
from runyard_agent.stop_watch import StopWatch
from runyard_core.errors import InvalidInput

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, 2.0])
ATOMS = st.sampled_from(["a", "b", "0", "1.5", "-2", "True"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: (
        st.builds(
            "({} {} {})".format,
            inner,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or"]),
            inner,
        )
        | st.builds("(not {})".format, inner)
        | st.builds("(-{})".format, inner)
        | st.builds("({} < {} <= {})".format, inner, inner, inner)
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, NUMBERS, NUMBERS)
def test_it_says_what_python_says(text: str, a: float, b: float) -> None:
    try:
        # Ours computes with floats only, so whole numbers are written as such.
        expected = bool(eval(text.replace("0", "0.0"), {"a": a, "b": b}))
    except ArithmeticError:
        expected = False

    assert StopCondition(text).holds_after(MetricReading({"a": a, "b": b}, {})) is expected


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = StopCondition(text)
    except InvalidInput:
        return
    assert condition.holds_after(MetricReading({"a": 1.0}, {})) in {True, False}


@pytest.mark.parametrize(
    "text",
    [
        *("__import__('os')", "a.b", "a[0]", "[a]", "lambda: a", "a ** 9 ** 9", "(a := 1)", "a if a else a"),
        *(
            "a is a",
            "a in 'x'",
            "1 << 9",
            "~a",
            "f'{a}'",
            "b'x'",
            "None",
            "a; a",
            "",
            "a <",
            "(" * 300,
            "9" * 900,
        ),
        *("-" * 5000 + "a", "1j"),
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        StopCondition(text)


def test_latest_value_of_each_metric_counts() -> None:
    condition = StopCondition("accuracy > 0.9 and loss < 0.1")

    assert not condition.holds_after(MetricReading({"accuracy": 0.95}, {}))
    assert not condition.holds_after(MetricReading({"loss": 0.5}, {}))
    assert not condition.holds_after(MetricReading({"loss": 0.05, "accuracy": math.nan}, {}))
    assert condition.holds_after(MetricReading({"accuracy": 0.95}, {}))


def test_texts_and_truths_are_values_too() -> None:
    condition = StopCondition("state == 'done' and good")

    assert not condition.holds_after(MetricReading({}, {"state": '"done"', "good": "false"}))
    assert condition.holds_after(MetricReading({}, {"good": "true"}))
    assert not condition.holds_after(MetricReading({}, {"state": "[1]"}))


SPEC = RunSpec(stop_condition="a > 0 and b > 0", stop_grace_seconds=7)


def test_what_was_read_before_a_restart_still_counts(make_plan: Callable[..., LaunchPlan]) -> None:
    plan = make_plan()
    first = b'{"a": 1}\n'
    plan.stdout.write_bytes(first + b'{"b": 1}\n')
    ordered: list[Stop] = []
    watch = StopWatch(SPEC, plan, ordered.append)

    watch.look_back(len(first))
    watch.look(())
    watch.look([LogLine('{"b": 1}', LogStream.LOG_STREAM_STDERR, 0)])
    assert ordered == []
    watch.look([LogLine('{"b": 1}', LogStream.LOG_STREAM_STDOUT, 0)])

    (stop,) = ordered
    assert (stop.cause_code, stop.grace_seconds) == (CauseCode.CAUSE_CODE_STOP_CONDITION, 7)


def test_program_that_has_ended_is_not_stopped(make_plan: Callable[..., LaunchPlan]) -> None:
    plan = make_plan()
    plan.stdout.write_bytes(b'{"a": 1, "b": 1}\n')
    ordered: list[Stop] = []
    watch = StopWatch(SPEC, plan, ordered.append)
    watch.look_back(100)

    plan.exit_file.touch()
    watch.look(())
    assert ordered == []
    plan.exit_file.unlink()
    watch.look(())

    assert len(ordered) == 1
