"""From samples and errors of GPUs to what their users want to know: said once, and not every second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from runyard.metric.v1.gpus_pb2 import GpuIncidentKind, GpuQuantity
from runyard_agent.domain.gpu_sample import GpuProcess, GpuSample, XidSeen
from runyard_agent.domain.xids import is_fault, xid_words

_LOST_LOOKS = 2
_AGAIN_SECONDS = 60.0
"""Throttling that stops and starts within it is one; corrected errors are counted together for as long."""
_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "heat (held down by software)",
    0x40: "heat (held down by hardware)",
    0x80: "power brake",
}
"""Clocks event reasons that mean trouble. Idle, the power cap and settings are daily life."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened to a GPU."""

    gpu_uuid: str
    kind: GpuIncidentKind.ValueType
    number: int
    detail: str
    is_fault: bool = False
    """True when a run that fails because of it is not to blame."""


@dataclass(slots=True)
class _Gpu:
    silent_looks: int = 0
    throttled_at_seconds: dict[int, float] = field(default_factory=dict)
    """Reason -> when it held last."""
    errors: dict[GpuQuantity.ValueType, int] = field(default_factory=dict)
    """Counter of ECC errors -> its last value that was told."""
    corrected_told_at_seconds: float = -_AGAIN_SECONDS


class IncidentWatch:
    """Looks at one reading after the other. Times are of one monotonic clock."""

    def __init__(self) -> None:
        """Start without any reading."""
        self._gpus: dict[str, _Gpu] = {}

    def look(self, gpu_uuid: str, sample: GpuSample | None, now_seconds: float) -> list[Incident]:
        """Say what a reading of a GPU shows; None is no answer."""
        gpu = self._gpus.setdefault(gpu_uuid, _Gpu())
        if sample is None:
            gpu.silent_looks += 1
            return [_lost(gpu_uuid)] if gpu.silent_looks == _LOST_LOOKS else []
        was_lost, gpu.silent_looks = gpu.silent_looks >= _LOST_LOOKS, 0
        back = (
            [Incident(gpu_uuid, GpuIncidentKind.GPU_INCIDENT_KIND_BACK, 0, "it answers again")]
            if was_lost
            else []
        )
        return [*back, *_throttled(gpu, sample, now_seconds), *_ecc(gpu, sample, now_seconds)]


def xid_incident(seen: XidSeen, count: int = 1) -> Incident:
    """Say an error that the driver reported so many times."""
    times = "" if count == 1 else f", {count} times"
    return Incident(
        seen.gpu_uuid,
        GpuIncidentKind.GPU_INCIDENT_KIND_XID,
        seen.xid,
        f"the driver reported {xid_words(seen.xid)}{times}",
        is_fault=is_fault(seen.xid),
    )


def not_free_incident(gpu_uuid: str, processes: list[GpuProcess]) -> Incident:
    """Say that memory is still held when its attempt has ended."""
    held_bytes = sum(process.memory_bytes for process in processes)
    who = ", ".join(f"{process.name or 'process'} ({process.pid})" for process in processes)
    detail = f"{held_bytes / 2**30:.1f} GiB are still held by {who} after the attempt's end"
    return Incident(gpu_uuid, GpuIncidentKind.GPU_INCIDENT_KIND_NOT_FREE, held_bytes, detail)


def _lost(gpu_uuid: str) -> Incident:
    return Incident(
        gpu_uuid,
        GpuIncidentKind.GPU_INCIDENT_KIND_LOST,
        0,
        "it does not answer any more",
        is_fault=True,
    )


def _throttled(gpu: _Gpu, sample: GpuSample, now_seconds: float) -> Iterator[Incident]:
    reasons = sample.values.get(GpuQuantity.GPU_QUANTITY_THROTTLE_REASONS, 0)
    held = {bit: words for bit, words in _SLOWDOWNS.items() if reasons & bit}
    new = {
        bit: words
        for bit, words in held.items()
        if now_seconds - gpu.throttled_at_seconds.get(bit, -_AGAIN_SECONDS) >= _AGAIN_SECONDS
    }
    gpu.throttled_at_seconds.update(dict.fromkeys(held, now_seconds))
    if new:
        temperature = "" if sample.temperature_celsius is None else f" at {sample.temperature_celsius} C"
        yield Incident(
            sample.uuid,
            GpuIncidentKind.GPU_INCIDENT_KIND_THROTTLED,
            sum(new),
            f"its clocks are held down by {' and '.join(new.values())}{temperature}",
        )


def _ecc(gpu: _Gpu, sample: GpuSample, now_seconds: float) -> Iterator[Incident]:
    uncorrected = _new_errors(gpu, sample, GpuQuantity.GPU_QUANTITY_ECC_UNCORRECTED_ERRORS)
    if uncorrected:
        detail = f"{uncorrected} more uncorrected ECC errors"
        kind = GpuIncidentKind.GPU_INCIDENT_KIND_ECC_UNCORRECTED
        yield Incident(sample.uuid, kind, uncorrected, detail, is_fault=True)
    if now_seconds - gpu.corrected_told_at_seconds < _AGAIN_SECONDS:
        return
    corrected = _new_errors(gpu, sample, GpuQuantity.GPU_QUANTITY_ECC_CORRECTED_ERRORS)
    if corrected:
        gpu.corrected_told_at_seconds = now_seconds
        detail = f"{corrected} more corrected ECC errors"
        yield Incident(sample.uuid, GpuIncidentKind.GPU_INCIDENT_KIND_ECC_CORRECTED, corrected, detail)


def _new_errors(gpu: _Gpu, sample: GpuSample, counter: GpuQuantity.ValueType) -> int:
    """Give how much a counter grew since it was told; what it had before the first look is old."""
    errors = sample.values.get(counter)
    if errors is None:
        return 0
    before = gpu.errors.get(counter, errors)
    gpu.errors[counter] = errors
    return max(0, errors - before)
