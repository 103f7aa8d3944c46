"""The one way to blocking libraries (docker, NVML, http.client): bounded threads, calls with deadlines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from runyard_core.errors import DeadlineExceeded

P = ParamSpec("P")
T = TypeVar("T")


class BlockingPool:
    """Runs blocking calls in at most ``thread_count`` threads of its own.

    A call that misses its deadline goes on in its thread (nothing can stop it): until it ends it takes a
    place, so that a hanging driver or daemon costs threads up to the bound and never more.
    """

    def __init__(self, name: str, *, thread_count: int) -> None:
        """Name the threads after what they talk to."""
        self._name = name
        self._places = asyncio.Semaphore(thread_count)
        self._executor = ThreadPoolExecutor(thread_count, thread_name_prefix=name)

    async def run(
        self,
        timeout_seconds: float | None,
        function: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a function in a thread and wait for its answer; None waits for as long as it takes.

        Raises:
            DeadlineExceeded: no free thread, or no answer, within the time.
        """
        deadline = asyncio.timeout(timeout_seconds)
        try:
            async with deadline:
                await self._places.acquire()
                call = asyncio.get_running_loop().run_in_executor(
                    self._executor, functools.partial(function, *args, **kwargs)
                )
                call.add_done_callback(self._ended)
                # Shielded: a cancelled future would say "done" while its thread is still busy.
                return await asyncio.shield(call)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(
                f"{self._name} gave no answer within {timeout_seconds:g} s", code="UNAVAILABLE"
            ) from error

    def close(self) -> None:
        """Take no more calls. Calls that wait for a thread are dropped, running ones are left alone."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ended(self, call: asyncio.Future[T]) -> None:
        self._places.release()
        # Looked at, so that the error of a call that nobody waits for any more is not reported as lost.
        if not call.cancelled():
            call.exception()
