"""The doorbell wakes its followers, and never keeps them from ending."""

from __future__ import annotations

import asyncio

import pytest

from runyard_eventlog.doorbell import Doorbell


async def test_a_ring_wakes_who_waits() -> None:
    doorbell = Doorbell()
    waiting = asyncio.create_task(doorbell.wait(doorbell.rings, timeout_seconds=30))
    await asyncio.sleep(0)
    doorbell.ring()
    assert await waiting


async def test_a_ring_before_the_wait_counts() -> None:
    doorbell = Doorbell()
    heard = doorbell.rings
    doorbell.ring()
    assert await doorbell.wait(heard, timeout_seconds=30)


async def test_without_a_ring_the_wait_ends_by_itself() -> None:
    doorbell = Doorbell()
    assert not await doorbell.wait(doorbell.rings, timeout_seconds=0.001)


@pytest.mark.parametrize("turns", range(4))
async def test_a_follower_that_is_cancelled_as_it_rings_ends(turns: int) -> None:
    doorbell = Doorbell()
    waiting = asyncio.create_task(doorbell.wait(doorbell.rings, timeout_seconds=30))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    doorbell.ring()
    for _ in range(turns):
        await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
