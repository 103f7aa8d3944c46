"""A run whose secrets nobody can open any more: it ends, and the others on its node go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.event.v1.envelope_pb2 import Lane
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import CauseCode, OnLost, Outcome
from runyard_contracts.ids import RunId
from runyard_core.errors import Corrupt

from .test_deciding_again import again, told
from .yard import a_spec, held, memory_yard, started


async def another_key(grant: LeaseGrant) -> None:
    if grant.project == "sealed":
        raise Corrupt("the key is another one")


@pytest.mark.usefixtures("as_alice")
async def test_a_run_whose_secrets_cannot_be_opened_ends_and_its_node_goes_on(tokens_file: Path) -> None:
    async with memory_yard(tokens_file, fill_secrets=another_key) as yard:
        agent = await yard.attach()
        await yard.submit(a_spec(gpu_count=1, on_lost=OnLost.ON_LOST_REQUEUE))
        grant = await agent.grant()
        await agent.report(started(grant))
        sealed = await yard.submit(a_spec(gpu_count=1), project="sealed")
        await yard.until(lambda: yard.ledger.world.run(sealed.run_id) is None)
        assert (await agent.renew(held(grant))).lease_ids == [grant.lease_id]
        assert await yard.types(sealed.run_id) == ["queued", "lease_granted", "attempt_failed", "finished"]
        ended = (await yard.ledger.history(RunId(sealed.run_id)))[-1].message
        assert isinstance(ended, ev.RunFinished)
        assert (ended.outcome, ended.cause.code) == (
            Outcome.OUTCOME_FAILED,
            CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE,
        )
        assert ended.cause.detail == "the secrets of project sealed: the key is another one"
        events = (await yard.ledger.log.read(Lane.LANE_DOMAIN)).events
        assert told(again(events)) == []
        node = yard.ledger.world.node("node-1").node
        assert [reservation.run_id for reservation in node.reservations] == [grant.run_id]
