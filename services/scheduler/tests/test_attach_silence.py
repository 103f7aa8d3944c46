"""Nodes that fall silent or come back, and a log that is away: who is blamed, and what becomes of leases."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard.agent.v1 import agent_service_pb2 as pb
from runyard.run.v1.types_pb2 import CauseCode, OnLost
from runyard_core.errors import Unavailable
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, Appended

from .yard import (
    MemoryYard,
    a_spec,
    exited,
    finished,
    held,
    memory_yard,
    started,
)

REQUEUE = OnLost.ON_LOST_REQUEUE


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


async def test_an_attempt_that_its_node_does_not_know_is_lost_when_its_lease_ends(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit()
    grant = await agent.grant()
    await agent.report(started(grant))
    for _ in range(7):
        await agent.renew()
        await yard.pass_time(9)
    assert (await yard.types(run.run_id))[-2:] == ["attempt_failed", "finished"]


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
