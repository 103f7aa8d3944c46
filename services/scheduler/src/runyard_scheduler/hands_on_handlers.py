"""The commands of hands-on sessions: recorded when they open and when they close."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import cast

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.events_pb2 import RunHandsOnOpened
from runyard.run.v1.hands_on_pb2 import HandsOnEndReason
from runyard_contracts.ids import CommandId, RunId, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_scheduler.changes import SERVICE, Change, on_behalf_of, run_changes
from runyard_scheduler.domain import run as run_domain
from runyard_scheduler.domain.hands_on import recordable
from runyard_scheduler.domain.run_commands import CloseHandsOn, OpenHandsOn
from runyard_scheduler.domain.run_state import Run
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.process.world import message_of
from runyard_servicekit.context import request_context

FillGrant = Callable[[LeaseGrant], Awaitable[None]]


class HandsOnHandlers:
    """Records sessions in the stream of their run."""

    def __init__(self, ledger: Ledger, clock: Clock, fill_grant: FillGrant | None = None) -> None:
        """Decide on this ledger's world.

        Args:
            ledger: log and world.
            clock: tells when.
            fill_grant: adds to a lease the secrets that its run gets: their values are taken out of commands.
        """
        self._ledger = ledger
        self._clock = clock
        self._fill_grant = fill_grant

    async def open(self, run_id: RunId, asked: OpenHandsOn, command: Sequence[str]) -> None:
        """Record that the RPC's caller opens a session; ``command`` still has to be made fit for the record.

        Raises:
            Rejected: it may not be (see ``domain.hands_on``).
            ResourceExhausted: enough sessions of the run are open.
            Unavailable: the log or the store of secrets did not answer.
        """
        entry = await self._ledger.run(run_id)
        values = await self._secret_values(entry.run) if command else []
        opened = replace(asked, command=recordable(command, values))
        context = request_context(SERVICE, correlation_id=entry.correlation_id)

        async def decide() -> Sequence[Change]:
            now = await self._ledger.run(run_id)
            decided = run_domain.decide(now.run, opened)
            return run_changes(self._ledger.world, now, decided, context, self._clock.now())

        await self._ledger.transact(CommandId(uuid7()), decide)

    async def close(self, run_id: RunId, closed: CloseHandsOn) -> None:
        """Record that a session is over; nothing happens when that is known.

        Raises:
            NotFound: there is no such run.
            Conflict, Unavailable: try again.
        """
        opened = _opening(await self._ledger.history(run_id), closed.session_id)
        causation_id = ""
        if opened is not None:
            causation_id = opened.envelope.event_id
            # Of the session, whatever attempt the run has come to since.
            message = cast("RunHandsOnOpened", opened.message)
            closed = replace(closed, attempt=message.attempt, epoch=message.epoch)

        async def decide() -> Sequence[Change]:
            entry = await self._ledger.run(run_id)
            decided = run_domain.decide(entry.run, closed)
            context, now = on_behalf_of(entry), self._clock.now()
            world = self._ledger.world
            return run_changes(world, entry, decided, context, now, causation_id=causation_id)

        await self._ledger.transact(CommandId(uuid7()), decide)

    async def _secret_values(self, run: Run) -> list[str]:
        if self._fill_grant is None:
            return []
        grant = LeaseGrant(project=run.project, spec=run.spec)
        await self._fill_grant(grant)
        return [*(secret.value for secret in grant.secrets), *filter(None, [grant.registry_login.password])]

    def left_open(self) -> list[tuple[RunId, CloseHandsOn]]:
        """Give how to close the sessions that an earlier life of this process left open."""
        return [
            (entry.run.run_id, _left_open(session_id, entry.run.attempt, entry.run.epoch))
            for entry in self._ledger.world.runs()
            for session_id in sorted(entry.run.open_session_ids)
        ]


def _opening(history: Sequence[RecordedEvent], session_id: str) -> RecordedEvent | None:
    for event in history:
        message = message_of(event)
        if isinstance(message, RunHandsOnOpened) and message.session_id == session_id:
            return event
    return None


def _left_open(session_id: str, attempt: int, epoch: int) -> CloseHandsOn:
    return CloseHandsOn(
        session_id,
        attempt,
        epoch,
        HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED,
        "the scheduler was restarted, and what had passed is not known",
    )
