"""Hands-on sessions: for each order of the scheduler a stream is dialled, and a command or connection joined.

Whatever ends first ends the rest: the command, the attempt, the stream. Nothing that passes is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from runyard.agent.v1.agent_service_pb2 import HandsOnOrder
from runyard.agent.v1.hands_on_service_pb2 import (
    ExecTask,
    JoinAccepted,
    JoinHello,
    JoinRequest,
    JoinTask,
)
from runyard.agent.v1.hands_on_service_pb2_grpc import HandsOnAgentServiceStub
from runyard.run.v1.types_pb2 import Executor
from runyard_agent import process_table
from runyard_agent.attempt_ports import own_address
from runyard_agent.domain.redaction import Redaction
from runyard_agent.executors import DockerExecutor, Executors
from runyard_agent.hands_on_passing import (
    BREAKS,
    JoinCall,
    pass_both_ways,
    pass_exec,
    read,
    read_to_the_end,
    refuse,
    until_attempt_ends,
)
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime
from runyard_agent.side_command import CHUNK_BYTES, CommandPlan, SideCommand
from runyard_agent.side_process import start_beside_process
from runyard_core.errors import Rejected, RunyardError
from runyard_core.task_group import TaskGroup

logger = logging.getLogger(__name__)

_ANSWER_SECONDS_MAX = 30.0
_CONNECT_SECONDS_MAX = 5.0

OpenChannel = Callable[[], grpc.aio.Channel]


@dataclass(frozen=True, slots=True)
class AttemptAtHand:
    """An attempt whose program runs."""

    executor: Executor.ValueType
    """How it was started."""
    handle: Handle
    """Which program it is."""
    plan: LaunchPlan
    redaction: Redaction
    """Knows its secrets."""
    ended: asyncio.Event
    """Set once its program has ended."""


class Attempts(Protocol):
    """The attempts of this node."""

    def at_hand(self, run_id: str, attempt: int, epoch: int) -> AttemptAtHand | None:
        """Give an attempt whose program runs."""
        ...

    def all_at_hand(self) -> Sequence[AttemptAtHand]:
        """Give every attempt whose program runs."""
        ...


class HandsOn:
    """All sessions on this node."""

    def __init__(
        self, attempts: Attempts, executors: Executors, open_channel: OpenChannel, token: str
    ) -> None:
        """Prepare.

        Args:
            attempts: the attempts of this node.
            executors: the ways in which they run.
            open_channel: opens a connection to the scheduler: not the one that carries leases.
            token: the agent's.
        """
        self._attempts = attempts
        self._executors = executors
        self._open_channel = open_channel
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._group: TaskGroup | None = None
        self._stub: HandsOnAgentServiceStub | None = None
        self._beside: dict[str, set[int]] = {}
        """Processes that were started beside the program of an attempt, by its name."""

    async def run(self, ready: asyncio.Event) -> None:
        """Serve sessions until cancelled; ``ready`` is set once the attempts of an earlier life are known."""
        async with contextlib.AsyncExitStack() as stack:
            # One connection for all; it is made when the first session asks for it.
            channel = await stack.enter_async_context(self._open_channel())
            self._stub = HandsOnAgentServiceStub(channel)
            async with TaskGroup() as group:
                self._group = group
                await ready.wait()
                await self._end_left_behind()
                await asyncio.Event().wait()

    def take(self, order: HandsOnOrder) -> None:
        """Join a session as ordered; returns at once."""
        if self._group is not None:
            self._group.create_task(self._join(order.channel_id))

    async def _join(self, channel_id: str) -> None:
        assert self._stub is not None  # noqa: S101 - run() is what starts everything
        call: JoinCall = self._stub.Join(metadata=self._metadata)
        try:
            await call.write(JoinRequest(hello=JoinHello(channel_id=channel_id)))
            async with asyncio.timeout(_ANSWER_SECONDS_MAX):
                task = (await read(call)).task
            try:
                await self._do(call, task)
            except RunyardError as error:
                await refuse(call, error)
        except BREAKS as error:
            logger.debug("a hands-on session has ended: %s", error)
        except Exception:  # one session that fails must not take the agent along
            logger.exception("a hands-on session failed")
        finally:
            call.cancel()

    async def _end_left_behind(self) -> None:
        """End what an earlier life of this agent left in containers; elsewhere its sessions ended with it."""
        for attempt in self._attempts.all_at_hand():
            try:
                executor = await self._executors.get(attempt.executor)
                if isinstance(executor, DockerExecutor):
                    from runyard_agent.side_container import end_left_behind

                    await end_left_behind(executor.daemon, attempt.handle)
            except RunyardError as error:
                logger.warning("commands of former sessions may be left in a container: %s", error)

    async def _do(self, call: JoinCall, task: JoinTask) -> None:
        attempt = self._attempts.at_hand(task.run_id, task.attempt, task.epoch)
        if attempt is None:
            raise Rejected("the attempt does not run on this node (any more)", code="ATTEMPT_NOT_HERE")
        match task.WhichOneof("task"):
            case "exec":
                shown = [attempt.redaction.of(argument) for argument in task.exec.command]
                await call.write(JoinRequest(accepted=JoinAccepted(command=shown)))
                await _begin(call)
                async with self._started(attempt, task.exec) as command:
                    await pass_exec(call, command, attempt.ended)
            case "forward":
                await call.write(JoinRequest(accepted=JoinAccepted()))
                await until_attempt_ends(call, attempt.ended, read_to_the_end(call))
            case "connect":
                await self._connect(call, attempt, task.connect.port)
            case _:
                raise Rejected("this agent is too old for that", code="UNKNOWN_TASK")

    @asynccontextmanager
    async def _started(self, attempt: AttemptAtHand, task: ExecTask) -> AsyncIterator[SideCommand]:
        """Start a command; it has ended when the block has."""
        asked = CommandPlan(
            tuple(task.command),
            (task.terminal.type or "xterm") if task.HasField("terminal") else "",
            task.terminal.size.columns,
            task.terminal.size.rows,
        )
        executor = await self._executors.get(attempt.executor)
        if isinstance(executor, DockerExecutor):
            # Imported only where containers run: it costs 20 MB.
            from runyard_agent.side_container import start_beside_container

            command: SideCommand = await start_beside_container(executor.daemon, attempt.handle, asked)
            try:
                yield command
            finally:
                await command.close()
            return
        groups = executor.runtime.group(attempt.plan) if isinstance(executor.runtime, ProcessRuntime) else []
        beside = await start_beside_process(attempt.plan, groups, asked)
        pids = self._beside.setdefault(attempt.plan.name, set())
        pids.add(beside.pid)
        try:
            yield beside
        finally:
            pids.discard(beside.pid)
            if not pids:
                self._beside.pop(attempt.plan.name, None)
            await beside.close()

    async def _connect(self, call: JoinCall, attempt: AttemptAtHand, port: int) -> None:
        host = await self._address(attempt, port)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS_MAX):
                reader, writer = await asyncio.open_connection(host, port, limit=2 * CHUNK_BYTES)
        except (OSError, TimeoutError) as error:
            hint = "" if host.startswith("127.") or host == "::1" else "; does it listen on 0.0.0.0?"
            raise Rejected(
                f"the run does not accept connections at {host}:{port}{hint}", code="CONNECTION_REFUSED"
            ) from error
        try:
            await call.write(JoinRequest(accepted=JoinAccepted()))
            await until_attempt_ends(call, attempt.ended, pass_both_ways(call, reader, writer))
        finally:
            writer.close()

    async def _address(self, attempt: AttemptAtHand, port: int) -> str:
        executor = await self._executors.get(attempt.executor)
        if isinstance(executor, DockerExecutor):
            from runyard_agent.side_container import address_of

            return await address_of(executor.daemon, attempt.handle)
        pids = set(await executor.runtime.pids(attempt.handle))
        # What was started in a session belongs to the attempt too.
        for parent in self._beside.get(attempt.plan.name, ()):
            pids.update(process_table.descendants(parent))
        return await asyncio.to_thread(own_address, port, pids)


async def _begin(call: JoinCall) -> None:
    async with asyncio.timeout(_ANSWER_SECONDS_MAX):
        answer = await read(call)
    if answer.WhichOneof("message") != "begin":
        raise Rejected("a command is begun before anything is typed", code="BEGIN_FIRST")
