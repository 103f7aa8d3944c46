"""One agent's side of its Attach stream: what it says, and what is done about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial

import structlog

from runyard.agent.v1.agent_service_pb2 import (
    AttachRequest,
    AttachResponse,
    AttemptReport,
    ForeignProcess,
    HeldAttempt,
    LeaseRenewal,
    LeaseRenewed,
    ReportAcknowledged,
)
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_contracts.ids import LeaseId
from runyard_core.errors import (
    Conflict,
    IdReused,
    InvalidInput,
    NotFound,
    Rejected,
    RunyardError,
    Unavailable,
)
from runyard_core.retry import Backoff, Retries, retried
from runyard_scheduler.fencing import Judged, judge
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.process.deadlines import Lost
from runyard_scheduler.sessions import Session, Sessions

JOBS_MAX = 256
"""Most reports of one agent that wait to be recorded; more make the agent wait."""
BACKOFF = Backoff(first_seconds=0.5, seconds_max=0.5)
"""Before a report is recorded again when the log was away."""

_REFUSED_FOR_GOOD = (InvalidInput, Rejected, NotFound, IdReused)

log = structlog.get_logger("runyard.scheduler.agents")

Job = Callable[[], Awaitable[None]]


class Conversation:
    """Listens to one agent, and records what it says in the order in which it says it.

    Renewals are answered at once, from memory; what must be recorded waits in a queue of its own, so that
    leases are renewed also while the log is away.
    """

    def __init__(
        self,
        session: Session,
        inventory: NodeInventory,
        ledger: Ledger,
        sessions: Sessions,
        leases: LeaseHandlers,
        nodes: NodeHandlers,
    ) -> None:
        """Begin with what the agent said in its Hello."""
        self._session = session
        self._inventory = inventory
        self._ledger = ledger
        self._sessions = sessions
        self._leases = leases
        self._nodes = nodes
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(JOBS_MAX)

    def begin(self, held: Iterable[HeldAttempt], judged: Judged) -> None:
        """Bring the agent up to date: grants that it does not hold yet, stops that it may not know."""
        self._note(held, judged)
        lacking = {attempt.lease_id for attempt in held if attempt.lacks_login}
        for lease_id, entry in self._ledger.world.leases_of(self._session.node_id).items():
            lease = entry.run.live_lease
            if lease is None or not lease.holds_gpus:
                continue
            if lease_id in self._session.held:
                self._sessions.send_stop(entry, lease)
                if lease_id in lacking:
                    self._sessions.send_grant(entry, lease, again=True)
            elif lease.started:
                continue  # It was lost there. Its lease will run out, unless a report comes first.
            elif entry.run.stop is not None:
                self._give_up(Lost(entry.run.run_id, lease.epoch, "stopped before its node had taken it"))
            else:
                self._sessions.send_grant(entry, lease)

    async def listen(self, requests: AsyncIterator[AttachRequest]) -> None:
        """Take what the agent says until its stream ends."""
        try:
            async for request in requests:
                await self._take(request)
            self._session.end()
        except RunyardError as error:
            self._session.end(error)
        except Exception:  # the top of an agent's stream: one broken agent must not take the others along
            log.exception("attach stream failed", node_id=self._session.node_id)
            self._session.end(Unavailable("the stream failed; attach again", code="ATTACH_FAILED"))

    async def record(self) -> None:
        """Do what was said, in order, until cancelled; what the log cannot take now is tried again."""
        retries = Retries(f"recording what node {self._session.node_id} says", BACKOFF, log)
        while True:
            job = await self._jobs.get()
            try:
                await retried(job, (Unavailable, Conflict), retries)
            except Exception:  # the top of an agent's stream
                log.exception("not recorded", node_id=self._session.node_id)
                self._session.end(Unavailable("recording failed; attach again", code="ATTACH_FAILED"))
                return

    async def _take(self, request: AttachRequest) -> None:
        match request.WhichOneof("message"):
            case "lease_renewal":
                await self._renew(request.lease_renewal)
            case "report":
                report = request.report
                await self._jobs.put(lambda: self._report(report))
            case "foreign_process":
                seen = request.foreign_process
                await self._jobs.put(lambda: self._foreign(seen))
            case "inventory":
                inventory = self._inventory = request.inventory
                node_id = self._session.node_id
                await self._jobs.put(lambda: self._nodes.change_inventory(node_id, inventory))
            case "hello":
                raise InvalidInput("a second Hello on one stream: open a new one", code="HELLO_TWICE")
            case _:
                # A message of a newer agent: nothing that this scheduler could do about it.
                log.warning("unknown message", node_id=self._session.node_id)

    async def _renew(self, renewal: LeaseRenewal) -> None:
        node_id = self._session.node_id
        try:
            judged = await judge(self._ledger, node_id, renewal.held_attempts)
        except Unavailable as error:
            # Neither renewed nor fenced: what is known to be wanted comes again with the next heartbeat.
            log.warning("renewal not judged", node_id=node_id, reason=str(error))
            judged = Judged(renewed=self._known(renewal.held_attempts))
        if not self._ledger.world.node(node_id).node.attached:
            self._later(lambda: self._nodes.attach(node_id, self._inventory))
        # Behind the attachment: that the node is back is why its attempts are reachable again.
        self._note(renewal.held_attempts, judged)
        self._session.send(
            AttachResponse(
                lease_renewed=LeaseRenewed(
                    sequence=renewal.sequence, lease_ids=judged.renewed, fenced_attempts=judged.fenced
                )
            )
        )

    def _note(self, held: Iterable[HeldAttempt], judged: Judged) -> None:
        self._sessions.heard(self._session, held, judged.renewed, overrun=judged.overrun)
        for entry in judged.unreachable:
            run_id, epoch = entry.run.run_id, entry.run.epoch
            self._later(partial(self._leases.mark_reachable, run_id, epoch))
        for lease_id, entry in self._ledger.world.leases_of(self._session.node_id).items():
            lease = entry.run.live_lease
            if lease is not None and lease.failed and lease_id not in self._session.held:
                self._give_up(Lost(entry.run.run_id, lease.epoch, "its node has nothing more of it"))

    def _known(self, held: Iterable[HeldAttempt]) -> list[LeaseId]:
        leased = self._ledger.world.leases_of(self._session.node_id)
        return [LeaseId(attempt.lease_id) for attempt in held if attempt.lease_id in leased]

    def _give_up(self, lost: Lost) -> None:
        self._later(lambda: self._leases.give_up(lost))

    def _later(self, job: Job) -> None:
        # Every heartbeat asks again for what was not done, so that a full queue loses nothing.
        if not self._jobs.full():
            self._jobs.put_nowait(job)

    async def _report(self, report: AttemptReport) -> None:
        refused = await _refusal(self._nodes.report(self._session.node_id, report))
        self._acknowledge(report.report_id, refused)

    async def _foreign(self, seen: ForeignProcess) -> None:
        refused = await _refusal(self._nodes.see_foreign_process(self._session.node_id, seen))
        self._acknowledge(seen.report_id, refused)

    def _acknowledge(self, report_id: str, refused: str) -> None:
        if refused:
            log.warning("report refused", node_id=self._session.node_id, report_id=report_id, reason=refused)
        acknowledged = ReportAcknowledged(report_id=report_id, rejected_reason=refused)
        self._session.send(AttachResponse(report_acknowledged=acknowledged))


async def _refusal(recording: Awaitable[None]) -> str:
    """Wait for a report to be recorded; gives why it never will be, or nothing."""
    try:
        await recording
    except _REFUSED_FOR_GOOD as error:
        return f"{error.code}: {error.message}"
    return ""
