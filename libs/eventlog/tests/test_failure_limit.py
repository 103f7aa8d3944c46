"""When a projection has failed too often."""

from __future__ import annotations

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.failure_limit import FailureLimit, ProjectionStopped
from runyard_eventlog.folding import Parked


def test_twenty_in_a_row_are_too_many() -> None:
    limit = FailureLimit()
    for _ in range(19):
        limit.record(has_failed=True)
    with pytest.raises(ProjectionStopped, match="20 events in a row"):
        limit.record(has_failed=True)


def test_a_copy_counts_by_itself_until_it_is_taken_over() -> None:
    limit = FailureLimit()
    copied = limit.copy()
    for _ in range(19):
        copied.record(has_failed=True)
    limit.record(has_failed=True)
    limit.become(copied)
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


def test_a_batch_counts_its_failures_and_not_what_waits_behind_them() -> None:
    events = [RecordedEvent(Envelope(position=number)) for number in range(1, 101)]

    def parked(first: int, last: int, reason: str) -> list[Parked]:
        return [Parked(event, reason, "") for event in events if first <= event.position <= last]

    limit = FailureLimit()
    limit.record_all(events, parked(1, 60, "BEHIND_PARKED"))
    limit.record_all(events, [*parked(5, 14, "APPLY_FAILED"), *parked(40, 44, "UNDECODABLE")])
    with pytest.raises(ProjectionStopped, match="21 of the last"):
        limit.record_all(events, parked(1, 6, "APPLY_FAILED"))
