"""Speaking with a command beside a program, wherever it runs."""

from __future__ import annotations

import asyncio

from runyard_agent.side_command import CommandExit, SideCommand


async def output_of(command: SideCommand) -> tuple[bytes, bytes]:
    out, err = b"", b""
    async with asyncio.timeout(20):
        while (piece := await command.read()) is not None:
            if piece.is_error:
                err += piece.data
            else:
                out += piece.data
    return out, err


async def read_until(command: SideCommand, text: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(20):
        while text not in seen:
            piece = await command.read()
            assert piece is not None, f"it ended after {seen!r}"
            seen += piece.data
    return seen


async def check_input_to_its_end(cat: SideCommand, data: bytes) -> None:
    """Have ``cat`` give all of its input back."""

    async def write() -> None:
        for start in range(0, len(data), 32_768):
            await cat.write(data[start : start + 32_768])
        await cat.end_input()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        reading = group.create_task(output_of(cat))
    assert reading.result() == (data, b"")
    assert await cat.wait() == CommandExit(0)
