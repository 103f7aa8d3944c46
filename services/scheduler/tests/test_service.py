"""The whole scheduler as its process runs it, on a real database and over gRPC."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import CauseCode, OnLost, Outcome, RunSpec, RunState

from .conftest import RunScheduler
from .service_client import CLIENT, Client, attach, client, fresh, reason
from .yard import WAIT_SECONDS, ScriptedAgent, a_spec, a_submit, held, started

pytestmark = pytest.mark.engines

__all__ = ["client"]


async def test_a_run_goes_from_submit_to_its_record(client: Client) -> None:
    agent = await attach(client)
    submitted = await client.submit(a_submit(spec=a_spec(gpu_count=2)))
    assert submitted.run.state == RunState.RUN_STATE_QUEUED
    grant = await agent.grant()
    await agent.run_to_the_end(grant)
    run = await fresh(client, submitted.run.run_id)
    assert (run.state, run.outcome) == (RunState.RUN_STATE_FINISHED, Outcome.OUTCOME_SUCCEEDED)
    assert run.attempts[0].outputs[0].path == "model.pt"
    assert run.attempts[0].telemetry.last_sequence == 7
    assert run.attempts[0].hardware.hostname == "host"
    assert run.submitted_by == "user:alice"
    assert run == await client.get("digits#1")
    node = (await client.node("node-1")).node
    assert len(node.inventory.gpus) == 2


async def test_the_trace_of_the_submit_travels_into_events_and_grant(client: Client) -> None:
    agent = await attach(client)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (*CLIENT, ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    await SchedulerServiceStub(client.channel).SubmitRun(a_submit(), metadata=metadata, timeout=WAIT_SECONDS)
    assert (await agent.grant()).traceparent.split("-")[1] == trace


async def test_a_repeated_request_gets_the_first_answer(client: Client) -> None:
    request = a_submit(title="first")
    first = await client.submit(request)
    assert await client.submit(request) == first
    await client.stop(first.run.run_id)
    assert await client.submit(request) == first
    other = a_submit(title="second")
    other.request_id = request.request_id
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.submit(other)
    assert error.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_concurrent_submits_of_a_project_are_numbered_without_gaps(client: Client) -> None:
    answers = await asyncio.gather(*(client.submit() for _ in range(20)))
    assert sorted(answer.run.number for answer in answers) == list(range(1, 21))


async def test_a_wrong_submit_is_refused_and_leaves_nothing(client: Client) -> None:
    for request, stable in (
        (a_submit("Bad Name"), "BAD_PROJECT_NAME"),
        (a_submit(spec=RunSpec(step="train")), "INVALID_SPEC"),
        (a_submit(spec=a_spec(gpu_count=-1)), "INVALID_SPEC"),
        (a_submit(spec=a_spec(image="x" * 1_100_000)), "SPEC_TOO_LARGE"),
        (a_submit(request_id=""), "REQUEST_ID_REQUIRED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await client.submit(request)
        assert (error.value.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, stable)
    assert (await client.submit()).run.number == 1


async def test_what_no_enrolled_node_can_run_is_refused_but_queues_before_any_has_enrolled(
    client: Client,
) -> None:
    waiting = await client.submit(a_submit(spec=a_spec(gpu_count=64)))
    run = await client.get(waiting.run.run_id, ReadOptions(min_position=waiting.position))
    assert run.waiting_reason == "No node has enrolled yet."
    agent = await attach(client)
    began = (await client.submit()).run
    assert (await agent.grant()).run_id == began.run_id
    run = await client.get(waiting.run.run_id)
    assert run.state == RunState.RUN_STATE_QUEUED
    assert "the largest, node-1, has 2 GPUs. It waits for a larger node" in run.waiting_reason
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.submit(a_submit(spec=a_spec(gpu_count=3)))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(error) == "IMPOSSIBLE_RESOURCES"
    assert "node-1, has 2 GPUs" in str(error.value.details())


async def test_stopping_a_running_run_reaches_its_agent(client: Client) -> None:
    agent = await attach(client)
    run = (await client.submit()).run
    grant = await agent.grant()
    await agent.report(started(grant))
    answer = await client.stop("digits#latest")
    assert answer.run.state == RunState.RUN_STATE_STOPPING
    order = (await agent.receive("stop_order")).stop_order
    assert (order.run_id, order.cause_code) == (run.run_id, CauseCode.CAUSE_CODE_STOPPED_BY_USER)
    assert (await client.stop(run.run_id)).run.state == RunState.RUN_STATE_STOPPING
    await agent.run_to_the_end(grant, exit_code=1)
    assert (await fresh(client, run.run_id)).outcome == Outcome.OUTCOME_STOPPED
    assert (await client.stop(run.run_id)).run.state == RunState.RUN_STATE_FINISHED


async def test_what_has_just_ended_can_be_stopped_again_by_any_name(client: Client) -> None:
    for number in range(1, 6):
        run = (await client.submit()).run
        for name in (run.run_id, run.run_id, f"digits#{number}", "digits#latest"):
            assert (await client.stop(name)).run.state == RunState.RUN_STATE_FINISHED


async def test_silence_is_noticed_without_anybody_asking(run_scheduler: RunScheduler) -> None:
    running = run_scheduler(unreachable_seconds=3.0, lease_seconds=5.0)
    async with running as address, Client(address) as client:
        agent = await attach(client)
        run = (await client.submit(a_submit(spec=a_spec(on_lost=OnLost.ON_LOST_REQUEUE)))).run
        grant = await agent.grant()
        await agent.report(started(grant))
        seen = await client.until(run.run_id, "requeued")
    assert seen == [
        "queued",
        "lease_granted",
        "started",
        "unreachable",
        "lease_expired",
        "attempt_failed",
        "requeued",
    ]


async def test_a_restarted_scheduler_goes_on_from_its_read_model(run_scheduler: RunScheduler) -> None:
    async with run_scheduler() as address, Client(address) as client:
        agent = await attach(client)
        running = (await client.submit(a_submit(spec=a_spec(gpu_count=1)))).run
        grant = await agent.grant()
        await agent.report(started(grant))
        waiting = (await client.submit(a_submit(spec=a_spec(gpu_count=2)))).run
    async with run_scheduler() as address, Client(address) as client:
        agent = ScriptedAgent(address, "node-1")
        client.agents.append(agent)
        welcome = await agent.hello([held(grant)])
        assert list(welcome.fenced_attempts) == []
        assert (await agent.renew(held(grant))).lease_ids == [grant.lease_id]
        assert (await client.get(waiting.run_id)).waiting_reason.startswith("Needs 2 GPUs")
        await agent.run_to_the_end(grant)
        assert (await agent.grant()).run_id == waiting.run_id
        assert (await client.submit()).run.number == 3
        assert (await fresh(client, running.run_id)).outcome == Outcome.OUTCOME_SUCCEEDED


async def test_an_agents_token_opens_no_clients_doors_and_none_opens_nothing(client: Client) -> None:
    stub = SchedulerServiceStub(client.channel)
    agent = (("authorization", "Bearer agent-token-node-1"),)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SubmitRun(a_submit(), metadata=agent, timeout=WAIT_SECONDS)
    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.SubmitRun(a_submit(), timeout=WAIT_SECONDS)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
