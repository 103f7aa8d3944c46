"""The states of an attempt on its node, and what each leads to; also after the agent or the machine died."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from runyard.run.v1.types_pb2 import Cause, CauseCode, Executor
from runyard_agent.runtime import Exit, Handle


class Phase(enum.Enum):
    """Where an attempt is. It only moves down this list, and never twice through the same."""

    PREPARING = "preparing"
    """Code, inputs and environment are fetched. Begun anew after a restart of the agent."""
    RUNNING = "running"
    """The program was started; it may have ended while nobody looked."""
    COLLECTING = "collecting"
    """The program has ended; outputs are stored. Begun anew after a restart of the agent."""
    REPORTING = "reporting"
    """All is done; reports wait for the scheduler's acknowledgement."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop that the scheduler ordered."""

    cause_code: CauseCode.ValueType
    reason: str
    grace_seconds: int
    """Between the signal and the kill."""


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What is kept on disk of an attempt, besides its grant and its reports."""

    phase: Phase = Phase.PREPARING
    executor: Executor.ValueType = Executor.EXECUTOR_UNSPECIFIED
    """Chosen when preparing first begins, then fixed."""
    boot_id: str = ""
    """Of the machine when preparing last began: no program of this attempt was started in an earlier one."""
    handle: Handle | None = None
    stop: Stop | None = None
    cause: Cause | None = None
    """Set from COLLECTING on: why it ended."""


def begun(state: AttemptState, executor: Executor.ValueType, boot_id: str) -> AttemptState:
    """Preparing begins, or begins anew."""
    _expect(state, Phase.PREPARING)
    return replace(state, executor=executor, boot_id=boot_id)


def launched(state: AttemptState, handle: Handle) -> AttemptState:
    """The program was started, since preparing last began."""
    _expect(state, Phase.PREPARING)
    return replace(state, phase=Phase.RUNNING, handle=handle)


def stop_ordered(state: AttemptState, stop: Stop) -> AttemptState:
    """The scheduler wants it to end. The first order counts; after the end none does."""
    if state.stop is not None or state.phase not in {Phase.PREPARING, Phase.RUNNING}:
        return state
    return replace(state, stop=stop)


def ended(state: AttemptState, cause: Cause) -> AttemptState:
    """The program ended."""
    _expect(state, Phase.RUNNING)
    return replace(state, phase=Phase.COLLECTING, cause=cause)


def reported(state: AttemptState) -> AttemptState:
    """All reports are made: of outputs that are stored, or of why the program never ran."""
    if state.phase not in {Phase.PREPARING, Phase.COLLECTING}:
        raise AssertionError(f"an attempt that is {state.phase.value} has more to report")
    return replace(state, phase=Phase.REPORTING)


def is_lost_by_reboot(state: AttemptState, ended: Exit, boot_id: str, booted_at: datetime) -> bool:
    """Say whether a reboot ended the program of a running attempt, whatever its parent says about it now.

    A container daemon gives what it finds dead at its start an end of that moment.
    """
    return state.boot_id != boot_id and (not ended.is_known or ended.ended_at >= booted_at)


def to_json(state: AttemptState) -> dict[str, Any]:
    """Give what ``from_json`` reads."""
    stop, cause = state.stop, state.cause
    return {
        "phase": state.phase.value,
        "executor": state.executor,
        "boot_id": state.boot_id,
        "handle": state.handle.to_json() if state.handle else None,
        "stop": [stop.cause_code, stop.reason, stop.grace_seconds] if stop else None,
        "cause": cause.SerializeToString().hex() if cause else None,
    }


def from_json(value: Mapping[str, Any]) -> AttemptState:
    """Read what ``to_json`` gave."""
    return AttemptState(
        phase=Phase(value["phase"]),
        executor=value["executor"],
        boot_id=value["boot_id"],
        handle=Handle.from_json(value["handle"]) if value["handle"] else None,
        stop=Stop(*value["stop"]) if value["stop"] else None,
        cause=Cause.FromString(bytes.fromhex(value["cause"])) if value["cause"] is not None else None,
    )


def _expect(state: AttemptState, phase: Phase) -> None:
    if state.phase is not phase:
        raise AssertionError(f"an attempt that is {state.phase.value} cannot go on as if {phase.value}")
