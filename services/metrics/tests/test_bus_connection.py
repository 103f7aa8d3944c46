"""The connection of the service to the bus, when the bus takes its time."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from runyard_metrics.main import _bus
from runyard_metrics.settings import MetricsSettings
from runyard_testkit.silent_server import silent_server

pytestmark = pytest.mark.system


def settings(url: str) -> MetricsSettings:
    return MetricsSettings.model_construct(nats_url=url, nats_user="", nats_password=SecretStr(""))


async def test_a_service_that_is_stopped_while_it_connects_hangs_up() -> None:
    async with asyncio.timeout(20), silent_server(b"INFO {}\r\n") as bus:
        connecting = asyncio.ensure_future(_bus(settings(f"nats://127.0.0.1:{bus.port}")).__aenter__())
        heard = await bus.came.get()
        await heard.readuntil(b"PING\r\n")
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        assert await heard.read() == b""


async def test_a_service_that_is_stopped_while_tls_comes_to_nothing_ends() -> None:
    async with asyncio.timeout(20), silent_server(b'INFO {"tls_required":true}\r\n') as bus:
        connecting = asyncio.ensure_future(_bus(settings(f"tls://127.0.0.1:{bus.port}")).__aenter__())
        heard = await bus.came.get()
        await heard.readexactly(1)
        connecting.cancel()
        await asyncio.wait([connecting])
        assert connecting.cancelled()
        await heard.read()
