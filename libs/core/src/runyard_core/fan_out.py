"""Do one thing to many items, a few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from runyard_core.task_group import TaskGroup

Item = TypeVar("Item")
Result = TypeVar("Result")


async def fan_out(
    limit: int, function: Callable[[Item], Awaitable[Result]], items: Sequence[Item]
) -> list[Result]:
    """Await ``function`` of every item, at most ``limit`` at once; gives the results in the items' order.

    The first error cancels what is under way and is raised as itself. However many items there are, there are
    no more tasks than ``limit``.
    """
    results: dict[int, Result] = {}
    remaining = iter(enumerate(items))

    async def work() -> None:
        for index, item in remaining:
            results[index] = await function(item)

    try:
        async with TaskGroup() as group:
            for _ in range(min(limit, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[index] for index in range(len(items))]
