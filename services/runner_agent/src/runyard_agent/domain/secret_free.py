"""What an attempt reports, without the values of its secrets."""

from __future__ import annotations

import copy
import json
from collections.abc import Container
from typing import assert_never

from google.protobuf.struct_pb2 import Struct, Value

from runyard.agent.v1.agent_service_pb2 import AttemptExited, AttemptFinished, AttemptStarted
from runyard.run.v1.types_pb2 import Cause, Environment
from runyard_agent.domain.metric_lines import MetricReading
from runyard_agent.domain.redaction import REDACTED, Redaction

Fact = Environment | AttemptStarted | AttemptExited | AttemptFinished | Cause


def secret_free(fact: Fact, secret_names: Container[str], redaction: Redaction) -> Fact:
    """Give a fact to report: secrets among the variables by name only, sentences without their values."""
    if not redaction.longest_bytes:
        return fact
    shown = copy.deepcopy(fact)
    match shown:
        case Environment():
            for variable in shown.variables:
                variable.value = "" if variable.name in secret_names else redaction.of(variable.value)
        case Cause():
            shown.detail = redaction.of(shown.detail)
        case AttemptExited() | AttemptFinished():
            shown.cause.detail = redaction.of(shown.cause.detail)
        case AttemptStarted():
            pass
        case _:
            assert_never(shown)
    return shown


def secret_free_struct(said: Struct, redaction: Redaction) -> Struct:
    """Give what a program says of an output without values of secrets, in names and texts at any depth."""
    if not redaction.longest_bytes:
        return said
    shown = Struct()
    for name, value in said.fields.items():
        shown.fields[redaction.of(name)].CopyFrom(_secret_free_value(value, redaction))
    return shown


def secret_free_reading(reading: MetricReading, redaction: Redaction) -> MetricReading:
    """Give what a metric line says without values of secrets; a number that holds one becomes a text."""
    if _is_secret_free(reading, redaction):
        return reading
    numbers: dict[str, float] = {}
    json_values: dict[str, str] = {}
    for name, number in reading.numbers.items():
        if _holds_value(number, redaction):
            json_values[redaction.of(name)] = json.dumps(REDACTED)
        else:
            numbers[redaction.of(name)] = number
    for name, encoded in reading.json_values.items():
        try:
            shown = json.dumps(_secret_free_json(json.loads(encoded), redaction))
        except RecursionError:
            shown = json.dumps(REDACTED)
        json_values[redaction.of(name)] = shown
    return MetricReading(numbers, json_values, reading.time_unix_milliseconds)


def _secret_free_json(item: object, redaction: Redaction) -> object:
    if isinstance(item, str):
        return redaction.of(item)
    if isinstance(item, dict):
        return {redaction.of(name): _secret_free_json(each, redaction) for name, each in item.items()}
    if isinstance(item, list):
        return [_secret_free_json(each, redaction) for each in item]
    is_number = isinstance(item, int | float) and not isinstance(item, bool)
    return REDACTED if is_number and _holds_value(item, redaction) else item


def _holds_value(number: object, redaction: Redaction) -> bool:
    """Say whether a number, as it may be shown, holds a value: a PIN, say."""
    return any(redaction.of(text) != text for text in _as_shown(number))


def _as_shown(number: object) -> tuple[str, ...]:
    return (repr(number), f"{number:.17g}") if isinstance(number, float) else (repr(number),)


def _is_secret_free(reading: MetricReading, redaction: Redaction) -> bool:
    """Look at everything at once: most lines hold no value, and there are thousands."""
    texts = [*reading.numbers, *reading.json_values, *reading.json_values.values()]
    for number in reading.numbers.values():
        texts += _as_shown(number)
    whole = "\n".join(texts)
    return "\\" not in whole and redaction.of(whole) == whole


def _secret_free_value(value: Value, redaction: Redaction) -> Value:
    shown = Value()
    match value.WhichOneof("kind"):
        case "string_value":
            shown.string_value = redaction.of(value.string_value)
        case "struct_value":
            shown.struct_value.CopyFrom(secret_free_struct(value.struct_value, redaction))
        case "list_value":
            shown.list_value.values.extend(
                _secret_free_value(each, redaction) for each in value.list_value.values
            )
        case _:
            # A number may be one, too: a PIN, say.
            text = f"{value.number_value:.17g}" if value.HasField("number_value") else ""
            if redaction.of(text) == text:
                shown.CopyFrom(value)
            else:
                shown.string_value = redaction.of(text)
    return shown
