"""The open Attach streams: what was heard on them and when, and the way down to each agent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from runyard.agent.v1.agent_service_pb2 import AttachResponse, HandsOnOrder, HeldAttempt
from runyard_contracts.ids import LeaseId, NodeId
from runyard_core.clock import Clock
from runyard_core.errors import ResourceExhausted, RunyardError, Unavailable
from runyard_scheduler.domain.run_state import Lease
from runyard_scheduler.orders import grant_message, stop_message
from runyard_scheduler.process.deadlines import LeaseWatch, NodeWatch
from runyard_scheduler.process.world import RunEntry, World

OUTBOX_MAX = 1_024
"""Most messages that wait to be sent to one agent; more means that it has stopped reading."""

OVERRUN_SECONDS_MAX = 60.0
"""How long a node gets nothing new because it still holds an attempt that was given up."""


class Session:
    """One agent's open stream."""

    def __init__(self, node_id: NodeId) -> None:
        """Open it."""
        self.node_id = node_id
        self.held: frozenset[LeaseId] = frozenset()
        """Leases that the agent said it holds when it was last heard."""
        self.left_out_since_seconds: dict[LeaseId, float] = {}
        """Leases of its node that it has not named since then."""
        self.granted: set[LeaseId] = set()
        """Leases whose grant was sent on this stream."""
        self.overrun_since_seconds: float | None = None
        """Since when the agent has held an attempt that was given up and may still use its GPUs."""
        self.told_ready = False
        """Whether it could take a grant when it was last heard: time alone makes it ready again, too."""
        self._outbox: asyncio.Queue[AttachResponse | RunyardError | None] = asyncio.Queue(OUTBOX_MAX + 1)
        self._ended = False

    def send(self, message: AttachResponse) -> None:
        """Queue a message for the agent; a full queue ends the stream."""
        if self._ended:
            return
        if self._outbox.qsize() >= OUTBOX_MAX:
            self.end(
                ResourceExhausted(
                    f"node {self.node_id} does not read: {OUTBOX_MAX} messages wait for it; attach again",
                    code="AGENT_TOO_SLOW",
                )
            )
            return
        self._outbox.put_nowait(message)

    def end(self, reason: RunyardError | None = None) -> None:
        """End the stream, with an error if one is given, after what is queued."""
        if not self._ended:
            self._ended = True
            self._outbox.put_nowait(reason)

    async def next(self) -> AttachResponse | None:
        """Give the next message to send; None when the stream has ended.

        Raises:
            RunyardError: why the stream ends.
        """
        message = await self._outbox.get()
        if isinstance(message, RunyardError):
            raise message
        return message


