"""From the rows of the read model back to the world that they show: pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from operator import attrgetter

from runyard.node.v1.types_pb2 import Node as NodeDocument
from runyard.node.v1.types_pb2 import NodeAccess, NodeState
from runyard.run.v1.types_pb2 import Cause, CauseCode, Input, RunState
from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_contracts.ids import LeaseId, NodeId, Position, RunId
from runyard_scheduler.domain.causation import Mark
from runyard_scheduler.domain.node import Node, Reservation
from runyard_scheduler.domain.node_access import Access
from runyard_scheduler.domain.project import Project
from runyard_scheduler.domain.run_state import (
    Lease,
    Run,
    Stop,
    image_pin_of,
    input_pins_of,
    parted,
)
from runyard_scheduler.process.world import NodeEntry, ProjectEntry, RunEntry, World
from runyard_scheduler.projections.nodes import NodeRow
from runyard_scheduler.projections.projects import ProjectRow
from runyard_scheduler.projections.run_parts import RunPartRow, whole_run
from runyard_scheduler.projections.runs import RunRow, trail_of


def restore_world(
    runs: Iterable[RunRow],
    parts: Iterable[RunPartRow],
    nodes: Iterable[NodeRow],
    projects: Iterable[ProjectRow],
    position: Position,
) -> World:
    """Give the world that the current rows of unfinished runs, nodes and projects show at a position.

    For who has all rows at hand: a start reads those of runs few at a time.
    """
    of_runs: dict[str, list[bytes]] = {}
    for part in sorted(parts, key=attrgetter("version")):
        of_runs.setdefault(part.run_id, []).append(part.document)
    entries = (run_entry(row, of_runs.get(row.run_id, ())) for row in runs)
    return World(entries, map(node_entry, nodes), map(project_entry, projects), position)


def run_entry(row: RunRow, parts: Iterable[bytes]) -> RunEntry:
    """Give the state of a run that is not finished, from its row and its parts in the order of versions."""
    document = whole_run(row.document, parts)
    latest = document.attempts[-1] if document.attempts else None
    spec, input_files = parted(document.spec)
    run = Run(
        run_id=RunId(row.run_id),
        project=document.project,
        number=document.number,
        spec=spec,
        input_files=input_files,
        title=document.title,
        tags=tuple(document.tags),
        phase=document.state,
        attempt=0 if latest is None else latest.number,
        epoch=0 if latest is None else latest.epoch,
        lease=_lease(row, document),
        stop=Stop(CauseCode.ValueType(row.stop_cause), row.stop_reason) if row.stop_cause else None,
        status_detail=document.status_detail,
        open_session_ids=frozenset(
            each.session_id for each in document.hands_on_sessions if not each.HasField("ended_at")
        ),
        image_pin=_image_pin(document),
        input_pins=_input_pins(document),
    )
    return RunEntry(
        run=run,
        version=row.version,
        queued_position=Position(row.queued_position),
        queued_at=document.queued_at.ToDatetime(UTC),
        submitted_by=row.submitted_by,
        correlation_id=row.correlation_id,
        traceparent=row.traceparent,
        trail=trail_of(row.trail_event_ids, row.trail_positions),
    )


def node_entry(row: NodeRow) -> NodeEntry:
    """Give the state of a node."""
    document = NodeDocument.FromString(row.document)
    reservations = tuple(
        Reservation(LeaseId(held.lease_id), RunId(held.run_id), held.attempt, tuple(held.gpu_uuids))
        for held in document.reservations
    )
    node = Node(
        node_id=NodeId(row.node_id),
        inventory=document.inventory if document.HasField("inventory") else None,
        attached=document.state == NodeState.NODE_STATE_ATTACHED,
        reservations=reservations,
        foreign_processes=frozenset(zip(row.foreign_gpu_uuids, row.foreign_pids, strict=True)),
        access=_access(document.access),
    )
    mark = Mark(row.attachment_event_id, row.attachment_position)
    return NodeEntry(node, row.version, mark, row.attachment_correlation_id)


def project_entry(row: ProjectRow) -> ProjectEntry:
    """Give the state of a project."""
    return ProjectEntry(Project(row.project, row.last_number), row.version)


def _image_pin(document: RunDocument) -> str:
    pins = (image_pin_of(attempt.environment) for attempt in document.attempts)
    return next(filter(None, pins), "")


def _input_pins(document: RunDocument) -> tuple[Input, ...]:
    pins = (input_pins_of(document.spec, attempt.inputs) for attempt in document.attempts)
    return next(filter(None, pins), ())


def _access(access: NodeAccess) -> Access:
    expires_at = access.token_expires_at.ToDatetime(UTC) if access.HasField("token_expires_at") else None
    return Access(
        token_sha256=access.token_sha256,
        token_expires_at=expires_at,
        token_spent=access.token_spent,
        credential_sha256=access.credential_sha256,
        revoked=access.HasField("revoked_at"),
    )


def _lease(row: RunRow, document: RunDocument) -> Lease | None:
    if not document.attempts or document.state == RunState.RUN_STATE_QUEUED:
        return None
    latest = document.attempts[-1]
    ended = latest.HasField("cause")
    return Lease(
        lease_id=LeaseId(latest.lease_id),
        node_id=NodeId(latest.node_id),
        attempt=latest.number,
        epoch=latest.epoch,
        gpu_uuids=tuple(latest.gpu_uuids),
        milliseconds=row.lease_milliseconds,
        holds_gpus=not ended,
        started=latest.HasField("started_at"),
        failed=ended and not latest.HasField("exited_at"),
        reachable=latest.reachable,
        expired=row.lease_expired,
        cause=_copy(latest.cause) if ended else None,
    )


def _copy(cause: Cause) -> Cause:
    """Copy a part of a document: the part itself would keep all of the document in memory."""
    copied = Cause()
    copied.CopyFrom(cause)
    return copied
