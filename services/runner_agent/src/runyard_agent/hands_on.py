"""Hands-on sessions: for each order of the scheduler a stream is dialled, and a command or connection joined.

Whatever ends first ends the rest: the command, the attempt, the stream. Nothing that passes is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import grpc

from runyard.agent.v1.agent_service_pb2 import HandsOnOrder
from runyard.agent.v1.hands_on_service_pb2 import (
    ExecTask,
    JoinAccepted,
    JoinHello,
    JoinRefused,
    JoinRequest,
    JoinResponse,
    JoinTask,
)
from runyard.agent.v1.hands_on_service_pb2_grpc import HandsOnAgentServiceStub
from runyard.run.v1.hands_on_pb2 import ExitStatus
from runyard.run.v1.hands_on_service_pb2 import HandsOnStreamEnd
from runyard.run.v1.types_pb2 import Executor
from runyard_agent import process_table
from runyard_agent.attempt_ports import own_address
from runyard_agent.domain.redaction import Redaction
from runyard_agent.executors import DockerExecutor, Executors
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime
from runyard_agent.side_command import CHUNK_BYTES, CommandPlan, SideCommand
from runyard_agent.side_process import start_beside_process
from runyard_core.errors import Rejected, RunyardError

logger = logging.getLogger(__name__)

_ANSWER_SECONDS_MAX = 30.0
_CONNECT_SECONDS_MAX = 5.0
# A program's end and that of its last output are seen by different eyes.
_LAST_OUTPUT_SECONDS = 3.0
_LAST_WORD_SECONDS_MAX = 10.0

JoinCall = grpc.aio.StreamStreamCall[JoinRequest, JoinResponse]
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
        self._group: asyncio.TaskGroup | None = None
        self._stub: HandsOnAgentServiceStub | None = None
        self._beside: dict[str, set[int]] = {}
        """Processes that were started beside the program of an attempt, by its name."""

    async def run(self, ready: asyncio.Event) -> None:
        """Serve sessions until cancelled; ``ready`` is set once the attempts of an earlier life are known."""
        async with contextlib.AsyncExitStack() as stack:
            # One connection for all; it is made when the first session asks for it.
            channel = await stack.enter_async_context(self._open_channel())
            self._stub = HandsOnAgentServiceStub(channel)
            async with asyncio.TaskGroup() as group:
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
                task = (await _read(call)).task
            try:
                await self._do(call, task)
            except RunyardError as error:
                refused = JoinRefused(code=error.code, message=error.message)
                await _say_last(call, JoinRequest(refused=refused))
        except _BREAKS as error:
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
                    await _exec(call, command, attempt.ended)
            case "forward":
                await call.write(JoinRequest(accepted=JoinAccepted()))
                await _until_either(attempt.ended.wait(), _read_to_the_end(call))
                raise _attempt_ended()
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
            await _until_either(attempt.ended.wait(), _pass_both_ways(call, reader, writer))
            if attempt.ended.is_set():
                raise _attempt_ended()
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


# A write to a stream that has just ended is an InvalidStateError.
_BREAKS = (grpc.aio.AioRpcError, TimeoutError, OSError, asyncio.InvalidStateError, EOFError)


async def _begin(call: JoinCall) -> None:
    async with asyncio.timeout(_ANSWER_SECONDS_MAX):
        answer = await _read(call)
    if answer.WhichOneof("message") != "begin":
        raise Rejected("a command is begun before anything is typed", code="BEGIN_FIRST")


async def _exec(call: JoinCall, command: SideCommand, attempt_ended: asyncio.Event) -> None:
    """Pass what the command writes up and what is typed down, until the command or the stream ends."""
    up = asyncio.create_task(_pass_up(call, command))
    down = asyncio.create_task(_pass_down(call, command))
    ended = asyncio.create_task(attempt_ended.wait())
    try:
        await asyncio.wait({up, down, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done() and not down.done():
            await asyncio.wait({up, down}, timeout=_LAST_OUTPUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            if down.done():
                down.result()
                return
            raise _attempt_ended()
        up.result()
        exited = await command.wait()
        if exited is None:
            raise _attempt_ended()
        status = ExitStatus(exit_code=exited.exit_code, signal=exited.signal)
        # The stream is read by one at a time: it is up to ``down`` to see its end.
        await call.write(JoinRequest(exit_status=status))
        await call.done_writing()
        await asyncio.wait({down}, timeout=_LAST_WORD_SECONDS_MAX)
    finally:
        for task in (up, ended, down):
            task.cancel()
        await asyncio.gather(up, down, ended, return_exceptions=True)


async def _pass_up(call: JoinCall, command: SideCommand) -> None:
    while (piece := await command.read()) is not None:
        if piece.is_error:
            await call.write(JoinRequest(error_output=piece.data))
        else:
            await call.write(JoinRequest(output=piece.data))


async def _pass_down(call: JoinCall, command: SideCommand) -> None:
    with contextlib.suppress(*_BREAKS):
        while True:
            answer = await _read(call)
            match answer.WhichOneof("message"):
                case "input":
                    await command.write(answer.input)
                case "input_end":
                    await command.end_input()
                case "window_size":
                    await command.resize(answer.window_size.columns, answer.window_size.rows)
                case _:
                    pass


async def _pass_both_ways(call: JoinCall, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def up() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await call.write(JoinRequest(output=data))
        await call.write(JoinRequest(output_end=HandsOnStreamEnd()))

    async def down() -> None:
        while True:
            answer = await _read(call)
            match answer.WhichOneof("message"):
                case "input":
                    with contextlib.suppress(ConnectionError):
                        writer.write(answer.input)
                        await writer.drain()
                case "input_end":
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                case _:
                    pass

    going_up = asyncio.create_task(up())
    try:
        # The client ends it, when both ways have ended or when it has had enough.
        await down()
    finally:
        going_up.cancel()
        await asyncio.gather(going_up, return_exceptions=True)


async def _until_either(*waits: Coroutine[None, None, object]) -> None:
    """Wait for the first of these, and let go of the rest; raises what that one raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_to_the_end(call: JoinCall) -> None:
    while True:
        await _read(call)


async def _say_last(call: JoinCall, request: JoinRequest) -> None:
    """Send the last message, and wait for the scheduler to have taken it: cancelling would take it back."""
    await call.write(request)
    await call.done_writing()
    async with asyncio.timeout(_LAST_WORD_SECONDS_MAX):
        await _read_to_the_end(call)


async def _read(call: JoinCall) -> JoinResponse:
    answer = await call.read()
    if isinstance(answer, JoinResponse):
        return answer
    raise EOFError("the scheduler closed the stream")


def _attempt_ended() -> Rejected:
    return Rejected("the attempt has ended", code="ATTEMPT_ENDED")