class Sessions:
    """Every open stream, and when each lease and node was last heard of, on the monotonic clock."""

    def __init__(self, world: World, clock: Clock, unreachable_seconds: float) -> None:
        """Start with no stream. Leases and nodes count from when they are first seen here.

        So after a restart every live lease gets its full duration again: nobody listened before.
        """
        self._world = world
        self._clock = clock
        self._unreachable_seconds = unreachable_seconds
        self._open: dict[NodeId, Session] = {}
        self._lease_heard: dict[LeaseId, float] = {}
        self._node_heard: dict[NodeId, float] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function, which must return at once, whenever a stream opens or closes."""
        self._listeners.append(listener)

    def ready(self) -> frozenset[NodeId]:
        """Give the nodes that can take a grant now."""
        return frozenset(node_id for node_id, session in self._open.items() if self._is_ready(session))

    def streams(self) -> tuple[Session, ...]:
        """Give every open stream."""
        return tuple(self._open.values())

    def open(self, session: Session, replaced_by: RunyardError) -> None:
        """Make this the node's stream; a former one is ended with an error."""
        former = self._open.get(session.node_id)
        if former is not None:
            self._disconnect(former)
            former.end(replaced_by)
        self._open[session.node_id] = session
        self._tell()

    def close(self, session: Session) -> None:
        """Forget a stream that has ended."""
        if self._open.get(session.node_id) is session:
            del self._open[session.node_id]
            self._disconnect(session)
            self._tell()

    def end(self, node_id: NodeId, reason: RunyardError) -> None:
        """End the stream of a node, if it has one."""
        session = self._open.get(node_id)
        if session is not None:
            session.end(reason)

    def end_all(self) -> None:
        """End every stream, because the scheduler stops."""
        for session in self._open.values():
            session.end(Unavailable("the scheduler is stopping; attach again", code="STOPPING"))

    def heard(
        self,
        session: Session,
        held: Iterable[HeldAttempt],
        renewed: Iterable[LeaseId],
        *,
        overrun: bool = False,
    ) -> None:
        """Note that an agent was heard, what it holds, and which leases that renews.

        Args:
            session: its stream.
            held: the attempts that it said it holds.
            renewed: leases of these that count from now.
            overrun: it holds an attempt that was given up and may still use its GPUs.
        """
        now = self._clock.monotonic_seconds()
        was_ready = self._is_ready(session)
        if not overrun:
            session.overrun_since_seconds = None
        elif session.overrun_since_seconds is None:
            session.overrun_since_seconds = now
        session.held = frozenset(LeaseId(attempt.lease_id) for attempt in held)
        known = session.left_out_since_seconds
        leased = self._world.leases_of(session.node_id).keys() - session.held
        session.left_out_since_seconds = {lease_id: known.get(lease_id, now) for lease_id in leased}
        self._node_heard[session.node_id] = now
        for lease_id in renewed:
            self._lease_heard[lease_id] = now
        ready = self._is_ready(session)
        if not ready == was_ready == session.told_ready:
            self._tell()
        session.told_ready = ready

    def send_grant(self, entry: RunEntry, lease: Lease, *, again: bool = False) -> None:
        """Send a lease to its node, if its stream is open; the lease counts from now.

        What the node holds is sent only ``again``, for the part of it that the node keeps in memory alone.
        """
        session = self._open.get(lease.node_id)
        if session is None or lease.lease_id in session.granted:
            return
        if again or lease.lease_id not in session.held:
            session.granted.add(lease.lease_id)
            self._lease_heard[lease.lease_id] = self._clock.monotonic_seconds()
            session.send(AttachResponse(lease_grant=grant_message(entry, lease)))

    def send_stop(self, entry: RunEntry, lease: Lease) -> None:
        """Send a stop order to the run's node, if its stream is open."""
        session = self._open.get(lease.node_id)
        if session is not None and entry.run.stop is not None:
            session.send(AttachResponse(stop_order=stop_message(entry, lease)))

    def send_hands_on(self, node_id: NodeId, channel_id: str) -> bool:
        """Tell a node's agent to open a stream for a hands-on session; False when its stream is not open."""
        session = self._open.get(node_id)
        if session is None or not self._is_ready(session):
            return False
        session.send(AttachResponse(hands_on_order=HandsOnOrder(channel_id=channel_id)))
        return True

    def lease_watches(self) -> list[LeaseWatch]:
        """Give every live lease as the clock watcher sees it."""
        now = self._clock.monotonic_seconds()
        leases = list(self._world.leases())
        known = self._lease_heard
        self._lease_heard = {lease.lease_id: known.get(lease.lease_id, now) for _, lease in leases}
        return [self._lease_watch(entry, lease, now) for entry, lease in leases]

    def node_watches(self) -> list[NodeWatch]:
        """Give every node that counts as attached, as the clock watcher sees it."""
        now = self._clock.monotonic_seconds()
        attached = [entry.node.node_id for entry in self._world.nodes() if entry.node.attached]
        self._node_heard = {node_id: self._node_heard.get(node_id, now) for node_id in attached}
        return [NodeWatch(node_id, self._node_heard[node_id], node_id in self._open) for node_id in attached]

    def forgive(self, seconds: float) -> None:
        """Give everybody this much more time: the scheduler itself was not listening."""
        self._lease_heard = {lease_id: at + seconds for lease_id, at in self._lease_heard.items()}
        self._node_heard = {node_id: at + seconds for node_id, at in self._node_heard.items()}

    def _is_ready(self, session: Session) -> bool:
        now = self._clock.monotonic_seconds()
        if now - self._node_heard.get(session.node_id, -math.inf) >= self._unreachable_seconds:
            # Its stream may be open only because nobody has noticed yet.
            return False
        since = session.overrun_since_seconds
        return since is None or now - since >= OVERRUN_SECONDS_MAX

    def _lease_watch(self, entry: RunEntry, lease: Lease, now: float) -> LeaseWatch:
        session = self._open.get(lease.node_id)
        spec = entry.run.spec
        # Forgotten once the node counts as detached: only a node that is heard can disown an attempt.
        node_heard_at = self._node_heard.get(lease.node_id, -math.inf)
        # What a stream says may be as old as the network likes, so that once is not enough.
        left_out_since = now if session is None else session.left_out_since_seconds.get(lease.lease_id, now)
        return LeaseWatch(
            run_id=entry.run.run_id,
            node_id=lease.node_id,
            epoch=lease.epoch,
            heard_at_seconds=self._lease_heard[lease.lease_id],
            lease_seconds=lease.milliseconds / 1000,
            stop_grace_seconds=0.0 if spec is None else float(spec.stop_grace_seconds),
            reachable=lease.reachable,
            expired=lease.expired,
            requeues=entry.run.requeues_when_lost,
            disowned=now - left_out_since >= self._unreachable_seconds > now - node_heard_at,
            revoked=self._world.node(lease.node_id).node.access.revoked,
        )

    def _disconnect(self, session: Session) -> None:
        # A grant may have reached the agent as late as now, and the agent counts from its arrival.
        now = self._clock.monotonic_seconds()
        for lease_id in session.granted - session.held:
            if lease_id in self._lease_heard:
                self._lease_heard[lease_id] = now

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
