"""The yard as it is now, in memory: live runs, nodes, projects and the queue, folded from the log.

Pure apart from being kept: it reads no clock and waits for nothing. Events may be applied early (by whoever
appended them) and again when they come out of the log; stream versions make the second time do nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from runyard.node.v1.events_pb2 import NodeAttached, NodeDetached
from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.envelope import UndecodableEventError, actor_name
from runyard_contracts.ids import LeaseId, NodeId, Position, RunId, stream_category, stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain import project as project_domain
from runyard_scheduler.domain.causation import NOTHING, Attachment, Mark, Trail
from runyard_scheduler.domain.node import Node
from runyard_scheduler.domain.placement import QueuedRun, Requirement
from runyard_scheduler.domain.project import Project
from runyard_scheduler.domain.run_state import Lease, Run, evolve

_START = Position(0)
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A run's state with its place in the log and the context it was asked for in."""

    run: Run = field(default_factory=Run)
    version: int = 0
    queued_position: Position = _START
    queued_at: datetime = _EPOCH
    submitted_by: str = ""
    correlation_id: str = ""
    traceparent: str = ""
    trail: Trail = field(default_factory=Trail)

    def after(self, event: RecordedEvent) -> RunEntry:
        """Give the entry after the next event of the run's stream."""
        envelope, message = event.envelope, message_of(event)
        entry = self
        if self.version == 0:
            entry = replace(
                self,
                queued_position=event.position,
                queued_at=envelope.occurred_at.ToDatetime(UTC),
                submitted_by=actor_name(envelope.actor),
                correlation_id=envelope.correlation_id,
                traceparent=envelope.traceparent,
            )
        return replace(
            entry,
            run=evolve(entry.run, message),
            version=envelope.stream_version,
            trail=entry.trail.after(message, Mark(envelope.event_id, event.position)),
        )

    @property
    def queued(self) -> QueuedRun | None:
        """The run as it stands in the queue; None when it does not."""
        run = self.run
        if run.phase != RunState.RUN_STATE_QUEUED or run.spec is None:
            return None
        return QueuedRun(
            run_id=run.run_id,
            requirement=Requirement.of(run.spec),
            priority=run.spec.priority,
            order=self.queued_position,
            queued_at=self.queued_at,
        )


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node's state with the version of its stream, and what led to its being there or not."""

    node: Node = field(default_factory=Node)
    version: int = 0
    attachment_mark: Mark = NOTHING
    """Its latest node.attached or node.detached."""
    attachment_correlation_id: str = ""
    """Groups what one attachment set off: from node.attached to node.detached."""

    @property
    def attachment(self) -> Attachment:
        """The node's coming and going, as causes need it."""
        return Attachment(self.attachment_mark, self.node.attached)

    def after(self, event: RecordedEvent) -> NodeEntry:
        """Give the entry after the next event of the node's stream."""
        envelope, message = event.envelope, message_of(event)
        after = replace(self, node=node_domain.evolve(self.node, message), version=envelope.stream_version)
        if not isinstance(message, NodeAttached | NodeDetached):
            return after
        mark = Mark(envelope.event_id, event.position)
        return replace(after, attachment_mark=mark, attachment_correlation_id=envelope.correlation_id)


@dataclass(frozen=True, slots=True)
class ProjectEntry:
    """A project's state with the version of its stream."""

    project: Project = field(default_factory=Project)
    version: int = 0


