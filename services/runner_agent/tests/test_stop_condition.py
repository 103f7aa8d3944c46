"""Stop conditions say what Python says of the same numbers, and nothing else of Python gets in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leval.rewriter_evaluator import RewriterEvaluator
from leval.universe.simple import SimpleUniverse

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.batching import LogLine
from runyard_agent.domain.line_assembler import LINE_BYTES_MAX
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
        *(
            "__import__('os')",
            "a().b",
            "a[0]",
            "[a]",
            "lambda: a",
            "a ** 9 ** 9",
            "(a := 1)",
            "a if a else a",
        ),
        *(
            "(a, 1) == a",
            "{1}",
            "abs(a) < 1",
            "{b for b in a}",
            "1 << 9",
            "~a",
            "f'{a}'",
            "b'x'",
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


class TheirEvaluator(RewriterEvaluator):
    """As the parser sets it up: metrics may have names that Python keeps for itself."""

    def rewrite_keyword(self, kw: str) -> str:
        return f"_{kw}"


VALUES: Mapping[str, object] = {
    "loss": 0.5,
    "epoch": 3.0,
    "state": "done",
    "lambda": 0.1,
    "good": True,
    "class": "cat",
}


@pytest.mark.parametrize(
    "text",
    [
        *("loss < 1 and epoch >= 3", "loss * 2 == 1", "not good", "epoch // 2 == 1", "-loss < 0"),
        *(
            "state in ('done', 'over')",
            "state not in ('done', 'over')",
            "epoch in {1, 2, 3}",
            "'on' in state",
        ),
        *("missing is None", "missing is not None", "loss is None", "loss is not None and loss < 1"),
        *("lambda < 0.2", "class == 'cat'", "None", "good is None or lambda > 1"),
    ],
)
def test_it_says_what_the_evaluator_of_the_files_parser_says(text: str) -> None:
    values: dict[str | tuple[str, ...], object] = {"_lambda": 0.1, "_class": "cat"}
    values.update((name, value) for name, value in VALUES.items())
    known = TheirEvaluator(SimpleUniverse(functions={}, values=values))
    numbers = {name: value for name, value in VALUES.items() if isinstance(value, float)}
    others = {name: json.dumps(value) for name, value in VALUES.items() if name not in numbers}

    holds = StopCondition(text).holds_after(MetricReading(numbers, others))

    assert holds is bool(known.evaluate_expression(text))


def test_a_dot_is_part_of_the_name_of_a_metric() -> None:
    reading = MetricReading({"val.loss": 0.1, "a.class": 2.0}, {})
    assert StopCondition("val.loss < 0.2 and a.class == 2").holds_after(reading)


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


@pytest.mark.parametrize(
    "first", [b'{"a": 1}\n', b'50%|##\r{"a": 1}\n', b"x" * LINE_BYTES_MAX + b'\r{"a": 1}\r\n']
)
def test_what_was_read_before_a_restart_still_counts(
    make_plan: Callable[..., LaunchPlan], first: bytes
) -> None:
    plan = make_plan()
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
