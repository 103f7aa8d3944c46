"""What an attempt reports, without the values of its secrets."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import assert_never

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
