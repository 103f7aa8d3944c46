"""What passes in a hands-on session on this node: between the scheduler's stream and a command or connection.

A stream is read by one task, and to its end: cancelling a read cancels the stream, with what was said last.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import grpc

from runyard.agent.v1.hands_on_service_pb2 import JoinRefused, JoinRequest, JoinResponse
from runyard.run.v1.hands_on_pb2 import ExitStatus
from runyard.run.v1.hands_on_service_pb2 import HandsOnStreamEnd
from runyard_agent.side_command import CHUNK_BYTES, SideCommand
from runyard_core.errors import Rejected, RunyardError

# A program's end and that of its last output are seen by different eyes.
_LAST_OUTPUT_SECONDS = 3.0
_LAST_WORD_SECONDS_MAX = 10.0

JoinCall = grpc.aio.StreamStreamCall[JoinRequest, JoinResponse]

BREAKS = (grpc.aio.AioRpcError, TimeoutError, OSError, asyncio.InvalidStateError, EOFError)
"""How a stream breaks; a write to one that has just ended is an InvalidStateError."""


async def pass_exec(call: JoinCall, command: SideCommand, attempt_ended: asyncio.Event) -> None:
    """Pass what the command writes up and what is typed down, until the command or the stream ends."""
    up = asyncio.create_task(_pass_up(call, command))
    down = asyncio.create_task(_pass_down(call, command))
    ended = asyncio.create_task(attempt_ended.wait())
    try:
        await asyncio.wait({up, down, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done() and not down.done():
            await asyncio.wait({up, down}, timeout=_LAST_OUTPUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not up.done() and down.done():
            return
        if up.done():
            up.result()
        await _say(call, await _last_word(command) if up.done() else _refused(attempt_over()))
        # The stream is read by one at a time: it is up to ``down`` to see its end.
        await asyncio.wait({down}, timeout=_LAST_WORD_SECONDS_MAX)
    finally:
        await _let_go(up, down, ended)


async def until_attempt_ends(
    call: JoinCall, attempt_ended: asyncio.Event, passing: Coroutine[None, None, None]
) -> None:
    """Pass something over a stream until that ends, or until the attempt has ended: that is said there."""
    task = asyncio.create_task(passing)
    ended = asyncio.create_task(attempt_ended.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await _say(call, _refused(attempt_over()))
            # It reads the stream, so it is what sees its end.
            await asyncio.wait({task}, timeout=_LAST_WORD_SECONDS_MAX)
        if task.done():
            task.result()
    finally:
        await _let_go(task, ended)


async def _last_word(command: SideCommand) -> JoinRequest:
    """Say how a command ended that writes nothing more."""
    try:
        exited = await command.wait()
    except RunyardError as error:
        return _refused(error)
    if exited is None:
        return _refused(attempt_over())
    return JoinRequest(exit_status=ExitStatus(exit_code=exited.exit_code, signal=exited.signal))


async def _let_go(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_up(call: JoinCall, command: SideCommand) -> None:
    while (piece := await command.read()) is not None:
        if piece.is_error:
            await call.write(JoinRequest(error_output=piece.data))
        else:
            await call.write(JoinRequest(output=piece.data))


async def _pass_down(call: JoinCall, command: SideCommand) -> None:
    with contextlib.suppress(*BREAKS):
        while True:
            answer = await read(call)
            match answer.WhichOneof("message"):
                case "input":
                    await command.write(answer.input)
                case "input_end":
                    await command.end_input()
                case "window_size":
                    await command.resize(answer.window_size.columns, answer.window_size.rows)
                case _:
                    pass


async def pass_both_ways(call: JoinCall, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass the bytes of a connection, until the scheduler ends the stream."""

    async def up() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await call.write(JoinRequest(output=data))
        await call.write(JoinRequest(output_end=HandsOnStreamEnd()))

    async def down() -> None:
        while True:
            answer = await read(call)
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


async def read_to_the_end(call: JoinCall) -> None:
    """Read until the stream ends, which is an error of ``BREAKS``."""
    while True:
        await read(call)


async def refuse(call: JoinCall, error: RunyardError) -> None:
    """Refuse what nobody reads the stream for yet, and wait for the scheduler to have taken that."""
    await _say(call, _refused(error))
    # Cancelling would take it back.
    async with asyncio.timeout(_LAST_WORD_SECONDS_MAX):
        await read_to_the_end(call)


async def _say(call: JoinCall, last: JoinRequest) -> None:
    await call.write(last)
    await call.done_writing()


def _refused(error: RunyardError) -> JoinRequest:
    return JoinRequest(refused=JoinRefused(code=error.code, message=error.message))


async def read(call: JoinCall) -> JoinResponse:
    """Read the next message.

    Raises:
        EOFError: the scheduler closed the stream.
    """
    answer = await call.read()
    if isinstance(answer, JoinResponse):
        return answer
    raise EOFError("the scheduler closed the stream")


def attempt_over() -> Rejected:
    """Say that the attempt has ended, and the session with it."""
    return Rejected("the attempt has ended", code="ATTEMPT_ENDED")
