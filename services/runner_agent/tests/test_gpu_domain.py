"""What readings and errors of GPUs mean: incidents, health, and the cause of an end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from runyard.metric.v1.gpus_pb2 import GpuIncidentKind, GpuQuantity
from runyard.run.v1.types_pb2 import CauseCode
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.exit_cause import cause_of
from runyard_agent.domain.gpu_evidence import GpuEvidence
from runyard_agent.domain.gpu_fault import blamed, marks_after
from runyard_agent.domain.gpu_health import GpuHealth
from runyard_agent.domain.gpu_incidents import Incident, IncidentWatch, xid_incident
from runyard_agent.domain.gpu_memory import GpuMemory, said_out_of_memory
from runyard_agent.gpus import GpuSample, XidSeen
from runyard_agent.runtime import EndedBy, Exit

GIB = 1 << 30
FAILED = Exit(exit_code=1, signal=0, oom_killed=False, ended_at=datetime(2026, 1, 1, tzinfo=UTC))
TORCH = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has a total capacity of "
    "79.10 GiB of which 15.20 GiB is free."
)
FULL = GpuEvidence(
    gpu_uuids=("GPU-a", "GPU-b"),
    memory={"GPU-a": GpuMemory(2 * GIB, 80 * GIB), "GPU-b": GpuMemory(76 * GIB, 80 * GIB)},
    last_output=TORCH,
)


def sample(**values: int) -> GpuSample:
    numbers: Mapping[GpuQuantity.ValueType, int] = {
        GpuQuantity.Value(f"GPU_QUANTITY_{name.upper()}"): value for name, value in values.items()
    }
    return GpuSample("GPU-a", 50, 1, 2, 85, 3, numbers)


@pytest.mark.parametrize(
    ("line", "wanted_bytes"),
    [
        (TORCH, 20 * GIB),
        (
            "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 512.00 MiB (GPU 0;",
            GIB // 2,
        ),
        (
            "jaxlib.X: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1024 bytes.",
            1024,
        ),
        ("ResourceExhaustedError: OOM when allocating tensor with shape[9] on GPU:0 by allocator", 0),
        ("failed to allocate 2.00G (2147483648 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY", 2 * GIB),
        ("cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 8,000 bytes", 8_000),
        ("RuntimeError: CUDA error: out of memory", 0),
    ],
)
def test_every_framework_is_understood_when_a_gpu_is_full(line: str, wanted_bytes: int) -> None:
    said = said_out_of_memory(f"epoch 1\n{line}\nend")
    assert said is not None
    assert said.wanted_bytes == wanted_bytes


@pytest.mark.parametrize("line", ["MemoryError", "Killed", "the run went out of memory lane", ""])
def test_other_endings_are_not_a_full_gpu(line: str) -> None:
    assert said_out_of_memory(line) is None


def test_a_full_gpu_that_the_program_names_is_the_cause_with_what_was_measured() -> None:
    cause = cause_of(FAILED, None, FULL)
    assert cause.code == CauseCode.CAUSE_CODE_OOM_GPU
    assert cause.detail == (
        "GPU-b was out of memory: 76.0 GiB of 80.0 GiB used, and it wanted 20.0 GiB more; "
        "the program exited with status 1"
    )


def test_a_large_wish_fails_on_a_gpu_that_is_not_full() -> None:
    little = replace(FULL, memory={"GPU-b": GpuMemory(65 * GIB, 80 * GIB)})
    assert cause_of(FAILED, None, little).code == CauseCode.CAUSE_CODE_OOM_GPU


def test_measurement_denies_what_the_program_says() -> None:
    empty = replace(FULL, memory={"GPU-b": GpuMemory(3 * GIB, 80 * GIB)})
    assert cause_of(FAILED, None, empty).code == CauseCode.CAUSE_CODE_USER_ERROR
    assert cause_of(FAILED, None, replace(FULL, memory={})).code == CauseCode.CAUSE_CODE_USER_ERROR


def test_a_program_that_survives_a_full_gpu_has_succeeded() -> None:
    assert cause_of(replace(FAILED, exit_code=0), None, FULL).code == CauseCode.CAUSE_CODE_SUCCEEDED


def test_a_failed_gpu_is_the_cause_before_anything_the_program_says() -> None:
    cause = cause_of(FAILED, None, replace(FULL, faulty_gpu_uuid="GPU-a", xid=79))
    assert cause.code == CauseCode.CAUSE_CODE_GPU_FAULT
    assert "GPU-a failed: XID 79 (the GPU has fallen off the bus)" in cause.detail
    assert cause.exit_code == 1


def test_a_stop_or_a_limit_is_the_cause_whatever_the_gpus_did() -> None:
    faulty = replace(FULL, faulty_gpu_uuid="GPU-a", xid=79)
    stop = Stop(CauseCode.CAUSE_CODE_STOPPED_BY_USER, "asked for", 10)
    assert cause_of(FAILED, stop, faulty).code == CauseCode.CAUSE_CODE_STOPPED_BY_USER
    limit = replace(FAILED, ended_by=EndedBy.TIME_LIMIT)
    assert cause_of(limit, None, faulty).code == CauseCode.CAUSE_CODE_TIME_LIMIT


def test_throttling_is_told_when_it_begins_and_not_every_second() -> None:
    watch = IncidentWatch()
    (first,) = watch.look("GPU-a", sample(throttle_reasons=0x44), 0.0)
    assert (first.kind, first.number) == (GpuIncidentKind.GPU_INCIDENT_KIND_THROTTLED, 0x40)
    assert first.detail == "its clocks are held down by heat (held down by hardware) at 85 C"
    assert watch.look("GPU-a", sample(throttle_reasons=0x40), 50.0) == []
    assert watch.look("GPU-a", sample(throttle_reasons=0), 80.0) == []
    assert watch.look("GPU-a", sample(throttle_reasons=0x40), 90.0) == []
    assert len(watch.look("GPU-a", sample(throttle_reasons=0x40), 151.0)) == 1


def test_the_power_cap_and_idle_clocks_are_no_incident() -> None:
    assert IncidentWatch().look("GPU-a", sample(throttle_reasons=0x1 | 0x2 | 0x4 | 0x10), 0.0) == []


def test_ecc_errors_are_told_as_they_come_and_old_ones_never() -> None:
    watch = IncidentWatch()
    assert watch.look("GPU-a", sample(ecc_corrected_errors=9, ecc_uncorrected_errors=2), 0.0) == []
    (corrected,) = watch.look("GPU-a", sample(ecc_corrected_errors=10, ecc_uncorrected_errors=2), 1.0)
    assert (corrected.number, corrected.is_fault) == (1, False)
    (uncorrected,) = watch.look("GPU-a", sample(ecc_corrected_errors=12, ecc_uncorrected_errors=5), 2.0)
    assert (uncorrected.number, uncorrected.is_fault) == (3, True)
    (more,) = watch.look("GPU-a", sample(ecc_corrected_errors=13, ecc_uncorrected_errors=5), 62.0)
    assert more.number == 3


def test_a_gpu_is_lost_at_its_second_silence_and_back_at_its_first_answer() -> None:
    watch = IncidentWatch()
    kinds = [
        [incident.kind for incident in watch.look("GPU-a", seen, float(index))]
        for index, seen in enumerate([sample(), None, sample(), None, None, None, sample(), sample()])
    ]
    lost, back = GpuIncidentKind.GPU_INCIDENT_KIND_LOST, GpuIncidentKind.GPU_INCIDENT_KIND_BACK
    assert kinds == [[], [], [], [], [lost], [], [back], []]


def incident(xid: int) -> Incident:
    return xid_incident(XidSeen("GPU-b", xid))


def kept_after(*incidents: Incident) -> dict[str, int]:
    kept: dict[str, int] = {}
    for each in incidents:
        kept = {**kept, **marks_after(each, Counter(kept).__getitem__, ("GPU-a", "GPU-b"), 1000)}
    return kept


def blamed_at(kept: dict[str, int], now_seconds: int) -> tuple[str, int]:
    return blamed(Counter(kept).__getitem__, ("GPU-a", "GPU-b"), now_seconds)


def test_an_error_that_its_program_survived_for_an_hour_is_not_to_blame() -> None:
    assert blamed_at(kept_after(incident(94)), 1000 + 3600) == ("GPU-b", 94)
    assert blamed_at(kept_after(incident(94)), 1001 + 3600) == ("", 0)
    assert blamed_at(kept_after(incident(79)), 1001 + 3600) == ("GPU-b", 79)


def test_an_xid_says_more_than_a_silence_and_a_note_nothing() -> None:
    lost = Incident("GPU-b", GpuIncidentKind.GPU_INCIDENT_KIND_LOST, 0, "", is_fault=True)
    assert blamed_at(kept_after(lost), 1000) == ("GPU-b", 0)
    assert blamed_at(kept_after(lost, incident(79), lost), 1000) == ("GPU-b", 79)
    assert kept_after(incident(31), incident(63), incident(92)) == {}


def test_errors_that_programs_cause_leave_a_gpu_usable() -> None:
    assert GpuHealth().after_xid(31).after_xid(94).unusable_reason == ""
    assert "XID 79" in GpuHealth().after_xid(79).unusable_reason


def test_the_driver_knows_best_whether_a_gpu_is_well() -> None:
    broken = GpuHealth().after_xid(95)
    assert broken.after_answer(None).unusable_reason
    asked = broken.after_answer(1).unusable_reason
    assert asked == "the driver asks for a reset of the GPU after XID 95 (uncontained ECC error)"
    assert broken.after_answer(1).after_answer(0).unusable_reason == ""
    assert broken.after_silence("gone").after_silence("gone").after_answer(None).unusable_reason == ""
