"""Clocks as values, so that nothing that decides reads one by itself."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Gives the time of day and a monotonic time."""

    def now(self) -> datetime:
        """Give the time of day, with its zone (UTC)."""
        ...

    def monotonic_seconds(self) -> float:
        """Give seconds that never run backwards, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Give the time of day (UTC)."""
        return datetime.now(UTC)

    def monotonic_seconds(self) -> float:
        """Give the machine's monotonic seconds."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told, for tests and simulation."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        """Start at a given time of day; monotonic time starts at 0."""
        self._start = start
        self._elapsed = timedelta(0)

    def now(self) -> datetime:
        """Give the time of day that it was moved to."""
        return self._start + self._elapsed

    def monotonic_seconds(self) -> float:
        """Give the seconds that it was moved by."""
        return self._elapsed.total_seconds()

    def advance(self, step: timedelta) -> None:
        """Move both clocks forward.

        Raises:
            ValueError: the step is negative.
        """
        if step < timedelta(0):
            raise ValueError(f"a clock does not run backwards: {step}")
        self._elapsed += step
