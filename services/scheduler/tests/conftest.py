"""Fixtures of the scheduler's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_engines import choose_port
from runyard_scheduler.main import main
from runyard_scheduler.settings import SchedulerSettings
from runyard_servicekit.auth import Caller, set_current_caller
from runyard_testkit import Database

from .yard import WAIT_SECONDS, MemoryYard, memory_yard, write_tokens


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens.json")


@pytest.fixture
async def as_alice() -> None:
    """Call handlers as if within an RPC of this user."""
    set_current_caller(Caller(Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"), frozenset({"client"})))


@pytest.fixture
async def yard(tokens_file: Path, as_alice: None) -> AsyncIterator[MemoryYard]:
    async with memory_yard(tokens_file) as made:
        yield made


_OPTIONS = (("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 50))

RunScheduler = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture
def run_scheduler(database: Database, tokens_file: Path) -> RunScheduler:
    """Give a way to run the whole scheduler, as its process does; may be used again after it ended.

    No agent of a test falls silent because the machine is busy, unless the test asks for less time.
    """

    @asynccontextmanager
    async def running(
        *, unreachable_seconds: float = 60.0, lease_seconds: float = 60.0
    ) -> AsyncIterator[str]:
        settings = SchedulerSettings(
            listen=f"127.0.0.1:{choose_port()}",
            tokens_file=tokens_file,
            database_url=SecretStr(database.url("scheduler")),
            stop_grace_seconds=0,
            unreachable_seconds=unreachable_seconds,
            lease_seconds=lease_seconds,
            requeue_margin_seconds=0.2,
        )
        task = asyncio.create_task(main(settings))
        try:
            async with grpc.aio.insecure_channel(settings.listen, options=_OPTIONS) as channel:
                await asyncio.wait(
                    [task, asyncio.create_task(channel.channel_ready())],
                    return_when=asyncio.FIRST_COMPLETED,
                    timeout=WAIT_SECONDS,
                )
            assert not task.done(), task.exception()
            yield settings.listen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return running
