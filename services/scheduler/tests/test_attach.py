"""The Attach stream, with scripted agents over real gRPC on loopback."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import grpc
import pytest

from runyard.agent.v1 import agent_service_pb2 as pb
from runyard.run.v1.types_pb2 import CauseCode, RunState
from runyard_contracts.ids import StreamName, deterministic_id

from .yard import (
    MemoryYard,
    ScriptedAgent,
    a_report,
    a_spec,
    an_inventory,
    exited,
    finished,
    held,
    started,
)


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


async def test_a_run_waits_for_a_node_and_says_why(yard: MemoryYard) -> None:
    run = await yard.submit(a_spec(gpu_count=1))
    await yard.planner.plan_once()
    assert yard.planner.waiting_reason(run.run_id) == "No node has enrolled yet."
    agent = await yard.attach()
    assert (await agent.grant()).run_id == run.run_id
    assert yard.planner.waiting_reason(run.run_id) == ""


async def test_the_next_run_starts_when_a_gpu_becomes_free(yard: MemoryYard) -> None:
    agent = await yard.attach(inventory=an_inventory(gpu_count=1))
    await yard.submit(a_spec(gpu_count=1))
    second = await yard.submit(a_spec(gpu_count=1))
    first_grant = await agent.grant()
    await agent.report(started(first_grant))
    await agent.report(exited(first_grant))
    grant = await agent.grant()
    assert (grant.run_id, list(grant.gpu_uuids)) == (second.run_id, ["GPU-0"])


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


async def test_a_grant_says_who_asked_for_the_run_and_when(yard: MemoryYard) -> None:
    run = await yard.submit()
    yard.clock.advance(timedelta(minutes=5))
    agent = await yard.attach()
    grant = await agent.grant()
    assert (grant.submitted_by, grant.queued_at) == ("user:alice", run.queued_at)


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


async def test_a_foreign_process_and_a_changed_inventory_are_recorded(yard: MemoryYard) -> None:
    agent = await yard.attach()
    seen = pb.ForeignProcess(report_id=deterministic_id("foreign", 1), gpu_uuid="GPU-0", pid=7)
    await agent.call.write(pb.AttachRequest(foreign_process=seen))
    await agent.receive("report_acknowledged")
    await agent.call.write(pb.AttachRequest(inventory=an_inventory(gpu_count=1)))
    await yard.until(lambda: len(yard.ledger.world.node("node-1").node.free_gpu_uuids) == 1)
    types = [event.type for event in await yard.ledger.log.read_stream(StreamName("node-node-1"))]
    assert types[-2:] == ["runyard.node.foreign_process_seen", "runyard.node.inventory_changed"]


@pytest.mark.system
async def test_an_agent_that_stops_reading_is_sent_away(yard: MemoryYard) -> None:
    agent = await yard.attach()
    (session,) = yard.sessions.streams()
    for _ in range(2_000):
        session.send(pb.AttachResponse(lease_renewed=pb.LeaseRenewed()))
    assert await code_of(agent) == grpc.StatusCode.RESOURCE_EXHAUSTED
