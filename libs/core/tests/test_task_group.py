"""A task goes on as before after a group of its own has failed."""

from __future__ import annotations

import asyncio

import pytest

from runyard_core.task_group import TaskGroup


async def fail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    raise OSError("away")


async def fail_in_a_group(body_seconds: float) -> None:
    async with TaskGroup() as group:
        group.create_task(fail_after(0))
        group.create_task(asyncio.sleep(10))
        await asyncio.sleep(body_seconds)


async def test_a_group_that_failed_leaves_no_cancellation_behind() -> None:
    waiting = asyncio.current_task()
    assert waiting is not None
    for body_seconds in (0.0, 10.0):
        with pytest.raises(ExceptionGroup):
            await fail_in_a_group(body_seconds)
        assert waiting.cancelling() == 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)


async def test_who_cancels_the_waiting_task_is_heard() -> None:
    async def waits() -> None:
        async with TaskGroup() as group:
            group.create_task(asyncio.sleep(10))

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waiting.cancelled()
    assert waiting.cancelling() == 1
