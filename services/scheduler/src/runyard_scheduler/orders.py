"""What goes down to an agent: the order to run an attempt, the order to stop one."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.agent.v1.agent_service_pb2 import LeaseGrant, StopOrder
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_scheduler.domain.run_state import Lease, Run, whole_spec
from runyard_scheduler.process.world import RunEntry


def grant_message(entry: RunEntry, lease: Lease) -> LeaseGrant:
    """Give the order to run an attempt."""
    run = entry.run
    queued_at = Timestamp()
    queued_at.FromDatetime(entry.queued_at)
    return LeaseGrant(
        run_id=run.run_id,
        project=run.project,
        number=run.number,
        attempt=lease.attempt,
        epoch=lease.epoch,
        lease_id=lease.lease_id,
        gpu_uuids=lease.gpu_uuids,
        lease_milliseconds=lease.milliseconds,
        spec=_pinned(run),
        correlation_id=entry.correlation_id,
        traceparent=entry.traceparent,
        submitted_by=entry.submitted_by,
        title=run.title,
        tags=run.tags,
        image_pin=run.image_pin,
        queued_at=queued_at,
    )


def _pinned(run: Run) -> RunSpec | None:
    """Give the specification, with the files of its inputs that earlier attempts have found."""
    whole = whole_spec(run)
    if whole is None or not run.input_pins:
        return whole
    pins = {pin.name: pin.files for pin in run.input_pins}
    spec = RunSpec()
    spec.CopyFrom(whole)
    for each in spec.inputs:
        each.files.extend(pins.get(each.name, ()))
    return spec


def stop_message(entry: RunEntry, lease: Lease) -> StopOrder:
    """Give the order to stop an attempt."""
    run, stop = entry.run, entry.run.stop
    return StopOrder(
        run_id=run.run_id,
        attempt=lease.attempt,
        epoch=lease.epoch,
        grace_seconds=0 if run.spec is None else run.spec.stop_grace_seconds,
        cause_code=CauseCode.CAUSE_CODE_UNSPECIFIED if stop is None else stop.cause_code,
        reason="" if stop is None else stop.reason,
    )
