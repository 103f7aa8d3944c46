"""A server that lets everybody in, greets, and then says no word, as one that is being stopped does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SilentServer:
    """Where it listens, and who came."""

    port: int
    came: asyncio.Queue[asyncio.StreamReader]
    """What each says who came; it ends when he hangs up."""


@asynccontextmanager
async def silent_server(greeting: bytes = b"") -> AsyncIterator[SilentServer]:
    """Listen on a free port of loopback while the block runs."""
    came: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(greeting)
        came.put_nowait(reader)

    async with await asyncio.start_server(let_in, "127.0.0.1", 0) as listening:
        try:
            yield SilentServer(listening.sockets[0].getsockname()[1], came)
        finally:
            for writer in writers:
                writer.close()
