"""When a projection has failed too often."""

from __future__ import annotations

import pytest

from runyard_eventlog.failure_limit import FailureLimit, ProjectionStopped


def test_twenty_in_a_row_are_too_many() -> None:
    limit = FailureLimit()
    for _ in range(19):
        limit.record(has_failed=True)
    with pytest.raises(ProjectionStopped, match="20 events in a row"):
        limit.record(has_failed=True)


def test_a_success_between_starts_the_row_anew() -> None:
    limit = FailureLimit()
    for _ in range(10):
        limit.record(has_failed=True)
    limit.record(has_failed=False)
    for _ in range(10):
        limit.record(has_failed=True)


def test_over_one_percent_of_the_window_is_too_much_and_old_failures_are_forgotten() -> None:
    limit = FailureLimit()
    for number in range(10_000):
        limit.record(has_failed=number % 100 == 0)
    limit.record(has_failed=True)
    limit.record(has_failed=False)
    with pytest.raises(ProjectionStopped, match="of the last 2000"):
        limit.record(has_failed=True)
