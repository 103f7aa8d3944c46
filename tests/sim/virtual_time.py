"""Time and chance of a simulation: an event loop that never waits, and ids that the seed decides."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from unittest import mock

from runyard_agent import attempt_lease, uplink
from runyard_contracts import ids
from runyard_core import retry
from runyard_core.clock import ManualClock

_STEPS_WITHOUT_TIME_MAX = 200_000
"""Turns of the loop during which no time may pass; more means that something spins."""


class NothingHappensError(Exception):
    """Everybody waits for somebody else, or somebody never waits: time cannot go on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that jumps to the next moment at which something is due."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self._clock_resolution = 1e-6
        self._selector = _Jump(clock)

    def time(self) -> float:
        return self._clock.monotonic_seconds()

    def _process_events(self, event_list: list[object]) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There are no threads to wake up for."""


class _Jump:
    """What the loop takes for its selector: waiting is moving the clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._steps = 0

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise NothingHappensError("every task waits for ever")
        if timeout > 0:
            self._steps = 0
            self._clock.advance(timedelta(microseconds=math.ceil(timeout * 1e6)))
        self._steps += 1
        if self._steps > _STEPS_WITHOUT_TIME_MAX:
            raise NothingHappensError("the loop turns without time going on")
        return []


@contextmanager
def decided_by(clock: ManualClock, chance: random.Random) -> Iterator[None]:
    """Let every id and pause of the code under test come from this clock and this chance."""
    start = clock.now().timestamp() - clock.monotonic_seconds()

    def monotonic(_: int = 0) -> float:
        return clock.monotonic_seconds()

    machine_time = SimpleNamespace(CLOCK_BOOTTIME=7, clock_gettime=monotonic, monotonic=monotonic)
    id_time = SimpleNamespace(time_ns=lambda: int((start + clock.monotonic_seconds()) * 1e9))
    with ExitStack() as patches:
        for module, name, replacement in (
            (ids, "time", id_time),
            (ids, "os", SimpleNamespace(urandom=chance.randbytes)),
            (retry, "random", chance),
            (uplink, "time", machine_time),
            (attempt_lease, "time", machine_time),
        ):
            patches.enter_context(mock.patch.object(module, name, replacement))
        yield
