"""What an attempt's end means for its GPUs: whether they explain it, and when they are free again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from runyard_agent.domain.gpu_evidence import NO_GPU_EVIDENCE, GpuEvidence
from runyard_agent.domain.gpu_incidents import not_free_incident
from runyard_agent.gpu_sampling import GpuHolder
from runyard_agent.gpus import GpuProcess, Gpus
from runyard_agent.runtime import LaunchPlan
from runyard_agent.sampling import Sampling, Watched
from runyard_agent.telemetry import AttemptTelemetry
from runyard_core.errors import RunyardError

_LAST_BYTES = 16 * 1024
"""Of each stream: an error is in the last lines, what a program lived through is not."""
_FREE_SECONDS_MAX = 30.0
_LOOK_SECONDS = 0.2


async def explain(sampling: Sampling, watched: Watched, plan: LaunchPlan) -> GpuEvidence:
    """Gather what may explain why a program ended, if it had GPUs."""
    evidence = await sampling.gpu_evidence(watched)
    if not evidence.gpu_uuids:
        return NO_GPU_EVIDENCE
    ends = await asyncio.gather(*(asyncio.to_thread(_end_of, path) for path in (plan.stdout, plan.stderr)))
    return dataclasses.replace(evidence, last_output="\n".join(ends))


async def release(sampling: Sampling, telemetry: AttemptTelemetry, plan: LaunchPlan) -> Sequence[str]:
    """Wait until an attempt's GPUs read free, so that the next one finds all of their memory.

    What is still held after half a minute is recorded, and given as sentences.
    """
    held = await wait_until_free(sampling.gpus.gpus, plan.gpu_uuids, sampling.gpus.foreign_pids)
    holder = GpuHolder(telemetry, plan.gpu_uuids)
    incidents = [not_free_incident(uuid, processes) for uuid, processes in held.items()]
    for incident in incidents:
        sampling.gpus.tell(incident, [holder])
    return [f"{incident.gpu_uuid}: {incident.detail}" for incident in incidents]


async def wait_until_free(
    gpus: Gpus,
    gpu_uuids: Sequence[str],
    foreign_pids: Callable[[], Collection[int]],
    seconds_max: float = _FREE_SECONDS_MAX,
) -> Mapping[str, list[GpuProcess]]:
    """Wait until no process holds memory of these GPUs; gives who still does when time is up.

    Processes that are known to be foreign are not waited for: nothing is placed beside them anyway.
    """
    ends_at = time.monotonic() + seconds_max
    while gpu_uuids:
        held: dict[str, list[GpuProcess]] | None = None
        # A driver that hangs says nothing; by the end of the time its GPUs are found lost.
        with contextlib.suppress(RunyardError):
            held = _held(await gpus.processes(), gpu_uuids, foreign_pids())
        if held == {} or time.monotonic() >= ends_at:
            return held or {}
        await asyncio.sleep(_LOOK_SECONDS)
    return {}


def _held(
    processes: Sequence[GpuProcess], gpu_uuids: Sequence[str], foreign: Collection[int]
) -> dict[str, list[GpuProcess]]:
    held: dict[str, list[GpuProcess]] = {}
    for process in processes:
        if process.gpu_uuid in gpu_uuids and process.pid not in foreign:
            held.setdefault(process.gpu_uuid, []).append(process)
    return held


def _end_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            return file.read(_LAST_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
