"""The parts of an agent: all of them run, or none."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from runyard_agent.main import _run_until_stopped
from runyard_agent.uplink import Uplink


class Part:
    """Runs for ever, or ends."""

    def __init__(self, *, ends: bool = False) -> None:
        self.ends = ends
        self.was_cancelled = False

    async def run(self, ready: asyncio.Event | None = None) -> None:
        if ready is not None:
            ready.set()
        try:
            if self.ends:
                raise asyncio.CancelledError
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def test_an_agent_ends_when_one_of_its_parts_does() -> None:
    attempts, other, uplink = Part(), Part(), Part(ends=True)
    with pytest.raises(ExceptionGroup) as ended:
        async with asyncio.timeout(40):
            await _run_until_stopped(
                cast("Any", attempts), cast("Uplink", uplink), asyncio.Event(), [other.run()]
            )
    (error,) = ended.value.exceptions
    assert str(error) == "_attach_when ended, though nobody stopped the agent"
    assert attempts.was_cancelled
    assert other.was_cancelled
