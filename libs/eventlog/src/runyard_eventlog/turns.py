"""When a process that gives way may ask for the next page of the log."""

from __future__ import annotations

from collections.abc import Callable

PAGE_EVERY = 2.0
"""While others want the processors, a page is asked for once in so many times of what work on it takes."""
PAUSE_SECONDS_MAX = 0.1
WAITED_MAX = 0.1
"""Seconds of waiting for a processor, for each second of work, that show nobody else at work."""


class Turns:
    """Compares how long a process worked with how long it was ready to and others had the processors."""

    def __init__(self, worked_and_waited: Callable[[], tuple[float, float]]) -> None:
        """Count from now on.

        Args:
            worked_and_waited: gives both, in seconds since the process began.
        """
        self._look = worked_and_waited
        self._seen = worked_and_waited()

    def pause_seconds(self) -> float:
        """Give how long to wait with the next page, by what became of the process since the last one."""
        before, self._seen = self._seen, self._look()
        worked, waited = self._seen[0] - before[0], self._seen[1] - before[1]
        if waited <= WAITED_MAX * worked:
            return 0.0
        return min(PAGE_EVERY * (worked + waited), PAUSE_SECONDS_MAX)