class World:
    """Everything that is live. Finished runs leave it; the log still has them."""

    def __init__(
        self,
        runs: Iterable[RunEntry] = (),
        nodes: Iterable[NodeEntry] = (),
        projects: Iterable[ProjectEntry] = (),
        position: Position = _START,
    ) -> None:
        """Start from what a read model shows at a position."""
        self.position = position
        """Everything up to here has been applied."""
        self._runs: dict[RunId, RunEntry] = {}
        self._nodes = {entry.node.node_id: entry for entry in nodes}
        self._projects = {entry.project.name: entry for entry in projects}
        self._queue: dict[Requirement, list[QueuedRun]] = {}
        self._leased: dict[NodeId, set[RunId]] = {}
        # Runs that ended ahead of `position`: the log will tell of their beginning once more.
        self._ended: dict[RunId, Position] = {}
        for entry in runs:
            self._put_run(entry)

    @property
    def queue(self) -> Mapping[Requirement, list[QueuedRun]]:
        """The waiting runs of each requirement, sorted by rank."""
        return self._queue

    def run(self, run_id: str) -> RunEntry | None:
        """Give a live run."""
        return self._runs.get(RunId(run_id))

    def runs(self) -> Iterable[RunEntry]:
        """Give every live run."""
        return self._runs.values()

    def leases(self) -> Iterator[tuple[RunEntry, Lease]]:
        """Give every run with a live lease."""
        for run_ids in self._leased.values():
            yield from self._leases_among(run_ids)

    def leases_of(self, node_id: NodeId) -> dict[LeaseId, RunEntry]:
        """Give the runs with a live lease on a node."""
        found = self._leases_among(self._leased.get(node_id, ()))
        return {lease.lease_id: entry for entry, lease in found}

    def node(self, node_id: str) -> NodeEntry:
        """Give a node; an empty one when it has not enrolled."""
        return self._nodes.get(NodeId(node_id), NodeEntry())

    def nodes(self) -> Iterable[NodeEntry]:
        """Give every node of the yard: enrolled, and not revoked."""
        return [entry for entry in self._nodes.values() if entry.node.is_member]

    def project(self, name: str) -> ProjectEntry:
        """Give a project; an empty one when it does not exist."""
        return self._projects.get(name, ProjectEntry())

    def follow(self, events: Iterable[RecordedEvent], position: Position) -> None:
        """Apply what the log tells, in order, up to a position."""
        for event in events:
            self.apply(event)
        self.position = position
        self._ended = {run_id: ended for run_id, ended in self._ended.items() if ended > position}

    def apply(self, event: RecordedEvent) -> None:
        """Apply one event; one that was applied before does nothing."""
        stream = event.envelope.stream
        match stream_category(stream):
            case "run":
                self._apply_to_run(RunId(stream_id(stream)), event)
            case "node":
                self._apply_to_node(NodeId(stream_id(stream)), event)
            case "project":
                self._apply_to_project(stream_id(stream), event)
            case _:
                pass

    def _apply_to_run(self, run_id: RunId, event: RecordedEvent) -> None:
        entry = self._runs.get(run_id, RunEntry())
        # A live run is known from its first event on, so an unknown one with a later event has ended.
        if event.envelope.stream_version != entry.version + 1 or run_id in self._ended:
            return
        self._remove_run(entry)
        after = entry.after(event)
        if after.run.phase != RunState.RUN_STATE_FINISHED:
            self._put_run(after)
        elif event.position > self.position:
            self._ended[run_id] = event.position

    def _apply_to_node(self, node_id: NodeId, event: RecordedEvent) -> None:
        entry = self.node(node_id)
        if event.envelope.stream_version == entry.version + 1:
            self._nodes[node_id] = entry.after(event)

    def _apply_to_project(self, name: str, event: RecordedEvent) -> None:
        entry = self.project(name)
        if event.envelope.stream_version == entry.version + 1:
            project = project_domain.evolve(entry.project, message_of(event))
            self._projects[name] = ProjectEntry(project, entry.version + 1)

    def _put_run(self, entry: RunEntry) -> None:
        run = entry.run
        self._runs[run.run_id] = entry
        if (queued := entry.queued) is not None:
            insort(self._queue.setdefault(queued.requirement, []), queued, key=_rank)
        if (lease := run.live_lease) is not None:
            self._leased.setdefault(lease.node_id, set()).add(run.run_id)

    def _remove_run(self, entry: RunEntry) -> None:
        run = entry.run
        self._runs.pop(run.run_id, None)
        if (queued := entry.queued) is not None:
            waiting = self._queue[queued.requirement]
            del waiting[bisect_left(waiting, queued.rank, key=_rank)]
            if not waiting:
                del self._queue[queued.requirement]
        if (lease := run.live_lease) is not None:
            self._leased[lease.node_id].discard(run.run_id)

    def _leases_among(self, run_ids: Iterable[RunId]) -> Iterator[tuple[RunEntry, Lease]]:
        for run_id in run_ids:
            entry = self._runs[run_id]
            if (lease := entry.run.live_lease) is not None:
                yield entry, lease


def message_of(event: RecordedEvent) -> Message:
    """Give the event's message; of one that this code cannot read, one that changes nothing."""
    try:
        return event.message
    except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError):
        return Empty()


def _rank(queued: QueuedRun) -> tuple[int, int]:
    return queued.rank
