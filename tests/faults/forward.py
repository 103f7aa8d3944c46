"""Hands TCP connections on between networks: ``python forward.py LISTEN TARGET [LISTEN TARGET]...``.

Each is ``address:port``. A line on standard output says that all listen. The standard library only: it runs
inside a network namespace, in which nothing else of ours is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def main(pairs: list[str]) -> None:
    """Forward until killed."""
    for listen, target in zip(pairs[::2], pairs[1::2], strict=True):
        host, _, port = listen.rpartition(":")
        await asyncio.start_server(_handler(target), host, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def _handler(target: str):  # type: ignore[no-untyped-def]
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        try:
            other_reader, other_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, other_writer), _copy(other_reader, writer))

    return handle


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
