"""Which of the attempts that an agent holds are still wanted: the others are fenced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from runyard.agent.v1.agent_service_pb2 import HeldAttempt
from runyard_contracts.ids import LeaseId, NodeId
from runyard_core.errors import NotFound
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.world import RunEntry


@dataclass(slots=True)
class Judged:
    """What was found of the attempts that an agent holds."""

    renewed: list[LeaseId] = field(default_factory=list)
    """Live leases: they count from now."""
    unreachable: list[RunEntry] = field(default_factory=list)
    """Runs of renewed leases that counted as unreachable."""
    fenced: list[HeldAttempt] = field(default_factory=list)
    """No longer wanted: the agent is to end them."""
    overrun: bool = False
    """One of the fenced was given up, so that its program may still run."""


async def judge(ledger: Ledger, node_id: NodeId, held: Iterable[HeldAttempt]) -> Judged:
    """Compare what an agent holds with its leases.

    Raises:
        Unavailable: the log, which is asked before anything is fenced, did not answer.
    """
    judged = Judged()
    for attempt in held:
        entry = ledger.world.run(attempt.run_id)
        if entry is None or not _is_wanted(entry, node_id, attempt):
            # Ending a training is for ever: only the log's own word is good enough.
            entry = await _in_log(ledger, attempt.run_id)
        if entry is not None and _is_wanted(entry, node_id, attempt):
            judged.renewed.append(LeaseId(attempt.lease_id))
            if entry.run.lease is not None and not entry.run.lease.reachable:
                judged.unreachable.append(entry)
        else:
            judged.fenced.append(attempt)
            judged.overrun = judged.overrun or not _has_ended(entry, attempt)
    return judged


async def _in_log(ledger: Ledger, run_id: str) -> RunEntry | None:
    try:
        return await ledger.run_in_log(run_id)
    except NotFound:
        return None


def _is_wanted(entry: RunEntry, node_id: NodeId, attempt: HeldAttempt) -> bool:
    lease = entry.run.live_lease
    return (
        lease is not None
        and (lease.lease_id, lease.epoch, lease.node_id) == (attempt.lease_id, attempt.epoch, node_id)
        # Its shim has ended it, and it is about to be queued again.
        and not (lease.expired and entry.run.requeues_when_lost)
    )


def _has_ended(entry: RunEntry | None, attempt: HeldAttempt) -> bool:
    lease = None if entry is None else entry.run.lease
    return lease is not None and lease.lease_id == attempt.lease_id and not lease.holds_gpus
