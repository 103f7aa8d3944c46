"""How long to wait before trying again."""

from __future__ import annotations


def backoff_seconds(
    failure_count: int, chance: float, *, first_seconds: float = 0.2, seconds_max: float = 15.0
) -> float:
    """Give the pause after this many failures in a row: doubling, bounded, and spread.

    Args:
        failure_count: failures so far, 1 or more.
        chance: a random number from 0 to 1; a thousand agents must not come back at the same moment.
        first_seconds: the longest pause after the first failure.
        seconds_max: the longest pause of all.
    """
    # The exponent is bounded because an agent may fail for weeks.
    longest = min(seconds_max, first_seconds * 2.0 ** min(failure_count - 1, 30))
    return longest * (0.5 + 0.5 * chance)
