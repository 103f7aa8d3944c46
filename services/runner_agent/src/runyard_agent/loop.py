"""The attempts of a node: taken on, found again after an earlier life of the agent, let go when finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from runyard.agent.v1.agent_service_pb2 import AttemptReport, HeldAttempt, LeaseGrant, StopOrder
from runyard.run.v1.types_pb2 import CauseCode
from runyard_agent.attempt import Attempt
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.domain.attempt import AttemptState, Phase, Stop
from runyard_agent.domain.redaction import Redaction
from runyard_agent.hands_on import AttemptAtHand
from runyard_agent.node import Node
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_agent.telemetry_envelope import Cause
from runyard_core.retry import Backoff, Retries
from runyard_core.task_group import TaskGroup

logger = logging.getLogger(__name__)

_PREPARE_FAILURES_MAX = 3
_BACKOFF = Backoff(first_seconds=1.0, seconds_max=60.0)
# The scheduler counts from answering a renewal, we from sending it; a kill takes its time too.
_LEASE_MARGIN_SECONDS = 1.0
_REMOVED = object()
_FENCED = "the scheduler does not want this attempt any more"


class Attempts:
    """All attempts that this node holds: the uplink's ``Attempts``."""

    def __init__(self, node: Node, store: AttemptStore, telemetry: Telemetry) -> None:
        """Prepare; nothing is read before ``run``."""
        self._node = node
        self._store = store
        self._telemetry = telemetry
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._group: TaskGroup | None = None
        self.reports_changed: Callable[[], None] = lambda: None
        """Called when there is a report to send."""
        self.held_changed: Callable[[], None] = lambda: None
        """Called when an attempt was taken on."""

    async def run(self, ready: asyncio.Event) -> None:
        """Go on with every attempt found on disk (then ``ready`` is set), and with those to come."""
        async with TaskGroup() as group:
            self._group = group
            for record in self._store.load():
                logger.info("found attempt %s again, %s", record.directory.name, record.state.phase.value)
                if record.is_over:
                    self._let_go(record, self._telemetry_of(record))
                else:
                    self._take_on(record)
            self._sweep_marks()
            ready.set()
            await asyncio.Event().wait()

    def held(self) -> Sequence[HeldAttempt]:
        """Give everything that we hold."""
        return [attempt.record.held for attempt in self._attempts.values()]

    def names(self) -> frozenset[str]:
        """Name the folders of all attempts that we hold."""
        return frozenset(attempt.record.directory.name for attempt in self._attempts.values())

    def pending_reports(self) -> Iterator[AttemptReport]:
        """Give the reports that nobody has acknowledged, attempt by attempt."""
        for attempt in list(self._attempts.values()):
            yield from attempt.record.pending_reports()

    def at_hand(self, run_id: str, attempt: int, epoch: int) -> AttemptAtHand | None:
        """Give an attempt whose program runs, for a hands-on session."""
        held = self._attempts.get((run_id, attempt))
        return held.at_hand if held is not None and held.record.grant.epoch == epoch else None

    def all_at_hand(self) -> Sequence[AttemptAtHand]:
        """Give every attempt whose program runs."""
        return [found for held in self._attempts.values() if (found := held.at_hand) is not None]

    async def grant(self, grant: LeaseGrant, expires_at_boottime_seconds: float) -> None:
        """Take an attempt on; nothing happens when it is held."""
        key = (grant.run_id, grant.attempt)
        held = self._attempts.get(key)
        if held is None:
            logger.info("took on attempt %d of run %s", grant.attempt, grant.run_id)
            try:
                record = self._store.create(grant, AttemptState())
            except OSError:
                # Not held, so the scheduler grants it again, here or elsewhere; the others go on.
                logger.exception("an attempt cannot be taken on")
                return
            held = self._take_on(record)
            held.renew(expires_at_boottime_seconds - _LEASE_MARGIN_SECONDS)
        elif held.record.grant.lease_id == grant.lease_id:
            held.record.take_login(grant)
        else:
            logger.error("attempt %d of run %s came again with another lease; ignored", *reversed(key))
        self.held_changed()

    def stop(self, order: StopOrder) -> None:
        """End an attempt, when the order is about the lease that we hold."""
        attempt = self._attempts.get((order.run_id, order.attempt))
        if attempt is None or attempt.record.grant.epoch != order.epoch:
            return
        attempt.stop(Stop(order.cause_code, order.reason, order.grace_seconds))

    def fence(self, fenced: HeldAttempt) -> None:
        """End an attempt that is not wanted any more; its reports are sent all the same."""
        attempt = self._attempts.get((fenced.run_id, fenced.attempt))
        if attempt is None or attempt.record.grant.lease_id != fenced.lease_id:
            return
        grace_seconds = attempt.record.grant.spec.stop_grace_seconds
        attempt.stop(Stop(CauseCode.CAUSE_CODE_AGENT_LOST, _FENCED, grace_seconds))

    def renew(self, lease_id: str, sent_at_boottime_seconds: float) -> None:
        """Count a lease from the moment at which its renewal was sent."""
        for attempt in self._attempts.values():
            grant = attempt.record.grant
            if grant.lease_id == lease_id:
                seconds = grant.lease_milliseconds / 1000 - _LEASE_MARGIN_SECONDS
                attempt.renew(sent_at_boottime_seconds + seconds)

    def acknowledge(self, report_id: str, rejected_reason: str) -> None:
        """The log has a report, or will never take it; an attempt whose last one it was is let go."""
        for attempt in list(self._attempts.values()):
            if not attempt.record.acknowledge(report_id):
                continue
            if rejected_reason:
                name = attempt.record.directory.name
                logger.error("a report of attempt %s was refused: %s", name, rejected_reason)
            self._let_go_when_over(attempt)

    def _take_on(self, record: AttemptRecord) -> Attempt:
        attempt = Attempt(self._node, record, self._telemetry_of(record), lambda: self.reports_changed())
        self._attempts[record.key] = attempt
        assert self._group is not None  # noqa: S101 - run() is what starts everything
        self._group.create_task(self._see_through(attempt))
        return attempt

    async def _see_through(self, attempt: Attempt) -> None:
        """Run an attempt to its last report, whatever it takes."""
        name = attempt.record.directory.name
        retries = Retries(f"attempt {name}", _BACKOFF, logger)
        while True:
            try:
                await attempt.run()
            except Exception as error:
                failure_count = retries.failure_count + 1
                logger.exception("attempt %s failed inside the agent (%d times)", name, failure_count)
                if failure_count >= _PREPARE_FAILURES_MAX:
                    await _give_up(attempt)
                await retries.pause(error)
            else:
                # The last acknowledgement may have come before the attempt itself was through.
                self._let_go_when_over(attempt)
                return

    def _let_go_when_over(self, attempt: Attempt) -> None:
        record = attempt.record
        if record.is_over and record.state.phase is Phase.REPORTING:
            del self._attempts[record.key]
            self._let_go(record, attempt.telemetry)

    def _telemetry_of(self, record: AttemptRecord) -> AttemptTelemetry:
        grant = record.grant
        cause = Cause(grant.correlation_id, grant.traceparent)
        redaction = Redaction([grant.registry_login.password, *(secret.value for secret in grant.secrets)])
        return AttemptTelemetry(self._telemetry, grant.run_id, grant.attempt, cause, redaction)

    def _sweep_marks(self) -> None:
        """Forget the marks of attempts that were let go when the agent died."""
        known = {f"{run_id}/{attempt}" for run_id, attempt in self._attempts}
        if orphans := self._telemetry.spool.marks.keys() - known:
            self._telemetry.record([], marks=dict.fromkeys(orphans))

    def _let_go(self, record: AttemptRecord, telemetry: AttemptTelemetry) -> None:
        logger.info("let go of attempt %s", record.directory.name)
        # In this order: a mark without a folder is swept at the next start, a folder without its mark would
        # be read anew from the first line.
        removing = record.removing()
        is_removed = next(removing, _REMOVED) is _REMOVED
        try:
            telemetry.forget()
        except OSError:
            logger.exception("the mark of attempt %s stays until the next start", record.directory.name)
        if not is_removed:
            assert self._group is not None  # noqa: S101 - run() is what starts everything
            self._group.create_task(_remove_rest(removing))


async def _remove_rest(removing: Iterator[None]) -> None:
    """Delete many files without keeping anybody waiting: leases must be renewed meanwhile."""
    try:
        for _ in removing:
            await asyncio.sleep(0)
    except OSError:
        logger.exception("a folder cannot be removed whole; the next start of the agent tries again")


async def _give_up(attempt: Attempt) -> None:
    try:
        await attempt.give_up("the agent failed to prepare it; see the agent's own log")
    except OSError:
        # The disk is full, most likely: what cannot be written down did not happen.
        logger.exception("attempt %s cannot be given up yet", attempt.record.directory.name)
