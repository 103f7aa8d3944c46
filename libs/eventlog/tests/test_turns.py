"""A process that gives way asks less often while others keep it waiting, and as fast as it can otherwise."""

from __future__ import annotations

import pytest

from runyard_eventlog.turns import PAGE_EVERY, PAUSE_SECONDS_MAX, WAITED_MAX, Turns


def pauses(*looks: tuple[float, float]) -> list[float]:
    """Give the pauses of a process that has worked and waited so long at its begin and at each page."""
    left = iter(looks)
    turns = Turns(lambda: next(left))
    return [turns.pause_seconds() for _ in looks[1:]]


def test_who_hardly_waits_does_not_pause() -> None:
    assert pauses((5.0, 3.0), (5.01, 3.0), (5.01, 3.0), (5.02, 3.0 + 0.009 * WAITED_MAX)) == [0.0] * 3


def test_who_waits_pauses_for_as_long_as_some_pages_take() -> None:
    assert pauses((5.0, 3.0), (5.004, 3.002), (5.008, 3.002)) == [pytest.approx(PAGE_EVERY * 0.006), 0.0]


def test_who_waits_for_ever_still_asks() -> None:
    assert pauses((0.0, 0.0), (0.01, 60.0)) == [PAUSE_SECONDS_MAX]
