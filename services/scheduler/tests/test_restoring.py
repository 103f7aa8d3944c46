"""The world that the read model gives is the world that the log gives: after any event of a lease."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from runyard.agent.v1.agent_service_pb2 import AttemptReport, ForeignProcess, LeaseGrant
from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1.events_pb2 import RunHandsOnClosed, RunHandsOnOpened
from runyard.run.v1.types_pb2 import CauseCode, OnLost, RunState
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import NodeId, stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import RowKey, TableSpec
from runyard_scheduler.process.restoring import node_entry, run_entry
from runyard_scheduler.process.world import World
from runyard_scheduler.projections.nodes import NodeRow
from runyard_scheduler.projections.run_parts import RunPartRow
from runyard_scheduler.projections.runs import RunRow
from runyard_scheduler.projections.scheduler import SchedulerProjection

from .yard import MemoryYard, a_report, a_spec, held, started

SILENCE = ("unreachable", "lease_expired", "reachable_again")
WEB = "https://example.com/data.csv"


class Newest:
    """The newest rows, as ``Rows``."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, object] = {}

    def get(self, table: TableSpec[object], *key: str | int) -> object | None:
        return self.rows.get(RowKey(table.name, key))


def foreign(pid: int, *, gone: bool = False) -> ForeignProcess:
    return ForeignProcess(report_id=uuid7(), gpu_uuid="GPU-1", pid=pid, gone=gone)


def captured(grant: LeaseGrant) -> AttemptReport:
    report = a_report(grant, "environment_captured")
    image = report.environment_captured
    image.image, image.image_id = "ghcr.io/team/model:1", f"sha256:{'a' * 64}"
    image.image_repo_digests.append(f"ghcr.io/team/model@sha256:{'b' * 64}")
    return report


async def test_the_next_attempt_is_granted_the_image_of_the_first(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await yard.submit(a_spec(gpu_count=1, on_lost=OnLost.ON_LOST_REQUEUE))
    grant = await agent.grant()
    assert grant.image_pin == ""
    await agent.report(captured(grant))
    await agent.report(started(grant))
    lost = a_report(grant, "exited")
    lost.exited.cause.code = CauseCode.CAUSE_CODE_NODE_REBOOT
    await agent.report(lost)
    second = await agent.grant()
    assert (second.attempt, second.image_pin) == (2, f"ghcr.io/team/model@sha256:{'b' * 64}")


async def test_the_next_attempt_is_granted_the_files_that_the_first_found_outside(yard: MemoryYard) -> None:
    agent = await yard.attach()
    stored = f"datum://{'a' * 64}"
    spec = a_spec(gpu_count=1, on_lost=OnLost.ON_LOST_REQUEUE)
    spec.inputs.add(name="set", uris=[stored, WEB]).files.add(uri=stored, path="a", sha256="a" * 64)
    spec.inputs.add(name="late", uris=[WEB], on_demand=True)
    await yard.submit(spec)
    grant = await agent.grant()
    assert grant.spec.inputs == spec.inputs
    report = started(grant)
    report.started.inputs.extend(spec.inputs)
    found = report.started.inputs[0].files.add(uri=WEB, path="data.csv", sha256="b" * 64, moved_bytes=7)
    await agent.report(report)
    lost = a_report(grant, "exited")
    lost.exited.cause.code = CauseCode.CAUSE_CODE_NODE_REBOOT
    await agent.report(lost)

    second = await agent.grant()

    found.ClearField("moved_bytes")
    spec.inputs[0].files.append(found)
    assert second.attempt == 2
    assert second.spec.inputs == spec.inputs


async def test_a_lease_is_restored_as_the_log_tells_it_after_each_event(yard: MemoryYard) -> None:
    agent = await yard.attach()
    spec = a_spec(gpu_count=1)
    spec.inputs.add(name="set", uris=[WEB])
    await yard.submit(spec)
    grant = await agent.grant()
    await agent.report(captured(grant))
    report = started(grant)
    report.started.inputs.add(name="set").files.add(uri=WEB, path="data.csv", sha256="b" * 64, moved_bytes=7)
    await agent.report(report)
    await yard.pass_time(61)
    await agent.renew(held(grant))
    await yard.until(lambda: any(lease.reachable for _, lease in yard.ledger.world.leases()))
    for process in (foreign(7), foreign(8), foreign(7, gone=True)):
        await yard.nodes.see_foreign_process(NodeId("node-1"), process)
    await yard.pass_time(11)
    await agent.close()

    told = [name for name in restored_after_each(await events_of(yard)) if name in SILENCE]
    assert told == ["unreachable", "lease_expired", "reachable_again", "unreachable"]


async def test_a_session_that_is_open_is_restored_as_open(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    grant = await agent.grant()
    await agent.report(started(grant))
    await agent.close()
    events = await events_of(yard)
    for session_id in ("s1", "s2"):
        append(
            events, RunHandsOnOpened(run_id=run.run_id, attempt=1, epoch=grant.epoch, session_id=session_id)
        )
    append(events, RunHandsOnClosed(run_id=run.run_id, attempt=1, epoch=grant.epoch, session_id="s1"))
    assert restored_after_each(events)[-3:] == ["hands_on_opened", "hands_on_opened", "hands_on_closed"]


async def events_of(yard: MemoryYard) -> list[RecordedEvent]:
    return list((await yard.ledger.log.read(Lane.LANE_DOMAIN)).events)


def append(events: list[RecordedEvent], message: RunHandsOnOpened | RunHandsOnClosed) -> None:
    """Add an event to those of its run."""
    stream = stream_name("run", message.run_id)
    last = [event.envelope for event in events if event.envelope.stream == stream][-1]
    context = Context(parse_actor("service:scheduler"), last.correlation_id, source="/scheduler")
    envelope = wrap(message, stream, context, last.occurred_at.ToDatetime(UTC))
    envelope.position, envelope.stream_version = len(events) + 1, last.stream_version + 1
    events.append(RecordedEvent(envelope))


def restored_after_each(events: Iterable[RecordedEvent]) -> list[str]:
    """Compare what the rows and what the log give after each event; give the types of those of runs."""
    types, newest, world = [], Newest(), World()
    projection = SchedulerProjection()
    for event in events:
        world.apply(event)
        types.append(event.type.removeprefix("runyard.run."))
        for put in projection.apply(event, newest):  # type: ignore[arg-type] # holds every table's rows
            newest.rows[RowKey(put.table.name, put.table.key_of(put.row))] = put.row
        parts: dict[str, list[bytes]] = {}
        for row in newest.rows.values():
            if isinstance(row, RunPartRow):
                parts.setdefault(row.run_id, []).append(row.document)
        restored = [
            run_entry(row, parts.get(row.run_id, ()))
            for row in newest.rows.values()
            if isinstance(row, RunRow) and row.state != RunState.RUN_STATE_FINISHED
        ]
        assert restored == list(world.runs()), event
        nodes = [node_entry(row) for row in newest.rows.values() if isinstance(row, NodeRow)]
        assert nodes == list(world.nodes()), event
    return types
