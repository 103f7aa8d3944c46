"""A step's inputs: what it declares, and which references a run uses for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runyard.run.v1.types_pb2 import Input
from runyard_core.errors import InvalidInput
from runyard_runspec.parameters import Value

SCHEMES = ("datum", "dataset", "model", "http", "https", "s3", "file")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_SHAPES = {
    "datum": (rf"datum://{_NAME}", "datum:// and a SHA-256, its first 8 digits or more, or an alias"),
    "dataset": (rf"dataset://{_NAME}/{_NAME}", "dataset://NAME/VERSION, or an alias of a version"),
    "model": (rf"model://{_NAME}/[0-9]{{1,9}}", "model://NAME/VERSION, with the number of a version"),
}
_PLACEHOLDER = re.compile(r"\{parameter(?:-value)?:([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class InputDefinition:
    """An input as its step declares it."""

    name: str
    """Directory of its files below the inputs directory."""
    default_uris: tuple[str, ...]
    """References used when a run gives none."""
    is_optional: bool
    """May be left empty."""
    filename: str
    """New name of a single file; empty to keep its own."""
    keep_directories: str
    """"none", "suffix" or "full"."""
    is_on_demand: bool
    """Fetched only when the program asks for it."""
    description: str
    """For people."""
    line: int
    """Where it is declared."""


def choose_inputs(
    definitions: Sequence[InputDefinition],
    given: Mapping[str, Sequence[str]],
    values: Mapping[str, Value],
    *,
    file_name: str,
    step: str,
) -> list[Input]:
    """Give every declared input its references: those given, else its defaults.

    An empty sequence given means none, which only an optional input allows.

    Raises:
        InvalidInput: ``UNKNOWN_INPUT``, ``MISSING_INPUT`` or ``BAD_INPUT_URI``.
    """
    names = [definition.name for definition in definitions]
    for name in given:
        if name not in names:
            has = f"its inputs are {', '.join(names)}" if names else "it has none"
            raise InvalidInput(
                f"{file_name}: step {step} has no input {name!r}: {has}",
                code="UNKNOWN_INPUT",
                metadata={"input": name},
            )
    chosen = []
    for definition in definitions:
        where = f"{file_name}:{definition.line}"
        uris = given.get(definition.name, definition.default_uris)
        filled = [
            check_reference(_fill(uri, values, definition.name, where), definition.name, where)
            for uri in uris
        ]
        if not filled and not definition.is_optional:
            raise _missing(definition, where, step)
        chosen.append(
            Input(
                name=definition.name,
                uris=filled,
                filename=definition.filename,
                keep_directories=definition.keep_directories,
                on_demand=definition.is_on_demand,
            )
        )
    return chosen


def _missing(definition: InputDefinition, where: str, step: str) -> InvalidInput:
    has_default = bool(definition.default_uris)
    problem = "is not optional" if has_default else "has no default"
    other = ", or leave it out for its default" if has_default else ""
    return InvalidInput(
        f"{where}: input {definition.name} of step {step} {problem}: "
        f"give one with --input {definition.name}=URI{other}",
        code="MISSING_INPUT",
        metadata={"input": definition.name},
    )


def _fill(uri: str, values: Mapping[str, Value], name: str, where: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        parameter = match.group(1)
        if parameter not in values:
            return match.group(0)
        value = values[parameter]
        if value is None or isinstance(value, list):
            what = "has no value" if value is None else "is a list"
            raise InvalidInput(
                f"{where}: input {name}: {uri!r} names parameter {parameter}, which {what}: give it a value, "
                f"or other references with --input {name}=URI",
                code="BAD_INPUT_URI",
                metadata={"input": name},
            )
        return str(value)

    return _PLACEHOLDER.sub(value_of, uri)


def check_reference(uri: str, name: str, where: str) -> str:
    """Give a reference back when it is one that this platform knows.

    Args:
        uri: the reference, its placeholders filled.
        name: the input's.
        where: for the message: file and line.

    Raises:
        InvalidInput: ``BAD_INPUT_URI``.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or not rest:
        raise InvalidInput(
            f"{where}: input {name}: {uri!r} is no reference: want datum://SHA256, https://..., s3://... "
            "or file://..., dataset:// or model://, or put a local file first with `runyard put`",
            code="BAD_INPUT_URI",
            metadata={"input": name},
        )
    if scheme not in SCHEMES:
        raise InvalidInput(
            f"{where}: input {name}: {scheme}:// is not supported: want one of {', '.join(SCHEMES)}",
            code="BAD_INPUT_URI",
            metadata={"input": name},
        )
    shape, wanted = _SHAPES.get(scheme, ("", ""))
    if shape and re.fullmatch(shape, uri) is None:
        raise InvalidInput(
            f"{where}: input {name}: {uri!r}: want {wanted}", code="BAD_INPUT_URI", metadata={"input": name}
        )
    return uri
