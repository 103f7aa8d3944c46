"""The one loop that tries again: how long it waits, when it gives up, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from runyard_core.errors import Unavailable

Result = TypeVar("Result")

_TOLD_MAX = 5
"""Most reasons of one row of failures that are told."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after so many failures in a row: doubling, bounded, and spread by chance."""

    first_seconds: float
    """The longest pause after the first failure."""
    seconds_max: float
    """The longest pause of all; ``first_seconds`` for pauses that do not grow."""
    tries_max: int | None = None
    """After so many failures it is given up; None for never."""

    def pause_seconds(self, failure_count: int, chance: float) -> float | None:
        """Give the pause after this many failures, or None when it is time to give up.

        Args:
            failure_count: failures in a row so far, 1 or more.
            chance: a number from 0 to 1, which spreads the pause over the upper half of what is permitted: a
                thousand who lost the same server must not come back at the same moment.
        """
        if self.tries_max is not None and failure_count >= self.tries_max:
            return None
        # The exponent is bounded because something may be away for weeks.
        longest = min(self.seconds_max, self.first_seconds * 2.0 ** min(failure_count - 1, 30))
        return longest * (0.5 + 0.5 * chance)


class Log(Protocol):
    """What the loggers of the standard library and of structlog have in common."""

    def debug(self, message: str, /) -> object:
        """Say what only a search for a fault wants to know."""
        ...

    def info(self, message: str, /) -> object:
        """Say that all is well again."""
        ...

    def warning(self, message: str, /) -> object:
        """Say that something does not work, and is tried again."""
        ...


class Telling:
    """Tells a person instead of a log: the beginning and the end, and nothing of what lies between."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Tell by calling ``tell`` with a line."""
        self._tell = tell

    def debug(self, message: str) -> None:
        """Leave it out."""

    def info(self, message: str) -> None:
        """Tell it."""
        self._tell(message)

    def warning(self, message: str) -> None:
        """Tell it."""
        self._tell(message)


class Retries:
    """Counts failures in a row and waits after each; says each reason once, and when they end."""

    def __init__(
        self,
        what: str,
        backoff: Backoff,
        log: Log,
        *,
        seconds_max: float | None = None,
        chance: Callable[[], float] | None = None,
    ) -> None:
        """Begin with no failure.

        Args:
            what: what is tried, as the beginning of a sentence for the log.
            backoff: how long to wait.
            log: is warned of each reason once, and told when it is over.
            seconds_max: no pause reaches further beyond the last success, or now when there was none; needs a
                running loop. None for no such bound.
            chance: draws the numbers that spread the pauses; the machine's when left out.
        """
        self._what = what
        self._backoff = backoff
        self._log = log
        self._seconds_max = seconds_max
        self._worked_at = _now() if seconds_max is not None else 0.0
        self._chance = chance or random.random
        self._told: set[str] = set()
        self.failure_count = 0
        """Failures since it last worked."""

    async def pause(self, error: Exception, reason: str = "") -> None:
        """Wait after a failure; raises the failure itself when there is to be no other try.

        Args:
            error: what went wrong.
            reason: how the log is told of it, where the error's own words are not for people.
        """
        self.failure_count += 1
        seconds = self._backoff.pause_seconds(self.failure_count, self._chance())
        if seconds is not None and isinstance(error, Unavailable):
            seconds = max(seconds, error.pause_seconds_min)
        if seconds is None or not self._is_in_time(seconds):
            raise error
        words = reason or _words(error)
        is_news = words not in self._told and len(self._told) < _TOLD_MAX
        if is_news:
            self._told.add(words)
        say = self._log.warning if is_news else self._log.debug
        say(f"{self._what}: {words}; again in {seconds:.1f} s, {self._until_when()}")
        await asyncio.sleep(seconds)

    def succeeded(self) -> None:
        """Take note that it works: the next failure is a first one."""
        if self._seconds_max is not None:
            self._worked_at = _now()
        if self.failure_count:
            self._log.info(f"{self._what}: works again after {self.failure_count} failures")
            self.failure_count = 0
            self._told.clear()

    def _until_when(self) -> str:
        """Say how long it is tried again."""
        bounds = []
        if self._backoff.tries_max is not None:
            bounds.append(f"{self._backoff.tries_max - self.failure_count} tries left")
        if self._seconds_max is not None:
            bounds.append(f"{self._worked_at + self._seconds_max - _now():.0f} s left")
        return ", ".join(bounds) or "and until it works"

    def _is_in_time(self, seconds: float) -> bool:
        return self._seconds_max is None or _now() + seconds - self._worked_at <= self._seconds_max


async def retried(
    ask: Callable[[], Awaitable[Result]], passing: tuple[type[Exception], ...], retries: Retries
) -> Result:
    """Ask until there is an answer.

    Args:
        ask: what is tried; must be safe to repeat.
        passing: the errors after which it is tried again; any other is raised at once.
        retries: says how long; when it gives up, the last error is raised.
    """
    while True:
        try:
            answer = await ask()
        except passing as error:
            await retries.pause(error)
        else:
            retries.succeeded()
            return answer


def _now() -> float:
    return asyncio.get_running_loop().time()


def _words(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return "; ".join(dict.fromkeys(_words(each) for each in error.exceptions))
    return str(error) or repr(error)
