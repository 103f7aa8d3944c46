"""First station of hands-on sessions: ``runyard.run.v1.HandsOnService`` for clients, and the agents' Join."""

# ruff: noqa: ARG002 - every method has gRPC's signature

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from runyard.agent.v1 import hands_on_service_pb2 as agent_pb
from runyard.agent.v1 import hands_on_service_pb2_grpc as agent_pb_grpc
from runyard.run.v1 import hands_on_service_pb2 as pb
from runyard.run.v1 import hands_on_service_pb2_grpc as pb_grpc
from runyard.run.v1.hands_on_pb2 import Terminal
from runyard_contracts.ids import RunId
from runyard_core.errors import InvalidInput, RunyardError, Unavailable
from runyard_core.task_group import TaskGroup
from runyard_scheduler.hands_on import HandsOn
from runyard_scheduler.hands_on_channel import CHUNK_BYTES_MAX, Channel, too_large
from runyard_scheduler.hands_on_session import HandsOnSession
from runyard_servicekit.auth import require_role

HANDS_ON_SERVICES = (
    pb.DESCRIPTOR.services_by_name["HandsOnService"].full_name,
    agent_pb.DESCRIPTOR.services_by_name["HandsOnAgentService"].full_name,
)
FIRST_SECONDS_MAX = 10.0
"""How long a stream may be open without saying what it is for."""
COMMAND_BYTES_MAX = 65_536
PORT_MAX = 65_535
_TERMINAL_SIZE_MAX = 10_000
_TERMINAL_TYPE_LENGTH_MAX = 100

Context = grpc.aio.ServicerContext[Any, Any]
FindRun = Callable[[str], Awaitable[RunId]]
Request = TypeVar("Request", pb.ExecRequest, pb.ConnectRequest, agent_pb.JoinRequest)

log = structlog.get_logger("runyard.scheduler.hands_on")


class HandsOnServicer(pb_grpc.HandsOnServiceServicer):
    """Serves clients."""

    def __init__(self, hands_on: HandsOn, find_run: FindRun, tasks: TaskGroup) -> None:
        """Serve until the task group ends; ``find_run`` gives the run that a name means."""
        self._hands_on = hands_on
        self._find_run = find_run
        self._tasks = tasks

    async def Exec(
        self, request_iterator: AsyncIterator[pb.ExecRequest], context: Context
    ) -> AsyncIterator[pb.ExecResponse]:
        """Run a command, or a shell, beside a running attempt."""
        require_role("client")
        await _settle(context)
        start = (await _first(request_iterator, "start")).start
        exec_task = agent_pb.ExecTask(command=_checked_command(start))
        if start.HasField("terminal"):
            exec_task.terminal.CopyFrom(_checked_terminal(start.terminal))
        run_id = await self._find_run(start.name)
        async with self._hands_on.session(run_id, agent_pb.JoinTask(exec=exec_task)) as session:
            channel = session.channel
            reading = self._tasks.create_task(_read_exec(request_iterator, session))
            try:
                yield pb.ExecResponse(opened=session.opened)
                while (message := await channel.to_client.next()) is not None:
                    match message.WhichOneof("message"):
                        case "output":
                            yield pb.ExecResponse(output=message.output)
                        case "error_output":
                            yield pb.ExecResponse(error_output=message.error_output)
                        case "exit_status":
                            session.exit_status = message.exit_status
                            yield pb.ExecResponse(exit_status=message.exit_status)
                            return
                        case _:
                            pass
            finally:
                reading.cancel()

    async def Forward(
        self, request: pb.ForwardRequest, context: Context
    ) -> AsyncIterator[pb.ForwardResponse]:
        """Open a session for a port; it lasts as long as the stream."""
        require_role("client")
        await _settle(context)
        if not 1 <= request.port <= PORT_MAX:
            raise InvalidInput(
                f"{request.port} is no port", field_violations={"port": f"want 1 to {PORT_MAX}"}
            )
        run_id = await self._find_run(request.name)
        task = agent_pb.JoinTask(forward=agent_pb.ForwardTask(port=request.port))
        async with self._hands_on.session(run_id, task) as session:
            yield pb.ForwardResponse(opened=session.opened)
            # Nothing passes here: it ends by an error, or with the client.
            while await session.channel.to_client.next() is not None:
                pass

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Make one connection to the port of a session."""
        require_role("client")
        await _settle(context)
        start = (await _first(request_iterator, "start")).start
        async with self._hands_on.connection(start.session_id) as (session, channel):
            reading = self._tasks.create_task(_read_connection(request_iterator, session, channel))
            try:
                yield pb.ConnectResponse(opened=pb.ConnectOpened())
                while (message := await channel.to_client.next()) is not None:
                    match message.WhichOneof("message"):
                        case "output":
                            yield pb.ConnectResponse(output=message.output)
                        case "output_end":
                            yield pb.ConnectResponse(output_end=message.output_end)
                        case _:
                            pass
            finally:
                reading.cancel()


class HandsOnAgentServicer(agent_pb_grpc.HandsOnAgentServiceServicer):
    """Serves agents."""

    def __init__(self, hands_on: HandsOn, tasks: TaskGroup) -> None:
        """Serve until the task group ends."""
        self._hands_on = hands_on
        self._tasks = tasks

    async def Join(
        self, request_iterator: AsyncIterator[agent_pb.JoinRequest], context: Context
    ) -> AsyncIterator[agent_pb.JoinResponse]:
        """Let an agent join the channel that it was told of."""
        caller = require_role("agent")
        hello = (await _first(request_iterator, "hello")).hello
        channel = self._hands_on.join(hello.channel_id, caller.actor.id)
        listening = self._tasks.create_task(channel.listen(request_iterator))
        try:
            yield agent_pb.JoinResponse(task=channel.task)
            while (message := await channel.to_agent.next()) is not None:
                yield message
        finally:
            listening.cancel()
            channel.end(Unavailable("the agent went away", code="AGENT_LOST"))


def register_hands_on(
    server: grpc.aio.Server, hands_on: HandsOn, find_run: FindRun, tasks: TaskGroup
) -> None:
    """Add both services to a server."""
    pb_grpc.add_HandsOnServiceServicer_to_server(HandsOnServicer(hands_on, find_run, tasks), server)
    agent_pb_grpc.add_HandsOnAgentServiceServicer_to_server(HandsOnAgentServicer(hands_on, tasks), server)


async def _settle(context: Context) -> None:
    """Answer with headers at once: a client's channel would try a refused stream again, for long."""
    await context.send_initial_metadata(())


