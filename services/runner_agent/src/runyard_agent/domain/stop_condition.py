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
from runyard_contracts.stop_condition import parse_stop_condition
from runyard_core.errors import InvalidInput

Value = bool | float | str

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
            case ast.Constant(value=bool() | str() as value):
                return value
            case ast.Constant(value=int() | float() as value):
                return float(value)
            case ast.Name(id=name):
                if name not in self._values:
                    raise _Unknown
                return self._values[name]
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
        left = self._evaluate(node.left)
        for comparison, operand in zip(node.ops, node.comparators, strict=True):
            right = self._evaluate(operand)
            if not _COMPARISONS[type(comparison)](left, right):
                return False
            left = right
        return True


def _number(value: Value) -> float:
    match value:
        case bool() | float():
            return float(value)
        case str():
            raise _Unknown
        case _:
            assert_never(value)
