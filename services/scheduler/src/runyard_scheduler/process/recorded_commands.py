"""From the recorded events of a command, and the state before them, back to the command: pure.

A command that came to no event left no trace and cannot be rebuilt. Of a report the words are those that the
decision kept: once a stop was asked for, its cause stands in for what the agent reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, timedelta

from google.protobuf.message import Message

from runyard.agent.v1.agent_service_pb2 import (
    AttemptExited,
    AttemptFinished,
    AttemptReport,
    AttemptStarted,
    ForeignProcess,
    InputFetched,
)
from runyard.event.v1.envelope_pb2 import ActorKind, Envelope
from runyard.node.v1 import events_pb2 as node_ev
from runyard.node.v1.types_pb2 import NodeInventory
from runyard.run.v1 import events_pb2 as ev
from runyard_contracts.ids import LeaseId, NodeId, RunId
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain import node_access
from runyard_scheduler.domain.causes import LOST_CAUSES
from runyard_scheduler.domain.node import Node, NodeCommand
from runyard_scheduler.domain.project import NumberRun, ProjectCommand, RemoveSecret, SetSecret
from runyard_scheduler.domain.run_commands import (
    CloseHandsOn,
    ExpireLease,
    GiveUp,
    Grant,
    MarkReachable,
    MarkUnreachable,
    OpenHandsOn,
    Queue,
    Report,
    RequestStop,
    RunCommand,
    Withhold,
)

_WITH_INVENTORY = (node_ev.NodeEnrolled, node_ev.NodeInventoryChanged)


def run_command(envelope: Envelope, messages: Sequence[Message]) -> RunCommand | None:
    """Give the command that came to these events of a run; None when it cannot be told."""
    if envelope.actor.kind == ActorKind.ACTOR_KIND_AGENT:
        report = _report(envelope, messages)
        return None if report is None else Report(NodeId(envelope.actor.id), report)
    match messages[0]:
        case ev.RunQueued() as queued:
            tags = tuple(queued.tags)
            return Queue(RunId(queued.run_id), queued.project, queued.number, queued.spec, queued.title, tags)
        case ev.RunLeaseGranted() as granted:
            gpu_uuids = tuple(granted.gpu_uuids)
            return Grant(
                LeaseId(granted.lease_id), NodeId(granted.node_id), gpu_uuids, granted.lease_milliseconds
            )
        case ev.RunStopRequested() as requested:
            return RequestStop(requested.cause_code, requested.reason)
        case ev.RunFinished() as finished if envelope.actor.kind == ActorKind.ACTOR_KIND_USER:
            return RequestStop(finished.cause.code, finished.cause.detail)
        case ev.RunHandsOnOpened() as opened:
            return OpenHandsOn(
                opened.session_id, opened.epoch, tuple(opened.command), opened.terminal, opened.port
            )
        case ev.RunHandsOnClosed() as closed:
            return _close(closed)
        case _:
            return _of_deadlines(messages)


def node_command(node: Node, messages: Sequence[Message]) -> NodeCommand | None:
    """Give the command that came to these events of a node; None when it cannot be told."""
    attached = next((each for each in messages if isinstance(each, node_ev.NodeAttached)), None)
    match messages[0]:
        case node_ev.NodeEnrolled() as enrolled:
            return node_domain.Attach(NodeId(enrolled.node_id), enrolled.inventory)
        case node_ev.NodeInventoryChanged() as changed if attached is None:
            return node_domain.ChangeInventory(changed.inventory)
        case node_ev.NodeInventoryChanged() as changed:
            return node_domain.Attach(NodeId(changed.node_id), changed.inventory)
        case node_ev.NodeAttached() as alone:
            return node_domain.Attach(NodeId(alone.node_id), _inventory_at(node, alone))
        case node_ev.NodeDetached() as detached:
            return node_domain.Detach(detached.reason, detached.silent_milliseconds)
        case node_ev.NodeGpusReserved() as reserved:
            return node_domain.Reserve(
                LeaseId(reserved.lease_id),
                RunId(reserved.run_id),
                reserved.attempt,
                tuple(reserved.gpu_uuids),
                reserved.project,
            )
        case node_ev.NodeGpusReleased() as released:
            return node_domain.Release(LeaseId(released.lease_id))
        case node_ev.NodeForeignProcessSeen() as seen:
            process = ForeignProcess(
                gpu_uuid=seen.gpu_uuid,
                pid=seen.pid,
                process_name=seen.process_name,
                memory_bytes=seen.memory_bytes,
                gone=seen.gone,
            )
            return node_domain.SeeForeignProcess(process)
        case _:
            return _access_command(node, messages)


def _access_command(node: Node, messages: Sequence[Message]) -> NodeCommand | None:
    match messages[0]:
        case node_ev.NodeInvited() as invited:
            expires_at = invited.expires_at.ToDatetime(UTC)
            return node_access.Invite(NodeId(invited.node_id), invited.token_sha256, expires_at)
        case node_ev.NodeCredentialIssued() as issued if node.access.token_expires_at is not None:
            told = [each.inventory for each in messages if isinstance(each, _WITH_INVENTORY)]
            return node_access.Enroll(
                NodeId(issued.node_id),
                issued.token_sha256,
                issued.credential_sha256,
                issued.bus_password_bcrypt,
                told[0] if told else node.inventory or NodeInventory(),
                # It was in time.
                node.access.token_expires_at - timedelta(microseconds=1),
            )
        case node_ev.NodeRevoked() as revoked:
            return node_access.Revoke(NodeId(revoked.node_id), revoked.reason)
        case _:
            return None


def project_command(messages: Sequence[Message]) -> ProjectCommand | None:
    """Give the command that came to these events of a project; None when it cannot be told."""
    match messages[-1]:
        case ev.ProjectRunNumbered() as numbered:
            return NumberRun(numbered.project, RunId(numbered.run_id))
        case ev.ProjectSecretSet() as told:
            return SetSecret(told.project, told.name, replaced=told.replaced)
        case ev.ProjectSecretRemoved() as told:
            return RemoveSecret(told.project, told.name)
        case _:
            return None


def _of_deadlines(messages: Sequence[Message]) -> RunCommand | None:
    expired = next((each for each in messages if isinstance(each, ev.RunLeaseExpired)), None)
    match messages[0]:
        case ev.RunUnreachable() as silent if expired is None:
            return MarkUnreachable(silent.epoch, silent.silent_milliseconds)
        case ev.RunUnreachable() as silent:
            return ExpireLease(silent.epoch, silent.silent_milliseconds)
        case ev.RunLeaseExpired() as alone:
            return ExpireLease(alone.epoch, 0)
        case ev.RunReachableAgain() as again:
            return MarkReachable(again.epoch)
        case ev.RunAttemptFailed() as failed if failed.cause.code not in LOST_CAUSES:
            return Withhold(failed.epoch, failed.cause.detail)
        case ev.RunAttemptFailed() | ev.RunFinished() as lost:
            return GiveUp(lost.epoch, lost.cause.detail)
        case _:
            return None


def _close(closed: ev.RunHandsOnClosed) -> CloseHandsOn:
    return CloseHandsOn(
        closed.session_id,
        closed.attempt,
        closed.epoch,
        closed.end_reason,
        closed.detail,
        closed.exit_status if closed.HasField("exit_status") else None,
        closed.sent_bytes,
        closed.received_bytes,
        closed.connection_count,
    )


def _report(envelope: Envelope, messages: Sequence[Message]) -> AttemptReport | None:
    first = messages[0]
    report = AttemptReport(report_id=envelope.command_id, occurred_at=envelope.occurred_at)
    finished = next((each for each in messages if isinstance(each, ev.RunFinished)), None)
    match first:
        case ev.EnvironmentCaptured():
            report.environment_captured.CopyFrom(first.environment)
        case ev.RunStarted():
            report.started.CopyFrom(AttemptStarted(hardware=first.hardware, inputs=first.inputs))
        case ev.RunInputFetched():
            report.input_fetched.CopyFrom(InputFetched(input=first.input, file=first.file))
        case ev.RunStatusDetailSet():
            report.status_detail = first.status_detail
        case ev.RunAttemptExited() | ev.RunFinished() if finished is not None:
            report.finished.CopyFrom(_finished(finished))
        case ev.RunAttemptFailed() if finished is not None:
            report.finished.CopyFrom(_finished(finished))
        case ev.RunAttemptExited():
            report.exited.cause.CopyFrom(first.cause)
        case ev.RunAttemptFailed() if len(messages) > 1:
            # The node itself said that its machine was lost under the attempt.
            report.exited.cause.CopyFrom(first.cause)
        case ev.RunAttemptFailed():
            report.failed.CopyFrom(first.cause)
        case ev.RunStaleReportReceived():
            _put_late(report, first)
        case _:
            return None
    if isinstance(first, ev.RunAttemptExited) and first.HasField("exited_at"):
        report.occurred_at.CopyFrom(first.exited_at)
    report.run_id, report.attempt, report.epoch = first.run_id, first.attempt, first.epoch
    return report


def _finished(finished: ev.RunFinished) -> AttemptFinished:
    told = AttemptFinished(cause=finished.cause, outputs=finished.outputs)
    if finished.HasField("output_list"):
        told.output_list.CopyFrom(finished.output_list)
    if finished.HasField("telemetry"):
        told.telemetry.CopyFrom(finished.telemetry)
    return told


def _put_late(report: AttemptReport, late: ev.RunStaleReportReceived) -> None:
    match late.report:
        case "exited":
            report.exited.CopyFrom(AttemptExited(cause=late.cause if late.HasField("cause") else None))
        case "finished":
            cause = late.cause if late.HasField("cause") else None
            report.finished.CopyFrom(AttemptFinished(cause=cause, outputs=late.outputs))
            if late.HasField("output_list"):
                report.finished.output_list.CopyFrom(late.output_list)
        case "failed":
            report.failed.CopyFrom(late.cause)
        case _:
            report.started.SetInParent()


def _inventory_at(node: Node, attached: node_ev.NodeAttached) -> NodeInventory:
    inventory = NodeInventory()
    if node.inventory is not None:
        inventory.CopyFrom(node.inventory)
    inventory.boot_id, inventory.agent_version = attached.boot_id, attached.agent_version
    return inventory
