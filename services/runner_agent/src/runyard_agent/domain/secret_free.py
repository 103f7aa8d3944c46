"""What an attempt reports, without the values of its secrets."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import assert_never

from google.protobuf.struct_pb2 import Struct, Value

from runyard.agent.v1.agent_service_pb2 import AttemptExited, AttemptFinished, AttemptStarted
from runyard.run.v1.types_pb2 import Cause, Environment
from runyard_agent.domain.redaction import Redaction

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
