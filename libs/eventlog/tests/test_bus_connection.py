"""The connection of a process to the bus, when the bus takes its time."""

from __future__ import annotations

import asyncio

import pytest

from runyard_eventlog.relay import connect_bus
from runyard_testkit.silent_server import silent_server

pytestmark = pytest.mark.system


async def test_who_is_stopped_while_it_connects_hangs_up() -> None:
    async with asyncio.timeout(10), silent_server(b"INFO {}\r\n") as bus:
        connecting = asyncio.create_task(connect_bus(f"nats://127.0.0.1:{bus.port}", "u", "p", "test"))
        heard = await bus.came.get()
        await heard.readuntil(b"PING\r\n")
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert await heard.read() == b""
