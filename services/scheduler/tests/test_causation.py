"""Which earlier event each event of a run follows from: given these events, the next one names this cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import ActorKind, Envelope, Lane
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import Cause, CauseCode, OnLost
from runyard_scheduler.domain.causation import NOTHING, Attachment, Mark, Trail
from runyard_scheduler.domain.causes import agent_lost

from .yard import MemoryYard, a_spec, an_inventory, finished, held, started

QUEUED, GRANTED, STARTED = ev.RunQueued(), ev.RunLeaseGranted(), ev.RunStarted()
UNREACHABLE, EXPIRED, AGAIN = ev.RunUnreachable(), ev.RunLeaseExpired(), ev.RunReachableAgain()
STOP, EXITED = ev.RunStopRequested(), ev.RunAttemptExited()
LOST = ev.RunAttemptFailed(cause=agent_lost("gone"))
NO_INPUT = ev.RunAttemptFailed(cause=Cause(code=CauseCode.CAUSE_CODE_INPUT_UNAVAILABLE))
REQUEUED, FINISHED = ev.RunRequeued(), ev.RunFinished()
RUNNING = (QUEUED, GRANTED, STARTED)
ATTACHED, DETACHED = "node.attached", "node.detached"
Told = Message | str


def cause_after(told: Sequence[Told], then: Message) -> Told | None:
    """Give what the next event follows from, of what was told of the run and of its node, in order."""
    trail, node = Trail(), Attachment(NOTHING, attached=True)
    for position, each in enumerate(told, start=1):
        mark = Mark(f"event {position}", position)
        if isinstance(each, str):
            node = Attachment(mark, attached=each == ATTACHED)
        else:
            trail = trail.after(each, mark)
    cause = trail.cause_of(then, node)
    return told[int(cause.removeprefix("event ")) - 1] if cause else None


@pytest.mark.parametrize(
    ("told", "then", "cause"),
    [
        ((), QUEUED, None),
        ((QUEUED,), GRANTED, QUEUED),
        ((QUEUED, GRANTED), ev.EnvironmentCaptured(), GRANTED),
        ((QUEUED, GRANTED), STARTED, GRANTED),
        (RUNNING, ev.RunStatusDetailSet(), STARTED),
        (RUNNING, ev.RunInputFetched(), STARTED),
        (RUNNING, EXITED, STARTED),
        ((*RUNNING, STOP), EXITED, STOP),
        ((*RUNNING, STOP), STOP, None),
        ((*RUNNING, EXITED), FINISHED, EXITED),
        ((QUEUED, GRANTED), NO_INPUT, GRANTED),
        ((ATTACHED, QUEUED, GRANTED), NO_INPUT, GRANTED),
        # A stop of a waiting run ends it at once: nothing but the command is the cause.
        ((QUEUED,), FINISHED, None),
        ((QUEUED, GRANTED, LOST, REQUEUED), FINISHED, None),
    ],
)
def test_what_an_attempt_does_follows_from_what_let_it(
    told: Sequence[Told], then: Message, cause: Told | None
) -> None:
    assert cause_after(told, then) == cause


@pytest.mark.parametrize(
    ("told", "then", "cause"),
    [
        ((ATTACHED, *RUNNING, DETACHED), UNREACHABLE, DETACHED),
        # The node is heard from, only not of this attempt.
        ((ATTACHED, *RUNNING), UNREACHABLE, GRANTED),
        ((*RUNNING, DETACHED, UNREACHABLE), EXPIRED, UNREACHABLE),
        ((*RUNNING, DETACHED, UNREACHABLE, ATTACHED), AGAIN, ATTACHED),
        ((ATTACHED, *RUNNING, UNREACHABLE), AGAIN, UNREACHABLE),
        ((*RUNNING, DETACHED, UNREACHABLE, EXPIRED), LOST, EXPIRED),
        # It came back without the attempt.
        ((*RUNNING, DETACHED, UNREACHABLE, EXPIRED, ATTACHED), LOST, ATTACHED),
        ((*RUNNING, DETACHED, UNREACHABLE, EXPIRED, STOP), LOST, STOP),
        ((*RUNNING, UNREACHABLE, EXPIRED, LOST), REQUEUED, LOST),
        ((*RUNNING, UNREACHABLE, EXPIRED, LOST), FINISHED, LOST),
        ((*RUNNING, UNREACHABLE, EXPIRED, LOST, REQUEUED), GRANTED, REQUEUED),
    ],
)
def test_what_a_silent_node_leads_to_follows_from_its_silence(
    told: Sequence[Told], then: Message, cause: Told
) -> None:
    assert cause_after(told, then) == cause


def roots(events: Iterable[Envelope]) -> list[tuple[Envelope, Envelope]]:
    """Give each event with the last one of its chain of causes; every cause must be there, and be earlier."""
    known: dict[str, Envelope] = {}
    root_of: dict[str, Envelope] = {}
    found = []
    for envelope in events:
        assert not envelope.causation_id or envelope.causation_id in known, envelope.type
        known[envelope.event_id] = envelope
        root_of[envelope.event_id] = root_of.get(envelope.causation_id, envelope)
        found.append((envelope, root_of[envelope.event_id]))
    return found


async def test_a_lost_attempt_and_its_late_report_lead_back_to_commands_and_actors(yard: MemoryYard) -> None:
    first = await yard.attach("node-1", an_inventory(gpu_count=1))
    run = await yard.submit(a_spec(gpu_count=1, on_lost=OnLost.ON_LOST_REQUEUE))
    late = await first.grant()
    await first.report(started(late))
    await first.close()
    await yard.pass_time(11)
    await yard.pass_time(50)
    await yard.pass_time(60)
    second = await yard.attach("node-2", an_inventory(gpu_count=1))
    await second.run_to_the_end(await second.grant())
    back = await yard.attach("node-1", an_inventory(gpu_count=1), held=[held(late)])
    await back.report(finished(late))
    await back.close()
    await second.close()

    events = [event.envelope for event in (await yard.ledger.log.read(Lane.LANE_DOMAIN)).events]
    causes = {event.event_id: event.type for event in events}
    told = [
        (event.type.removeprefix("runyard."), causes.get(event.causation_id, "").removeprefix("runyard."))
        for event in events
        if event.correlation_id == run.run_id
    ]
    assert told == [
        ("project.created", ""),
        ("project.run_numbered", ""),
        ("run.queued", ""),
        ("run.lease_granted", "run.queued"),
        ("node.gpus_reserved", "run.lease_granted"),
        ("run.started", "run.lease_granted"),
        ("run.unreachable", "node.detached"),
        ("run.lease_expired", "run.unreachable"),
        ("run.attempt_failed", "run.lease_expired"),
        ("run.requeued", "run.attempt_failed"),
        ("node.gpus_released", "run.attempt_failed"),
        ("run.lease_granted", "run.requeued"),
        ("node.gpus_reserved", "run.lease_granted"),
        ("run.started", "run.lease_granted"),
        ("run.attempt_exited", "run.started"),
        ("node.gpus_released", "run.attempt_exited"),
        ("run.finished", "run.attempt_exited"),
        ("run.stale_report_received", "run.lease_granted"),
    ]
    late_report = next(event for event in events if event.type == "runyard.run.stale_report_received")
    granted = [event for event in events if event.type == "runyard.run.lease_granted"]
    assert late_report.causation_id == granted[0].event_id
    for event, root in roots(events):
        assert root.command_id, event.type
        assert root.actor.kind != ActorKind.ACTOR_KIND_UNSPECIFIED, event.type


async def test_a_node_tells_one_story_from_attached_to_detached(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await agent.close()
    await yard.pass_time(11)
    again = await yard.attach()
    await again.close()
    events = [event.envelope for event in (await yard.ledger.log.read(Lane.LANE_DOMAIN)).events]
    enrolled, attached, detached, back = events
    assert enrolled.correlation_id == attached.correlation_id == detached.correlation_id
    assert back.correlation_id != detached.correlation_id
    assert detached.actor.id == "scheduler"
