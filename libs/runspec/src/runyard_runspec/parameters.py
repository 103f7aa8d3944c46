"""A step's parameters: what it declares, and how a value is checked against that."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from runyard_core.errors import InvalidInput

Atom = str | int | float | bool
Value = Atom | list[Atom] | None

# Values travel as JSON numbers (doubles): whole numbers beyond this would come back as others.
_INTEGER_MAX = 2**53 - 1
_INTEGER = re.compile(r"[+-]?[0-9]+")
_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}


class ParameterType(StrEnum):
    """What a parameter's values are."""

    INTEGER = "integer"
    FLOAT = "float"
    STRING = "string"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as its step declares it."""

    name: str
    """Symbolic name."""
    type: ParameterType
    """Type of each value."""
    default: Value
    """Value when none is given; None when there is none."""
    is_optional: bool
    """May be left out even without a default."""
    is_multiple: bool
    """Takes a list of values."""
    minimum: float | None
    """Least value allowed, for numbers."""
    maximum: float | None
    """Greatest value allowed, for numbers."""
    choices: tuple[Atom, ...]
    """All values allowed; empty when any is."""
    description: str
    """For people."""
    line: int
    """Where it is declared."""

    @property
    def is_required(self) -> bool:
        """Say whether a run must give a value."""
        return self.default is None and not self.is_optional and self.type is not ParameterType.FLAG

    def describe(self) -> str:
        """Say what is allowed, for help and error messages: "integer, 1 to 100"."""
        parts = [f"list of {self.type.value}s" if self.is_multiple else self.type.value]
        if self.minimum is not None and self.maximum is not None:
            parts.append(f"{self.minimum:g} to {self.maximum:g}")
        elif self.minimum is not None:
            parts.append(f"at least {self.minimum:g}")
        elif self.maximum is not None:
            parts.append(f"at most {self.maximum:g}")
        if self.choices and self.type is not ParameterType.FLAG:
            parts.append("one of " + ", ".join(str(choice) for choice in self.choices))
        return ", ".join(parts)

    def check(self, value: Value, where: str) -> Value:
        """Turn a given value (text from a command line, or typed) into the parameter's type.

        An empty string, zero and false are values like any other.

        Args:
            value: what was given.
            where: who gave it, for the message: "valohai.yaml:12".

        Raises:
            InvalidInput: ``PARAMETER_WRONG_TYPE`` or ``PARAMETER_NOT_ALLOWED``.
        """
        if value is None:
            return None
        if self.is_multiple:
            atoms = value if isinstance(value, list) else [value]
            return [self._check_atom(atom, where) for atom in atoms]
        if isinstance(value, list):
            raise self._wrong(value, where)
        return self._check_atom(value, where)

    def _check_atom(self, value: Atom, where: str) -> Atom:
        atom = self._cast(value)
        if atom is None:
            raise self._wrong(value, where)
        if self.choices and self.type is not ParameterType.FLAG:
            allowed = [self._cast(choice) for choice in self.choices]
            if atom not in allowed:
                raise self._not_allowed(value, where)
        if isinstance(atom, int | float) and not isinstance(atom, bool):
            too_small = self.minimum is not None and atom < self.minimum
            too_large = self.maximum is not None and atom > self.maximum
            if too_small or too_large:
                raise self._not_allowed(value, where)
        return atom

    def _cast(self, value: object) -> Atom | None:
        """Give the value in this parameter's type; None when it is not one."""
        match self.type:
            case ParameterType.STRING:
                return _cast_text(value)
            case ParameterType.FLAG:
                return _cast_flag(value)
            case ParameterType.INTEGER:
                return _cast_integer(value)
            case ParameterType.FLOAT:
                return _cast_float(value)

    def _wrong(self, value: Value, where: str) -> InvalidInput:
        return InvalidInput(
            f"{where}: parameter {self.name} cannot be {value!r}: want {self.describe()}",
            code="PARAMETER_WRONG_TYPE",
            metadata={"parameter": self.name},
        )

    def _not_allowed(self, value: Value, where: str) -> InvalidInput:
        return InvalidInput(
            f"{where}: parameter {self.name} may not be {value!r}: want {self.describe()}",
            code="PARAMETER_NOT_ALLOWED",
            metadata={"parameter": self.name},
        )


def find_parameter(parameters: Sequence[Parameter], name: str) -> Parameter | None:
    """Give the parameter of a name; None when the step has none."""
    return next((each for each in parameters if each.name == name), None)


def _cast_text(value: object) -> str | None:
    """Give what a program can be given as an argument: UTF-8 without NUL. A date of YAML is text, too."""
    if value is None or isinstance(value, list | dict):
        return None
    text = str(value)
    return None if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text) else text


def _cast_flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    return True if text in _TRUE else False if text in _FALSE else None


def _cast_integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        number = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        number = int(value) if len(value) < 40 and _INTEGER.fullmatch(value.strip()) else None
    elif isinstance(value, int):
        number = value
    else:
        number = None
    return number if number is not None and abs(number) <= _INTEGER_MAX else None


def _cast_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
