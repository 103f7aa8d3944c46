"""The Attach stream, with scripted agents over real gRPC on loopback."""

from __future__ import annotations

import contextlib
from pathlib import Path

import grpc
import pytest

from runyard.agent.v1 import agent_service_pb2 as pb
from runyard.run.v1.types_pb2 import CauseCode, OnLost, RunState
from runyard_contracts.ids import StreamName, deterministic_id
from runyard_core.errors import Unavailable
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, Appended

from .yard import (
    MemoryYard,
    ScriptedAgent,
    a_report,
    a_spec,
    an_inventory,
    exited,
    finished,
    held,
    memory_yard,
    started,
)

REQUEUE = OnLost.ON_LOST_REQUEUE


async def code_of(agent: ScriptedAgent) -> grpc.StatusCode:
    """Read until the stream ends, and say how it did."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await agent.read_to_the_end()
    return error.value.code()


async def test_a_submitted_run_is_granted_run_and_finished(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(gpu_count=1))
    grant = await agent.grant()
    assert (grant.run_id, grant.attempt, grant.epoch, list(grant.gpu_uuids)) == (run.run_id, 1, 1, ["GPU-0"])
    assert (grant.submitted_by, grant.number, grant.lease_milliseconds) == ("user:alice", 1, 60_000)
    await agent.run_to_the_end(grant)
    assert await yard.types(run.run_id) == [
        "queued",
        "lease_granted",
        "started",
        "attempt_exited",
        "finished",
    ]
    assert yard.ledger.world.node("node-1").node.reservations == ()
    await agent.close()


async def test_every_event_names_its_run_its_cause_and_its_actor(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(gpu_count=1))
    await agent.run_to_the_end(await agent.grant())
    history = [event.envelope for event in await yard.ledger.history(run.run_id)]
    queued, granted, began, ended, _ = history
    of_node = [event.envelope for event in await yard.ledger.log.read_stream(StreamName("node-node-1"))]
    reserved, released = of_node[-2:]
    assert {event.correlation_id for event in [*history, reserved, released]} == {run.run_id}
    assert (queued.actor.id, granted.actor.id, began.actor.id) == ("alice", "scheduler", "node-1")
    assert (granted.source, began.source) == ("/scheduler", "/agents/node-1")
    assert granted.causation_id == queued.event_id
    assert reserved.causation_id == granted.event_id
    assert released.causation_id == ended.event_id
    # In one command each: both or neither.
    assert reserved.command_id == granted.command_id
    assert released.command_id == ended.command_id
    await agent.close()


async def test_a_run_waits_for_a_node_and_says_why(yard: MemoryYard) -> None:
    run = await yard.submit(a_spec(gpu_count=1))
    await yard.planner.plan_once()
    assert yard.planner.waiting_reason(run.run_id) == "No node has enrolled yet."
    agent = await yard.attach()
    assert (await agent.grant()).run_id == run.run_id
    assert yard.planner.waiting_reason(run.run_id) == ""
    await agent.close()


async def test_the_next_run_starts_when_a_gpu_becomes_free(yard: MemoryYard) -> None:
    agent = await yard.attach(inventory=an_inventory(gpu_count=1))
    await yard.submit(a_spec(gpu_count=1))
    second = await yard.submit(a_spec(gpu_count=1))
    first_grant = await agent.grant()
    await agent.report(started(first_grant))
    await agent.report(exited(first_grant))
    grant = await agent.grant()
    assert (grant.run_id, list(grant.gpu_uuids)) == (second.run_id, ["GPU-0"])
    await agent.close()


async def test_a_renewal_renews_what_is_wanted_and_fences_the_rest(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await yard.submit()
    grant = await agent.grant()
    forged = pb.HeldAttempt(run_id="nobody", attempt=1, epoch=1, lease_id="nothing")
    older = held(grant)
    older.epoch = 7
    answer = await agent.renew(held(grant), forged, older, sequence=5)
    assert answer.sequence == 5
    assert list(answer.lease_ids) == [grant.lease_id]
    assert list(answer.fenced_attempts) == [forged, older]
    await agent.close()


async def test_what_an_agent_keeps_in_memory_alone_comes_again_with_the_grant(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await yard.submit()
    grant = await agent.grant()
    await agent.close()
    kept = held(grant)
    kept.lacks_login = True
    again = await yard.attach(held=[kept])
    assert await again.grant() == grant
    assert list((await again.renew(kept)).lease_ids) == [grant.lease_id]
    await again.close()


async def test_a_grant_is_sent_again_until_it_is_held(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await yard.submit()
    grant = await agent.grant()
    await agent.close()
    again = await yard.attach()
    assert await again.grant() == grant
    await again.close()
    holder = await yard.attach(held=[held(grant)])
    assert (await holder.renew(held(grant))).lease_ids == [grant.lease_id]
    assert not holder.has("lease_grant")
    await holder.close()


async def test_a_second_attach_of_a_node_ends_the_first(yard: MemoryYard) -> None:
    first = await yard.attach()
    second = await yard.attach()
    assert await code_of(first) == grpc.StatusCode.ABORTED
    await yard.submit()
    await second.grant()
    await second.close()


@pytest.mark.parametrize(
    ("token_of", "node_id", "code"),
    [
        ("node-2", "node-1", grpc.StatusCode.PERMISSION_DENIED),
        ("nobody", "nobody", grpc.StatusCode.UNAUTHENTICATED),
        ("node-1", "Node 1", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_agent_speaks_only_for_its_own_node(
    yard: MemoryYard, token_of: str, node_id: str, code: grpc.StatusCode
) -> None:
    agent = ScriptedAgent(yard.address, token_of)
    # The refusal may come before the first message is out.
    with contextlib.suppress(grpc.aio.AioRpcError):
        await agent.call.write(pb.AttachRequest(hello=pb.Hello(node_id=node_id)))
    assert await code_of(agent) == code
    await agent.close()


async def test_a_stream_opens_with_hello_and_has_only_one(yard: MemoryYard) -> None:
    mute = ScriptedAgent(yard.address, "node-1")
    await mute.call.write(pb.AttachRequest(lease_renewal=pb.LeaseRenewal()))
    assert await code_of(mute) == grpc.StatusCode.INVALID_ARGUMENT
    twice = await yard.attach()
    await twice.call.write(pb.AttachRequest(hello=pb.Hello(node_id="node-1")))
    assert await code_of(twice) == grpc.StatusCode.INVALID_ARGUMENT
    await mute.close()
    await twice.close()


async def test_a_repeated_report_is_acknowledged_and_recorded_once(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    grant = await agent.grant()
    for _ in range(3):
        assert (await agent.report(started(grant))).rejected_reason == ""
    await agent.run_to_the_end(grant)
    for late in (started(grant), exited(grant), finished(grant)):
        assert (await agent.report(late)).rejected_reason == ""
    assert (await yard.types(run.run_id)).count("started") == 1
    assert (await yard.types(run.run_id)).count("finished") == 1
    await agent.close()


async def test_a_report_that_never_can_be_taken_is_acknowledged_with_the_reason(yard: MemoryYard) -> None:
    agent = await yard.attach()
    await yard.submit()
    grant = await agent.grant()
    unknown = started(grant)
    unknown.run_id = "nobody"
    ahead = a_report(grant, "ahead")
    ahead.epoch = 9
    ahead.status_detail = "x"
    nameless = started(grant)
    nameless.report_id = "not-a-uuid"
    reasons = [(await agent.report(report)).rejected_reason for report in (unknown, ahead, nameless)]
    assert [reason.partition(":")[0] for reason in reasons] == ["RUN_NOT_FOUND", "UNKNOWN_LEASE", "BAD_ID"]
    status = a_report(grant, "status")
    status.status_detail = "one"
    await agent.report(status)
    status.status_detail = "two"
    assert (await agent.report(status)).rejected_reason.startswith("COMMAND_ID_REUSED")
    await agent.close()


async def test_a_queued_run_is_stopped_at_once(yard: MemoryYard) -> None:
    run = await yard.submit()
    stopped = await yard.stop(run.run_id)
    assert (stopped.state, stopped.cause.code) == (
        RunState.RUN_STATE_FINISHED,
        CauseCode.CAUSE_CODE_STOPPED_BY_USER,
    )
    assert yard.ledger.world.queue == {}


async def test_a_stop_order_is_sent_again_until_the_run_has_ended(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(stop_grace_seconds=3))
    grant = await agent.grant()
    await agent.report(started(grant))
    await yard.stop(run.run_id)
    await agent.close()
    again = await yard.attach(held=[held(grant)])
    order = (await again.receive("stop_order")).stop_order
    assert (order.run_id, order.epoch, order.grace_seconds, order.reason) == (run.run_id, 1, 3, "enough")
    await again.report(exited(grant, exit_code=1))
    await again.report(finished(grant, exit_code=1))
    last = (await yard.ledger.history(run.run_id))[-1].message
    assert last.cause.code == CauseCode.CAUSE_CODE_STOPPED_BY_USER  # type: ignore[attr-defined]
    await again.close()


async def test_a_stopped_run_that_its_node_never_took_ends_without_it(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    await agent.grant()
    await agent.close()
    await yard.stop(run.run_id)
    again = await yard.attach()
    await yard.until(lambda: yard.ledger.world.run(run.run_id) is None)
    assert (await yard.types(run.run_id))[-3:] == ["stop_requested", "attempt_failed", "finished"]
    assert not again.has("lease_grant")
    await again.close()


async def test_a_silent_node_is_recorded_and_its_run_goes_on_when_it_returns(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(gpu_count=1))
    grant = await agent.grant()
    await agent.report(started(grant))
    await agent.renew(held(grant))
    await yard.pass_time(9)
    assert (await yard.types(run.run_id))[-1] == "started"
    await yard.pass_time(2)
    assert (await yard.types(run.run_id))[-1] == "unreachable"
    assert not yard.ledger.world.node("node-1").node.attached
    await yard.pass_time(60)
    assert (await yard.types(run.run_id))[-1] == "lease_expired"
    assert yard.ledger.world.node("node-1").node.reserved_gpu_uuids == {"GPU-0"}
    answer = await agent.renew(held(grant))
    assert list(answer.lease_ids) == [grant.lease_id]
    await yard.until(lambda: yard.ledger.world.node("node-1").node.attached)
    assert (await yard.types(run.run_id))[-1] == "reachable_again"
    await agent.report(exited(grant))
    await agent.report(finished(grant))
    assert (await yard.types(run.run_id))[-1] == "finished"
    await agent.close()


async def test_a_lost_run_that_asked_for_it_runs_elsewhere_and_the_late_report_changes_nothing(
    yard: MemoryYard,
) -> None:
    lost = await yard.attach("node-1")
    run = await yard.submit(a_spec(gpu_count=1, on_lost=REQUEUE, stop_grace_seconds=5))
    grant = await lost.grant()
    await lost.report(started(grant))
    await lost.renew(held(grant))
    await lost.close()
    other = await yard.attach("node-2")
    await yard.pass_time(60)
    # The shim of the lost node gets the stop grace and the margin to end it: 5 s + 15 s.
    await other.renew()
    await yard.pass_time(19)
    assert (await yard.types(run.run_id))[-1] == "lease_expired"
    await other.renew()
    await yard.pass_time(1)
    second = await other.grant()
    assert (second.attempt, second.epoch) == (2, 2)
    assert yard.ledger.world.node("node-1").node.reservations == ()
    returned = await yard.attach("node-1", held=[held(grant)])
    assert list((await returned.renew(held(grant))).fenced_attempts) == [held(grant)]
    assert (await returned.report(finished(grant))).rejected_reason == ""
    assert (await yard.types(run.run_id))[-1] == "stale_report_received"
    await other.run_to_the_end(second)
    assert (await yard.types(run.run_id))[-1] == "finished"
    await returned.close()
    await other.close()


async def test_an_expired_attempt_that_is_to_be_requeued_is_fenced_and_its_own_report_requeues_it(
    yard: MemoryYard,
) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(on_lost=REQUEUE))
    grant = await agent.grant()
    await agent.report(started(grant))
    await agent.renew(held(grant))
    await yard.pass_time(61)
    assert list((await agent.renew(held(grant))).fenced_attempts) == [held(grant)]
    ended = exited(grant, exit_code=1)
    ended.exited.cause.code = CauseCode.CAUSE_CODE_AGENT_LOST
    await agent.report(ended)
    await agent.renew()
    second = await agent.grant()
    assert (second.run_id, second.attempt) == (run.run_id, 2)
    await agent.close()


async def test_an_attempt_that_its_node_does_not_know_is_lost_when_its_lease_ends(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    grant = await agent.grant()
    await agent.report(started(grant))
    for _ in range(7):
        await agent.renew()
        await yard.pass_time(9)
    assert (await yard.types(run.run_id))[-2:] == ["attempt_failed", "finished"]
    await agent.close()


async def test_a_node_gets_nothing_new_while_it_holds_what_was_given_up(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(gpu_count=2))
    grant = await agent.grant()
    await agent.report(started(grant))
    await agent.renew(held(grant))
    await agent.close()
    await yard.pass_time(61)
    await yard.stop(run.run_id)
    again = await yard.attach(held=[held(grant)])
    waiting = await yard.submit(a_spec(gpu_count=2))
    await again.renew(held(grant))
    await yard.planner.plan_once()
    assert not again.has("lease_grant")
    assert yard.planner.waiting_reason(waiting.run_id)
    await again.renew()
    assert (await again.grant()).run_id == waiting.run_id
    await again.close()


async def test_a_process_that_was_stopped_blames_nobody(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    grant = await agent.grant()
    await agent.renew(held(grant))
    yard.sessions.lease_watches()
    yard.sessions.node_watches()
    yard.sessions.forgive(100)
    await yard.pass_time(105)
    assert (await yard.types(run.run_id))[-1] == "lease_granted"
    await agent.close()


async def test_a_foreign_process_and_a_changed_inventory_are_recorded(yard: MemoryYard) -> None:
    agent = await yard.attach()
    seen = pb.ForeignProcess(report_id=deterministic_id("foreign", 1), gpu_uuid="GPU-0", pid=7)
    await agent.call.write(pb.AttachRequest(foreign_process=seen))
    await agent.receive("report_acknowledged")
    await agent.call.write(pb.AttachRequest(inventory=an_inventory(gpu_count=1)))
    await yard.until(lambda: len(yard.ledger.world.node("node-1").node.free_gpu_uuids) == 1)
    types = [event.type for event in await yard.ledger.log.read_stream(StreamName("node-node-1"))]
    assert types[-2:] == ["runyard.node.foreign_process_seen", "runyard.node.inventory_changed"]
    await agent.close()


@pytest.mark.system
async def test_an_agent_that_stops_reading_is_sent_away(yard: MemoryYard) -> None:
    agent = await yard.attach()
    (session,) = yard.sessions.streams()
    for _ in range(2_000):
        session.send(pb.AttachResponse(lease_renewed=pb.LeaseRenewed()))
    assert await code_of(agent) == grpc.StatusCode.RESOURCE_EXHAUSTED
    await agent.close()


class FlakyLog(MemoryEventLog):
    """A memory log that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    async def append(self, command: AppendCommand) -> Appended:
        if self.is_away:
            raise Unavailable("away")
        return await super().append(command)


