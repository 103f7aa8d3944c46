"""Recorded decisions, made again with this code: rebuilt commands, and the planner's choice of places. Pure.

Every command of runs, nodes and projects is rebuilt from what it came to, and decided on the state that was
before it. At every lease the planner also looks at queue and machines as they were and says where it would
have put the run. Whose stream was open is not in the log: a machine counts as ready while it is attached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC

from google.protobuf.message import Message

from runyard.history.v1.history_service_pb2 import FieldChange
from runyard.run.v1.events_pb2 import RunLeaseGranted
from runyard_contracts.ids import stream_category, stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Rejected
from runyard_replay.folding.decisions import Decision
from runyard_replay.folding.fields import changes_between, flat
from runyard_scheduler.domain import node as node_domain
from runyard_scheduler.domain import project as project_domain
from runyard_scheduler.domain import run as run_domain
from runyard_scheduler.domain.placement import Supply, plan
from runyard_scheduler.process.recorded_commands import node_command, project_command, run_command
from runyard_scheduler.process.world import RunEntry, World, message_of

Decide = Callable[[], list[Message]]

_NOT_TOLD = "what was asked cannot be told from its events"


class SchedulerDeciders:
    """Fills ``runyard_replay.deciding.Deciders``."""

    categories: Sequence[str] = ("run", "node", "project")

    def __init__(self) -> None:
        """Start before the first event."""
        self._world = World()
        # The world lets go of finished runs, about which late reports may still come.
        self._runs: dict[str, RunEntry] = {}

    def decide_again(self, events: Sequence[RecordedEvent]) -> Iterator[Decision]:
        """Decide again on each stream of a command, in the order in which its events were appended."""
        streams: dict[str, list[RecordedEvent]] = {}
        for event in events:
            streams.setdefault(event.envelope.stream, []).append(event)
        decisions = [decision for each in streams.values() for decision in self._on_stream(each)]
        for event in events:
            self._world.follow([event], event.position)
            if stream_category(event.envelope.stream) == "run":
                run_id = stream_id(event.envelope.stream)
                self._runs[run_id] = self._runs.get(run_id, RunEntry()).after(event)
        yield from decisions

    def _on_stream(self, events: Sequence[RecordedEvent]) -> Iterator[Decision]:
        first = events[0].envelope
        messages = [message_of(event) for event in events]
        match stream_category(first.stream):
            case "run":
                entry = self._runs.get(stream_id(first.stream), RunEntry())
                command = run_command(first, messages)
                decide = None if command is None else lambda: run_domain.decide(entry.run, command)
                yield self._compared(events, type(command).__name__, decide)
                if isinstance(messages[0], RunLeaseGranted):
                    yield self._placed(events[0], messages[0])
            case "node":
                node = self._world.node(stream_id(first.stream)).node
                asked = node_command(node, messages)
                decide = None if asked is None else lambda: node_domain.decide(node, asked)
                yield self._compared(events, type(asked).__name__, decide)
            case "project":
                project = self._world.project(stream_id(first.stream)).project
                told = project_command(messages)
                decide = None if told is None else lambda: project_domain.decide(project, told)
                yield self._compared(events, type(told).__name__, decide)
            case _:
                pass

    def _compared(self, events: Sequence[RecordedEvent], command: str, decide: Decide | None) -> Decision:
        if decide is None:
            return self._decision(events, command="", not_decided=_NOT_TOLD)
        try:
            today = decide()
        except Rejected as refusal:
            refused = FieldChange(path="refused", after_json=f'"{refusal.code}: {refusal.message}"')
            return self._decision(events, command=command, differences=[refused])
        recorded = [message_of(event) for event in events]
        return self._decision(events, command=command, differences=_differences(recorded, today))

    def _placed(self, event: RecordedEvent, granted: RunLeaseGranted) -> Decision:
        nodes = [Supply.of(entry.node, attached=entry.node.attached) for entry in self._world.nodes()]
        made = plan(self._world.queue, nodes, event.envelope.occurred_at.ToDatetime(UTC))
        place = next((each for each in made.placements if each.run_id == granted.run_id), None)
        recorded = RunLeaseGranted(node_id=granted.node_id, gpu_uuids=granted.gpu_uuids)
        if place is not None:
            today = RunLeaseGranted(node_id=place.node_id, gpu_uuids=place.gpu_uuids)
            changes = changes_between(flat(recorded), flat(today))
            return self._decision([event], command="Placement", differences=changes)
        entry = self._world.run(granted.run_id)
        queued = None if entry is None else entry.queued
        why = "" if queued is None else made.waiting.get(queued.requirement, "")
        waits = FieldChange(path="waits", after_json=f'"{why or "behind others"}"')
        return self._decision([event], command="Placement", differences=[waits])

    def _decision(
        self,
        events: Sequence[RecordedEvent],
        *,
        command: str,
        differences: Iterable[FieldChange] = (),
        not_decided: str = "",
    ) -> Decision:
        envelope = events[0].envelope
        run_id, project = "", ""
        message = message_of(events[0])
        if stream_category(envelope.stream) == "run":
            run_id = stream_id(envelope.stream)
            project = self._runs[run_id].run.project if run_id in self._runs else ""
        run_id = run_id or str(getattr(message, "run_id", ""))
        project = project or str(getattr(message, "project", ""))
        if not project and run_id in self._runs:
            project = self._runs[run_id].run.project
        return Decision(
            position=events[0].position,
            stream=envelope.stream,
            command=command,
            recorded=tuple(event.type for event in events),
            run_id=run_id,
            project=project,
            differences=tuple(differences),
            not_decided=not_decided,
        )


def _differences(recorded: Sequence[Message], today: Sequence[Message]) -> list[FieldChange]:
    """Compare what a command came to with what it would come to, event by event and field by field."""
    found: list[FieldChange] = []
    for index in range(max(len(recorded), len(today))):
        before = recorded[index] if index < len(recorded) else None
        after = today[index] if index < len(today) else None
        names = (_name(before), _name(after))
        if names[0] != names[1]:
            found.append(FieldChange(path=f"event {index + 1}", before_json=names[0], after_json=names[1]))
        else:
            found += changes_between(flat(before), flat(after))
    return found


def _name(message: Message | None) -> str:
    return "" if message is None else message.DESCRIPTOR.name
