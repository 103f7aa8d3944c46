"""A command's conversation with the yard: connect, do, close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from runyard_client import Client, Context, load_context

if TYPE_CHECKING:
    from runyard.run.v1.types_pb2 import Run

Result = TypeVar("Result")


def converse(work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run a command's work with a client of the yard that the context names.

    Raises:
        ClientError: whatever the work meets; ``main`` turns it into words and an exit code.
    """
    return converse_with(load_context(), work)


def converse_with(context: Context, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Run a command's work with a client of this yard.

    Raises:
        ClientError: as ``converse``.
    """

    async def connected() -> Result:
        async with Client.connect(context) as client:
            return await work(client)

    return asyncio.run(connected())


async def get_run(client: Client, name: str, *, min_position: int = 0) -> Run:
    """Get a run by the name that the scheduler takes."""
    from runyard.event.v1.read_pb2 import ReadOptions
    from runyard.run.v1.scheduler_service_pb2 import GetRunRequest

    read = ReadOptions(min_position=min_position)
    return (await client.scheduler.GetRun(GetRunRequest(name=name, read=read))).run
