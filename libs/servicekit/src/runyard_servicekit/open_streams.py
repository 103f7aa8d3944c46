"""Streams last for hours: one whose token is revoked or expires meanwhile is ended, as no new one begins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from runyard_core.errors import Unauthenticated, Unavailable
from runyard_core.retry import Backoff, Retries
from runyard_servicekit.auth import Callers

LOOK_SECONDS = 1.0

log = structlog.get_logger("runyard.streams")

Result = TypeVar("Result")


class OpenStream:
    """One stream while it is served, in the task that serves it."""

    def __init__(self, token: str, task: asyncio.Task[object]) -> None:
        self.token = token
        self._task = task
        self._is_waiting = False
        self._void: Unauthenticated | None = None

    async def next(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """Wait for the servicer's next answer.

        Raises:
            Unauthenticated: the token became void.
        """
        self._require_good()
        self._is_waiting = True
        try:
            return await step()
        except asyncio.CancelledError:
            self._require_good()
            raise
        finally:
            self._is_waiting = False

    def end(self, why: Unauthenticated) -> None:
        """Let it end: now when it waits for an answer, else before the next one is given."""
        self._void = why
        # While gRPC sends an answer it must not be interrupted: it would not tell the caller why.
        if self._is_waiting:
            self._task.cancel()

    def _require_good(self) -> None:
        if self._void is not None:
            self._task.uncancel()
            raise self._void


class OpenStreams:
    """Every stream of a server."""

    def __init__(self, callers: Callers) -> None:
        """Ask these whether a token is still good."""
        self._callers = callers
        self._open: set[OpenStream] = set()

    @contextmanager
    def opened(self, token: str) -> Iterator[OpenStream]:
        """Watch the stream that this task serves, while the block runs."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio serves each stream in one
        stream = OpenStream(token, task)
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)

    async def end_void_ones(self) -> None:
        """Look whether tokens are still good, for ever."""
        retries = Retries("looking whether tokens are still good", Backoff(LOOK_SECONDS, LOOK_SECONDS), log)
        while True:
            await asyncio.sleep(LOOK_SECONDS)  # a file and a clock announce nothing
            try:
                self._end_void_ones()
            except Exception as error:  # noqa: BLE001 - the top of a loop: a file of nonsense must not end it
                await retries.pause(error)
            else:
                retries.succeeded()

    def _end_void_ones(self) -> None:
        for stream in tuple(self._open):
            try:
                self._callers.caller(stream.token)
            except Unauthenticated as void:
                stream.end(void)
                self._open.discard(stream)
            except Unavailable:
                # Of this one it cannot be said yet.
                continue
