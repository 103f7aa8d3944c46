"""The connection of a process to the bus, when the bus takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.relay import connect_bus
from runyard_testkit.silent_server import silent_server

pytestmark = pytest.mark.system


async def test_who_is_stopped_while_it_connects_hangs_up() -> None:
    async with asyncio.timeout(20), silent_server(b"INFO {}\r\n") as bus:
        connecting = asyncio.create_task(connect_bus(f"nats://127.0.0.1:{bus.port}", "u", "p", "test"))
        heard = await bus.came.get()
        await heard.readuntil(b"PING\r\n")
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert await heard.read() == b""


@pytest.mark.parametrize(
    "connect", [lambda url: connect_bus(url, "u", "p", "test"), Doorbell().serve], ids=["relay", "doorbell"]
)
async def test_who_is_stopped_while_tls_comes_to_nothing_ends(
    connect: Callable[[str], Coroutine[None, None, object]],
) -> None:
    async with asyncio.timeout(20), silent_server(b'INFO {"tls_required":true}\r\n') as bus:
        connecting = asyncio.create_task(connect(f"tls://127.0.0.1:{bus.port}"))
        heard = await bus.came.get()
        await heard.readexactly(1)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        await heard.read()
