"""A connection to the bus is ended, however its client takes that."""

from __future__ import annotations

import asyncio

import pytest

from runyard_core.bus_connection import hang_up


class Waiting:
    """Closes for ever."""

    is_connected = False

    async def close(self) -> None:
        await asyncio.Event().wait()


class Broken:
    """Finds out at its end that the other one has gone."""

    is_connected = True
    is_closed = False

    async def close(self) -> None:
        self.is_closed = True
        raise ConnectionResetError


async def test_who_closes_for_ever_is_left() -> None:
    async with asyncio.timeout(20.0):
        await hang_up(Waiting())


async def test_a_connection_that_has_gone_is_one_less() -> None:
    broken = Broken()
    await hang_up(broken)
    assert broken.is_closed


async def test_who_is_stopped_meanwhile_is_stopped() -> None:
    hanging_up = asyncio.ensure_future(hang_up(Waiting()))
    await asyncio.sleep(0)
    hanging_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging_up
