"""Which failure of a GPU an attempt remembers: numbers that go with its telemetry and outlive the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runyard.metric.v1.gpus_pb2 import GpuIncidentKind
from runyard_agent.domain.gpu_incidents import Incident
from runyard_agent.domain.xids import needs_reset

Position = Callable[[str], int]
"""Gives a number that was kept; 0 at first."""

_XID, _GPU, _SEEN_AT = "gpu_fault", "gpu_fault_index", "gpu_fault_at"
_WITHOUT_XID = -1
"""Stands for the number of a loss, or of uncorrected errors."""
_BLAMED_SECONDS = 3600
"""A program that goes on for longer has another reason to fail. NCCL gives up after half of it."""


def marks_after(
    incident: Incident, position: Position, gpu_uuids: Sequence[str], now_unix_seconds: int
) -> Mapping[str, int]:
    """Give what to keep after an incident of one of an attempt's GPUs; an XID says more than a silence."""
    is_xid = incident.kind == GpuIncidentKind.GPU_INCIDENT_KIND_XID
    if not incident.is_fault or (position(_XID) > 0 and not is_xid):
        return {}
    return {
        _XID: incident.number if is_xid else _WITHOUT_XID,
        _GPU: gpu_uuids.index(incident.gpu_uuid),
        _SEEN_AT: now_unix_seconds,
    }


def blamed(position: Position, gpu_uuids: Sequence[str], now_unix_seconds: int) -> tuple[str, int]:
    """Give the GPU that failed and its XID (0 without one); empty when none explains an end now."""
    xid, index = position(_XID), position(_GPU)
    is_old = now_unix_seconds - position(_SEEN_AT) > _BLAMED_SECONDS
    if not xid or index >= len(gpu_uuids) or (is_old and not (xid > 0 and needs_reset(xid))):
        return "", 0
    return gpu_uuids[index], max(0, xid)
