"""The Attach stream, with a scripted agent over real gRPC on loopback."""

from __future__ import annotations

from .yard import MemoryYard, a_spec


async def test_a_submitted_run_is_granted_run_and_finished(yard: MemoryYard) -> None:
    agent = await yard.attach()
    run = await yard.submit(a_spec(gpu_count=1))
    grant = await agent.grant()
    assert (grant.run_id, grant.attempt, grant.epoch, list(grant.gpu_uuids)) == (run.run_id, 1, 1, ["GPU-0"])
    assert grant.submitted_by == "user:alice"
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
