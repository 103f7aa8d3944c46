"""Recorded decisions, made again: the same by the same code, and otherwise told field by field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Lane
from runyard.node.v1 import events_pb2 as node_ev
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, OnLost, Outcome
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import StreamName, stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import ManualClock
from runyard_replay.deciding import by_command
from runyard_replay.folding.decisions import Decision
from runyard_scheduler.process.deciding_again import SchedulerDeciders

from .yard import MemoryYard, a_spec, an_inventory, exited, finished, held, started

RUN = "run-1"
SCHEDULER, ALICE = "service:scheduler", "user:alice"
ENROLLED = (
    node_ev.NodeEnrolled(node_id="n1", inventory=an_inventory()),
    node_ev.NodeAttached(node_id="n1", boot_id="boot-1"),
)
QUEUED = ev.RunQueued(run_id=RUN, project="digits", number=1, spec=a_spec(gpu_count=1))
GRANTED = ev.RunLeaseGranted(
    run_id=RUN, attempt=1, lease_id="l", epoch=1, node_id="n1", gpu_uuids=["GPU-0"], lease_milliseconds=60_000
)
RESERVED = node_ev.NodeGpusReserved(
    node_id="n1", lease_id="l", run_id=RUN, attempt=1, gpu_uuids=["GPU-0"], project="digits"
)
NO_GPU_FREE = (
    '"Needs 1 GPU on one node; the most free now is 0 of 2 on n1, '
    'where 2 GPUs are used by processes that belong to no run."'
)


def again(events: Iterable[RecordedEvent]) -> list[Decision]:
    deciders = SchedulerDeciders()
    return [decision for group in by_command(events) for decision in deciders.decide_again(group)]


def recorded(*commands: tuple[str, Sequence[Message]]) -> list[RecordedEvent]:
    """Give events as a log has them: an actor, and what a command of his came to."""
    versions: dict[str, int] = {}
    events: list[RecordedEvent] = []
    for actor, messages in commands:
        command_id = uuid7()
        for message in messages:
            of_node = message.DESCRIPTOR.file.package == "runyard.node.v1"
            stream: StreamName = stream_name("node", "n1") if of_node else stream_name("run", RUN)
            versions[stream] = versions.get(stream, 0) + 1
            context = Context(parse_actor(actor), correlation_id=RUN, source="/scheduler")
            envelope = wrap(message, stream, context, ManualClock().now())
            envelope.command_id, envelope.position = command_id, len(events) + 1
            envelope.stream_version = versions[stream]
            events.append(RecordedEvent(envelope))
    return events


def told(decisions: Iterable[Decision]) -> list[tuple[int, str, list[tuple[str, str, str]]]]:
    return [
        (
            decision.position,
            decision.command,
            [(change.path, change.before_json, change.after_json) for change in decision.differences],
        )
        for decision in decisions
        if decision.differences
    ]


async def test_the_same_code_decides_the_same_again(yard: MemoryYard) -> None:
    first = await yard.attach("node-1", an_inventory(gpu_count=1))
    await yard.submit(a_spec(gpu_count=1, on_lost=OnLost.ON_LOST_REQUEUE))
    waits = await yard.submit(a_spec(gpu_count=1))
    late = await first.grant()
    await first.report(started(late))
    await first.close()
    for seconds in (11, 50, 60):
        await yard.pass_time(seconds)
    second = await yard.attach("node-2", an_inventory(gpu_count=1))
    ends = await second.grant()
    for report in (started(ends), exited(ends), finished(ends)):
        await second.report(report)
    back = await yard.attach("node-1", an_inventory(gpu_count=1, boot_id="boot-2"), held=[held(late)])
    await back.report(finished(late))
    await yard.stop(waits.run_id)
    await back.close()
    await second.close()
    decisions = again((await yard.ledger.log.read(Lane.LANE_DOMAIN)).events)
    assert told(decisions) == []
    assert [decision for decision in decisions if decision.not_decided] == []
    assert {decision.command for decision in decisions} >= {
        *("Attach", "Detach", "Queue", "NumberRun", "Grant", "Placement", "Reserve", "Release", "Report"),
        *("MarkUnreachable", "ExpireLease", "GiveUp", "RequestStop"),
    }


def test_a_decision_names_the_run_and_the_project_that_it_was_about() -> None:
    decisions = again(
        recorded(("agent:n1", ENROLLED), (ALICE, [QUEUED]), (SCHEDULER, [GRANTED]), (SCHEDULER, [RESERVED]))
    )
    named = {decision.command: (decision.stream, decision.run_id, decision.project) for decision in decisions}
    of_run = (f"run-{RUN}", RUN, "digits")
    assert named == {
        "Attach": ("node-n1", "", ""),
        "Queue": of_run,
        "Placement": of_run,
        "Grant": of_run,
        "Reserve": ("node-n1", RUN, "digits"),
    }


def test_a_command_that_its_events_do_not_tell_is_said_to_be_not_decided() -> None:
    (*_, decision) = again(recorded((ALICE, [QUEUED]), (SCHEDULER, [ev.RunStarted(run_id=RUN, attempt=1)])))
    assert (decision.command, decision.differences) == ("", ())
    assert decision.not_decided == "what was asked cannot be told from its events"


def test_a_lease_that_the_planner_would_not_give_today_is_named_with_its_reason() -> None:
    foreign = node_ev.NodeForeignProcessSeen(node_id="n1", gpu_uuid="GPU-1", pid=7)
    other = node_ev.NodeForeignProcessSeen(node_id="n1", gpu_uuid="GPU-0", pid=8)
    events = recorded(
        ("agent:n1", ENROLLED),
        ("agent:n1", [foreign]),
        ("agent:n1", [other]),
        (ALICE, [QUEUED]),
        (SCHEDULER, [GRANTED]),
    )
    assert told(again(events)) == [
        (
            6,
            "Placement",
            [
                (
                    "waits",
                    "",
                    NO_GPU_FREE,
                )
            ],
        )
    ]
    elsewhere = recorded(
        ("agent:n1", ENROLLED), ("agent:n1", [other]), (ALICE, [QUEUED]), (SCHEDULER, [GRANTED])
    )
    assert told(again(elsewhere)) == [(5, "Placement", [("gpu_uuids[0]", '"GPU-0"', '"GPU-1"')])]


def test_another_decision_is_told_event_by_event_and_field_by_field() -> None:
    cause = Cause(code=CauseCode.CAUSE_CODE_STOPPED_BY_USER, detail="enough")
    failed = ev.RunFinished(run_id=RUN, outcome=Outcome.OUTCOME_FAILED, cause=cause)
    assert told(again(recorded((ALICE, [QUEUED]), (ALICE, [failed])))) == [
        (2, "RequestStop", [("outcome", '"OUTCOME_FAILED"', '"OUTCOME_STOPPED"')])
    ]
    silent = ev.RunUnreachable(run_id=RUN, attempt=1, epoch=1, node_id="n1")
    twice = recorded(
        ("agent:n1", ENROLLED), (ALICE, [QUEUED]), (SCHEDULER, [GRANTED]), *[(SCHEDULER, [silent])] * 2
    )
    assert told(again(twice)) == [(6, "MarkUnreachable", [("event 1", "RunUnreachable", "")])]
    refused = told(again(recorded((ALICE, [QUEUED]), (ALICE, [QUEUED]))))
    assert refused == [(2, "Queue", [("refused", "", '"RUN_EXISTS: run run-1 exists already"')])]
