"""The open hands-on sessions: joins a client's stream with the one that the node's agent opens for it.

The agent only dials out, so an order on its Attach stream asks it to join. A session is recorded before
anything is started, and again when it is over, whatever ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import structlog

from runyard.agent.v1.hands_on_service_pb2 import ForwardTask, JoinBegin, JoinRequest, JoinResponse, JoinTask
from runyard_contracts.ids import NodeId, RunId, uuid7
from runyard_core.errors import Conflict, NotFound, Rejected, ResourceExhausted, RunyardError, Unavailable
from runyard_core.retry import Backoff, Retries, retried
from runyard_core.task_group import TaskGroup
from runyard_scheduler.domain.hands_on import attempt_at_hand
from runyard_scheduler.domain.run_commands import CloseHandsOn, OpenHandsOn
from runyard_scheduler.hands_on_channel import Channel
from runyard_scheduler.hands_on_handlers import HandsOnHandlers
from runyard_scheduler.hands_on_session import HandsOnSession
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.sessions import Sessions

JOIN_SECONDS_MAX = 15.0
"""How long the agent has to join and to say whether it takes the task."""
CONNECTIONS_MAX = 128
"""Most connections of a forwarded port that are open at once."""
SESSIONS_MAX = 500
"""Most sessions of all runs that are open, or opening."""
_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)
_LAST_RECORDS_SECONDS_MAX = 5.0

log = structlog.get_logger("runyard.scheduler.hands_on")


class HandsOn:
    """All open sessions."""

    def __init__(
        self,
        ledger: Ledger,
        agents: Sessions,
        handlers: HandsOnHandlers,
        tasks: TaskGroup,
        idle_seconds: float,
    ) -> None:
        """Serve until the task group ends; a session in which nothing passes for ``idle_seconds`` ends."""
        self._ledger = ledger
        self._agents = agents
        self._handlers = handlers
        self._tasks = tasks
        self._idle_seconds = idle_seconds
        self._sessions: dict[str, HandsOnSession] = {}
        self._session_count = 0
        self._awaited: dict[str, Channel] = {}
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._closing: set[asyncio.Task[None]] = set()
        ledger.on_change(self._look)

    @asynccontextmanager
    async def session(self, run_id: RunId, task: JoinTask) -> AsyncIterator[HandsOnSession]:
        """Open a session for the RPC's caller while the block runs. It is recorded before the block begins.

        Raises:
            NotFound: there is no such run.
            Rejected: nothing of it runs (RUN_NOT_RUNNING), or the agent refuses.
            ResourceExhausted: there are too many sessions (TOO_MANY_SESSIONS).
            Unavailable: the agent is not there or does not join (NODE_UNREACHABLE), or the log is away.
        """
        if self._session_count >= SESSIONS_MAX:
            raise ResourceExhausted(
                f"{SESSIONS_MAX} sessions are open; close one, or try again later", code="TOO_MANY_SESSIONS"
            )
        self._session_count += 1
        try:
            async with self._opened(run_id, task) as session:
                yield session
        finally:
            self._session_count -= 1

    @asynccontextmanager
    async def _opened(self, run_id: RunId, task: JoinTask) -> AsyncIterator[HandsOnSession]:
        run = (await self._ledger.run(run_id)).run
        lease = attempt_at_hand(run)
        task.run_id, task.attempt, task.epoch = run.run_id, lease.attempt, lease.epoch
        session = HandsOnSession(uuid7(), run, lease, task)
        error: RunyardError | None = None
        recording: asyncio.Task[None] | None = None
        try:
            accepted = await self._joined(session.channel)
            asked = OpenHandsOn(
                session.session_id, lease.epoch, terminal=task.exec.HasField("terminal"), port=session.port
            )
            # An agent that leaves arguments out must not be able to hide them.
            command = accepted.accepted.command or task.exec.command
            # A task of its own: a client that leaves now must not leave a session that nobody closes.
            recording = asyncio.create_task(self._handlers.open(run.run_id, asked, command))
            await asyncio.shield(recording)
            self._sessions[session.session_id] = session
            self._none_open.clear()
            self._end_when_idle(session)
            await session.channel.to_agent.put(JoinResponse(begin=JoinBegin()))
            yield session
        except RunyardError as raised:
            error = raised
            raise
        finally:
            self._sessions.pop(session.session_id, None)
            session.end(error)
            if recording is not None:
                # A task of its own: whoever left has cancelled the one that served him.
                self._spawn(self._close(session.run_id, session.closed(error), recording))
            if not self._sessions:
                self._none_open.set()

    @asynccontextmanager
    async def connection(self, session_id: str) -> AsyncIterator[tuple[HandsOnSession, Channel]]:
        """Open a connection of a forwarded port while the block runs.

        Raises:
            NotFound: there is no such open session (SESSION_NOT_FOUND).
            Rejected: the program does not accept it (CONNECTION_REFUSED).
            ResourceExhausted: enough are open (TOO_MANY_CONNECTIONS).
            Unavailable: the agent is not there or does not join.
        """
        session = self._sessions.get(session_id)
        if session is None or not session.port:
            raise NotFound("there is no such session, or it has ended", code="SESSION_NOT_FOUND")
        if len(session.connections) >= CONNECTIONS_MAX:
            raise ResourceExhausted(
                f"{CONNECTIONS_MAX} connections to the port are open", code="TOO_MANY_CONNECTIONS"
            )
        task = JoinTask()
        task.CopyFrom(session.channel.task)
        task.connect.CopyFrom(ForwardTask(port=session.port))
        channel = Channel(uuid7(), session.node_id, task, session.received)
        session.connections.add(channel)
        session.connection_count += 1
        try:
            await self._joined(channel)
            yield session, channel
        finally:
            session.connections.discard(channel)
            channel.end()

    def join(self, channel_id: str, node_id: str) -> Channel:
        """Give the channel that an agent was ordered to join, once.

        Raises:
            NotFound: nobody waits for it (any more) (SESSION_NOT_FOUND).
        """
        channel = self._awaited.pop(channel_id, None)
        if channel is None or channel.node_id != node_id:
            raise NotFound(f"nobody waits for channel {channel_id!r}", code="SESSION_NOT_FOUND")
        return channel

    def close_left_open(self) -> None:
        """Record the end of sessions that an earlier life of this process left open. Call before serving."""
        for run_id, closed in self._handlers.left_open():
            self._spawn(self._close(run_id, closed))

    async def end_all(self) -> None:
        """End every session, because the scheduler stops; returns when that is recorded, or soon."""
        for session in list(self._sessions.values()):
            session.end(
                Unavailable(
                    "the scheduler is stopping: hands-on sessions end with it, runs go on", code="STOPPING"
                )
            )
        # The sessions hear of it in tasks of their own, which then record their end.
        try:
            async with asyncio.timeout(_LAST_RECORDS_SECONDS_MAX):
                await self._none_open.wait()
                if self._closing:
                    await asyncio.wait(self._closing)
        except TimeoutError:
            log.warning("not all ends of sessions were recorded", count=len(self._closing))

    async def _joined(self, channel: Channel) -> JoinRequest:
        """Have the agent join a channel and take its task."""
        self._awaited[channel.channel_id] = channel
        try:
            if not self._agents.send_hands_on(channel.node_id, channel.channel_id):
                raise _no_agent(channel.node_id)
            async with asyncio.timeout(JOIN_SECONDS_MAX):
                answer = await channel.to_client.next()
        except TimeoutError:
            raise _no_agent(channel.node_id) from None
        finally:
            self._awaited.pop(channel.channel_id, None)
        if answer is None or answer.WhichOneof("message") != "accepted":
            raise Rejected(f"the agent of node {channel.node_id} cannot do that", code="REFUSED_BY_AGENT")
        return answer

    def _look(self) -> None:
        """End sessions whose attempt is over or whose node is silent or revoked, if the agent does not."""
        for session in list(self._sessions.values()):
            entry = self._ledger.world.run(session.run_id)
            lease = None if entry is None else entry.run.live_lease
            if lease is None or lease.epoch != session.epoch:
                session.end(Rejected("the attempt has ended", code="ATTEMPT_ENDED"))
            elif self._ledger.world.node(session.node_id).node.access.revoked:
                session.end(Unavailable(f"node {session.node_id} was revoked", code="AGENT_LOST"))
            elif not lease.reachable:
                session.end(Unavailable(f"node {session.node_id} fell silent", code="AGENT_LOST"))

    def _end_when_idle(self, session: HandsOnSession) -> None:
        if session.session_id not in self._sessions:
            return
        loop = asyncio.get_running_loop()
        left_seconds = session.passed_at + self._idle_seconds - loop.time()
        if left_seconds > 0:
            loop.call_later(left_seconds, self._end_when_idle, session)
        else:
            text = f"nothing passed for {self._idle_seconds:g} s: the session has ended, open another"
            session.end(Rejected(text, code="SESSION_IDLE"))

    def _spawn(self, closing: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(
        self, run_id: RunId, closed: CloseHandsOn, recording: asyncio.Task[None] | None = None
    ) -> None:
        if recording is not None:
            await asyncio.wait([recording])
            if recording.cancelled() or recording.exception() is not None:
                return
        retries = Retries(f"recording the end of a session with run {run_id}", _BACKOFF, log)
        try:
            await retried(lambda: self._handlers.close(run_id, closed), (Unavailable, Conflict), retries)
        except Exception:  # one session that cannot be closed must not take the service along
            log.exception("end of a session not recorded", run_id=run_id)


def _no_agent(node_id: NodeId) -> Unavailable:
    return Unavailable(
        f"the agent of node {node_id} does not answer; try again when it is back", code="NODE_UNREACHABLE"
    )
