from __future__ import annotations

import asyncio

import pytest

from runyard_core.fan_out import fan_out


async def test_results_are_in_the_order_of_the_items_and_few_are_under_way() -> None:
    under_way = 0
    most = 0

    async def double(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(3 - number % 3):
            await asyncio.sleep(0)
        under_way -= 1
        return 2 * number

    assert await fan_out(4, double, range(20)) == [2 * number for number in range(20)]
    assert most == 4


async def test_the_first_error_is_raised_as_itself_and_ends_the_rest() -> None:
    ended: list[int] = []

    async def fail_third(number: int) -> None:
        try:
            await asyncio.sleep(0)
            if number == 2:
                raise OSError("the third")
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(OSError, match="the third"):
        await fan_out(3, fail_third, range(9))
    assert sorted(ended) == [0, 1, 2]


async def test_nothing_to_do_is_done() -> None:
    assert await fan_out(4, asyncio.sleep, []) == []
