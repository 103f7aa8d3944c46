"""Whether a program ended because a GPU had no memory left: what it said, against what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_FULL_SHARE = 0.7
"""From which share on a GPU counts as full: a framework may have been given no more (JAX takes 75 %)."""
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

# As PyTorch, JAX, TensorFlow, CuPy, RAPIDS and CUDA itself say it.
_MESSAGES = (
    re.compile(r"CUDA out of memory|torch\.(?:cuda\.)?OutOfMemoryError"),
    re.compile(r"RESOURCE_EXHAUSTED: .*(?:[Oo]ut of memory|Failed to allocate)"),
    re.compile(r"OOM when allocating tensor|ResourceExhaustedError"),
    re.compile(r"CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUDA error: out of memory"),
    re.compile(r"cupy\.cuda\.memory\.OutOfMemoryError|std::bad_alloc: out_of_memory: CUDA"),
)
_WANTED = re.compile(
    r"(?:[Tt]ried to allocate|trying to allocate|[Ff]ailed to allocate|allocating) "
    r"([\d,]+(?:\.\d+)?) ?([KMGT]?)(?:i?B|bytes|\b)",
    re.IGNORECASE,
)
_GPU_NUMBER = re.compile(r"\bGPU:? ?(\d+)\b")


@dataclass(frozen=True, slots=True)
class SaidOutOfMemory:
    """What the last lines of a program say of it."""

    wanted_bytes: int
    """What it could not get; 0 when it does not say."""
    gpu_number: int | None
    """Among the GPUs that it sees."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """The most that was measured lately of a GPU, and what it has."""

    used_bytes: int
    total_bytes: int


def said_out_of_memory(text: str) -> SaidOutOfMemory | None:
    """Find in the last output of a program that it got no memory of a GPU."""
    found = max((place for message in _MESSAGES if (place := _last(message, text)) >= 0), default=-1)
    if found < 0:
        return None
    line = text[text.rfind("\n", 0, found) + 1 :].partition("\n")[0]
    wanted, number = _WANTED.search(line), _GPU_NUMBER.search(line)
    return SaidOutOfMemory(
        wanted_bytes=_bytes(wanted) if wanted else 0, gpu_number=int(number.group(1)) if number else None
    )


def full_gpu(
    said: SaidOutOfMemory, gpu_uuids: Sequence[str], measured: Mapping[str, GpuMemory]
) -> str | None:
    """Give the GPU that had no room, by measurement; None when all of an attempt's GPUs had.

    Args:
        said: what the program said.
        gpu_uuids: the attempt's GPUs, as it sees them numbered.
        measured: what was measured of them.
    """
    number = said.gpu_number
    named = [gpu_uuids[number]] if number is not None and number < len(gpu_uuids) else list(gpu_uuids)
    full = [uuid for uuid in named if uuid in measured and _had_no_room(measured[uuid], said.wanted_bytes)]
    return max(full, key=lambda uuid: measured[uuid].used_bytes, default=None)


def _had_no_room(memory: GpuMemory, wanted_bytes: int) -> bool:
    return memory.total_bytes > 0 and (
        memory.used_bytes >= _FULL_SHARE * memory.total_bytes
        or memory.used_bytes + wanted_bytes > memory.total_bytes
    )


def _last(message: re.Pattern[str], text: str) -> int:
    return max((found.start() for found in message.finditer(text)), default=-1)


def _bytes(found: re.Match[str]) -> int:
    return round(float(found.group(1).replace(",", "")) * _UNITS[found.group(2).lower()])
