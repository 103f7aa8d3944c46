"""The stop condition of a run: an expression over the latest value of each metric, such as ``loss < 0.1``.

As long as a name has no value, nothing holds.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from typing import assert_never

from runyard_agent.domain.metric_lines import MetricReading
from runyard_contracts.stop_condition import name_of, parse_stop_condition
from runyard_core.errors import InvalidInput

Value = bool | float | str | None

_SHOWN_MAX = 200
_ARITHMETIC: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Value, Value], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: lambda left, right: _number(left) < _number(right),
    ast.LtE: lambda left, right: _number(left) <= _number(right),
    ast.Gt: lambda left, right: _number(left) > _number(right),
    ast.GtE: lambda left, right: _number(left) >= _number(right),
}


class _Unknown(Exception):
    """There is no answer: a name without a value, a text where a number must be, a division by zero."""


class StopCondition:
    """One expression, and the latest values that it has seen."""

    def __init__(self, text: str) -> None:
        """Read the expression.

        Raises:
            InvalidInput: STOP_CONDITION_INVALID, it is none, or more than this knows.
        """
        self.text = text
        self._values: dict[str, Value] = {}
        try:
            self._expression = parse_stop_condition(text)
        except ValueError as error:
            raise InvalidInput(
                f"the stop condition {text[:_SHOWN_MAX]!r} cannot be read: {error}",
                code="STOP_CONDITION_INVALID",
            ) from error

    def holds_after(self, reading: MetricReading) -> bool:
        """Take new values in and say whether it holds with them."""
        self._values.update(reading.numbers)
        for name, encoded in reading.json_values.items():
            value = json.loads(encoded)
            if isinstance(value, bool | str):
                self._values[name] = value
            else:
                self._values.pop(name, None)
        try:
            return bool(self._evaluate(self._expression))
        except (_Unknown, ArithmeticError):
            return False

    def _evaluate(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=None | bool() | str() as value):
                return value
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.Name() | ast.Attribute():
                return self._value_of(node)
            case ast.BoolOp(op=op, values=[*firsts, last]):
                # What decides is the answer, as in Python: "a and b" may be a number.
                for each in firsts:
                    if bool(decided := self._evaluate(each)) is isinstance(op, ast.Or):
                        return decided
                return self._evaluate(last)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._evaluate(operand)
            case ast.UnaryOp(op=sign, operand=operand):
                number = _number(self._evaluate(operand))
                return -number if isinstance(sign, ast.USub) else number
            case ast.BinOp(left=left, op=op, right=right):
                first, second = self._evaluate(left), self._evaluate(right)
                return _ARITHMETIC[type(op)](_number(first), _number(second))
            case ast.Compare():
                return self._compare(node)
            case _:
                raise AssertionError(f"{ast.dump(node)} was let in")

    def _compare(self, node: ast.Compare) -> bool:
        operand = node.left
        for comparison, following in zip(node.ops, node.comparators, strict=True):
            if not self._compare_two(operand, comparison, following):
                return False
            operand = following
        return True

    def _compare_two(self, first: ast.expr, comparison: ast.cmpop, second: ast.expr) -> bool:
        match comparison:
            case ast.Is() | ast.IsNot():
                # A name without a value is None here, and only here.
                is_same = self._value_or_none(first) is self._value_or_none(second)
                return is_same is isinstance(comparison, ast.Is)
            case ast.In() | ast.NotIn():
                return self._is_in(self._evaluate(first), second) is isinstance(comparison, ast.In)
            case _:
                return _COMPARISONS[type(comparison)](self._evaluate(first), self._evaluate(second))

    def _is_in(self, value: Value, container: ast.expr) -> bool:
        if isinstance(container, ast.Tuple | ast.Set):
            return value in [self._evaluate(each) for each in container.elts]
        text = self._evaluate(container)
        if not isinstance(text, str) or not isinstance(value, str):
            raise _Unknown
        return value in text

    def _value_of(self, node: ast.expr) -> Value:
        name = name_of(node)
        if name not in self._values:
            raise _Unknown
        return self._values[name]

    def _value_or_none(self, node: ast.expr) -> Value:
        try:
            return self._evaluate(node)
        except _Unknown:
            return None


def _number(value: Value) -> float:
    match value:
        case bool() | float():
            return float(value)
        case str() | None:
            raise _Unknown
        case _:
            assert_never(value)