async def _first(requests: AsyncIterator[Request], kind: str) -> Request:
    try:
        async with asyncio.timeout(FIRST_SECONDS_MAX):
            first = await anext(aiter(requests), None)
    except TimeoutError:
        first = None
    if first is None or first.WhichOneof("message") != kind:
        raise InvalidInput(f"the stream opens with {kind!r}", code="START_FIRST")
    return first


async def _read_exec(requests: AsyncIterator[pb.ExecRequest], session: HandsOnSession) -> None:
    async def take(request: pb.ExecRequest) -> None:
        match request.WhichOneof("message"):
            case "window_size":
                size = _checked_terminal(Terminal(size=request.window_size)).size
                await session.channel.to_agent.put(agent_pb.JoinResponse(window_size=size))
            case "input":
                await _pass_on(request.input, session, session.channel)
            case "input_end":
                await session.channel.to_agent.put(agent_pb.JoinResponse(input_end=request.input_end))
            case _:
                pass

    await _read(requests, take, session.channel)


async def _read_connection(
    requests: AsyncIterator[pb.ConnectRequest], session: HandsOnSession, channel: Channel
) -> None:
    async def take(request: pb.ConnectRequest) -> None:
        match request.WhichOneof("message"):
            case "input":
                await _pass_on(request.input, session, channel)
            case "input_end":
                await channel.to_agent.put(agent_pb.JoinResponse(input_end=request.input_end))
            case _:
                pass

    await _read(requests, take, channel)


async def _read(
    requests: AsyncIterator[Request], take: Callable[[Request], Awaitable[None]], channel: Channel
) -> None:
    """Take what a client sends. That nothing more comes is not the end of its input: it may have died."""
    try:
        async for request in requests:
            await take(request)
    except RunyardError as error:
        channel.end(error)
    except grpc.aio.UsageError:
        # gRPC's way to say that the stream is gone.
        pass
    except Exception:  # the top of a client's stream: one broken client must not take the others along
        log.exception("hands-on stream failed", node_id=channel.node_id)
        channel.end(Unavailable("the stream failed; try again", code="STREAM_FAILED"))


async def _pass_on(data: bytes, session: HandsOnSession, channel: Channel) -> None:
    if len(data) > CHUNK_BYTES_MAX:
        raise too_large()
    session.sent(len(data))
    await channel.to_agent.put(agent_pb.JoinResponse(input=data))


def _checked_command(start: pb.ExecStart) -> list[str]:
    command = list(start.command)
    if sum(len(argument.encode()) for argument in command) > COMMAND_BYTES_MAX:
        problem = f"more than {COMMAND_BYTES_MAX} bytes: put it into a file of the run"
    elif any("\0" in argument for argument in command):
        problem = "it holds a zero byte"
    elif command and not command[0]:
        problem = "it begins with nothing"
    else:
        return command
    raise InvalidInput(
        f"the command cannot be run: {problem}", code="BAD_COMMAND", field_violations={"command": problem}
    )


def _checked_terminal(terminal: Terminal) -> Terminal:
    size, kind = terminal.size, terminal.type
    sizes_fit = all(0 <= number <= _TERMINAL_SIZE_MAX for number in (size.columns, size.rows))
    if not sizes_fit or len(kind) > _TERMINAL_TYPE_LENGTH_MAX or not (kind.isprintable() and kind.isascii()):
        raise InvalidInput(
            f"no terminal is like that: {size.columns} x {size.rows}, type {kind!r}",
            code="BAD_TERMINAL",
            field_violations={"terminal": "size or type"},
        )
    return terminal