@pytest.mark.system
async def test_leases_are_renewed_while_the_log_is_away_and_reports_are_recorded_after(
    tokens_file: Path, as_alice: None
) -> None:
    log = FlakyLog()
    async with memory_yard(tokens_file, log) as yard:
        agent = await yard.attach()
        run = await yard.submit()
        grant = await agent.grant()
        log.is_away = True
        await agent.call.write(pb.AttachRequest(report=started(grant)))
        assert list((await agent.renew(held(grant))).lease_ids) == [grant.lease_id]
        assert not agent.has("report_acknowledged")
        log.is_away = False
        await agent.receive("report_acknowledged")
        assert (await yard.types(run.run_id))[-1] == "started"
        await agent.close()


async def test_a_restarted_scheduler_knows_what_it_granted_and_gives_every_lease_its_time_again(
    tokens_file: Path, as_alice: None
) -> None:
    log = MemoryEventLog()
    async with memory_yard(tokens_file, log) as yard:
        agent = await yard.attach()
        run = await yard.submit(a_spec(gpu_count=1))
        grant = await agent.grant()
        await agent.report(started(grant))
        await agent.close()
    async with memory_yard(tokens_file, log) as yard:
        await yard.pass_time(0)
        await yard.pass_time(9)
        assert (await yard.types(run.run_id))[-1] == "started"
        agent = await yard.attach(held=[held(grant)])
        assert list((await agent.renew(held(grant))).lease_ids) == [grant.lease_id]
        waiting = await yard.submit(a_spec(gpu_count=2))
        await yard.planner.plan_once()
        assert not agent.has("lease_grant")
        await agent.report(exited(grant))
        assert (await agent.grant()).run_id == waiting.run_id
        assert (await agent.report(finished(grant))).rejected_reason == ""
        await agent.close()
