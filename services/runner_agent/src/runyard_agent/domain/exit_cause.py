"""From how a program ended to the typed cause that goes into the record."""

from __future__ import annotations

import signal
from typing import assert_never

from runyard.run.v1.types_pb2 import Cause, CauseCode
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.gpu_evidence import NO_GPU_EVIDENCE, GpuEvidence
from runyard_agent.runtime import EndedBy, Exit

_SHELL_SIGNAL_BASE = 128
_HINTS = {126: "the command could not be executed", 127: "command not found"}


def cause_of(ended: Exit, stop: Stop | None, gpus: GpuEvidence = NO_GPU_EVIDENCE) -> Cause:
    """Say why an attempt ended.

    Args:
        ended: how its program ended.
        stop: the stop that the program was told before it ended, if any.
        gpus: what is known of its GPUs.
    """
    if not ended.is_known:
        return _cause(CauseCode.CAUSE_CODE_AGENT_LOST, ended, ended.detail)
    match ended.ended_by:
        case EndedBy.TIME_LIMIT:
            return _cause(CauseCode.CAUSE_CODE_TIME_LIMIT, ended, ended.detail)
        case EndedBy.NO_OUTPUT_TIMEOUT:
            return _cause(CauseCode.CAUSE_CODE_NO_OUTPUT_TIMEOUT, ended, ended.detail)
        case EndedBy.MEMORY_LIMIT:
            return _cause(CauseCode.CAUSE_CODE_OOM_HOST, ended, ended.detail)
        case EndedBy.LEASE_EXPIRY:
            return _cause(CauseCode.CAUSE_CODE_AGENT_LOST, ended, ended.detail)
        case EndedBy.DISK_LIMIT:
            return _cause(CauseCode.CAUSE_CODE_DISK_LIMIT, ended, ended.detail)
        case EndedBy.PROCESS_LIMIT:
            return _cause(CauseCode.CAUSE_CODE_PROCESS_LIMIT, ended, ended.detail)
        case EndedBy.ITSELF:
            return _own_end(ended, stop, gpus)
        case _:
            assert_never(ended.ended_by)


def reboot_cause() -> Cause:
    """Say that the machine was started anew under the attempt."""
    return Cause(
        code=CauseCode.CAUSE_CODE_NODE_REBOOT,
        detail="the machine was rebooted while the program ran; its end was not seen",
    )


def _own_end(ended: Exit, stop: Stop | None, gpus: GpuEvidence) -> Cause:
    if stop is not None:
        return _cause(stop.cause_code, ended, stop.reason or ended.detail)
    if ended.oom_killed:
        detail = ended.detail or "the program was killed because memory ran out"
        return _cause(CauseCode.CAUSE_CODE_OOM_HOST, ended, detail)
    sentence = end_sentence(ended)
    if ended.exit_code == 0:
        # What it was denied on its way may be why its result is not what somebody expects.
        detail = f"{sentence}; {ended.detail}" if ended.detail else ""
        return _cause(CauseCode.CAUSE_CODE_SUCCEEDED, ended, detail)
    if fault := gpus.fault():
        return _cause(CauseCode.CAUSE_CODE_GPU_FAULT, ended, f"{fault}; {sentence}")
    if out_of_memory := gpus.out_of_memory():
        return _cause(CauseCode.CAUSE_CODE_OOM_GPU, ended, f"{out_of_memory}; {sentence}")
    detail = f"{sentence}; {ended.detail}" if ended.detail else sentence
    return _cause(CauseCode.CAUSE_CODE_USER_ERROR, ended, detail)


def end_sentence(ended: Exit) -> str:
    """Say for people how a program ended by itself."""
    if ended.exit_code is None:
        return f"the program was ended by {_signal_name(ended.signal)}"
    hint = _HINTS.get(ended.exit_code, "")
    if not hint and ended.exit_code > _SHELL_SIGNAL_BASE:
        name = _signal_name(ended.exit_code - _SHELL_SIGNAL_BASE)
        hint = f"a command of it was ended by {name}" if name.startswith("SIG") else ""
    return f"the program exited with status {ended.exit_code}" + (f": {hint}" if hint else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _cause(code: CauseCode.ValueType, ended: Exit, detail: str) -> Cause:
    return Cause(code=code, exit_code=ended.exit_code, signal=ended.signal, detail=detail)
