"""Decides when a projection has failed too often to go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Corrupt
from runyard_eventlog.folding import Parked

WINDOW = 2_000
"""Events over which the share of failures is taken."""
FAILURES_MAX = 20
"""Most failures in the window (1 %), and first forbidden number in a row."""


class ProjectionStopped(Corrupt):
    """Too many events cannot be projected: the code or the log is wrong, and a person must look."""

    default_code = "PROJECTION_STOPPED"


class FailureLimit:
    """Counts what became of the last events."""

    def __init__(self) -> None:
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._failures = 0
        self._in_a_row = 0

    def copy(self) -> FailureLimit:
        """Give one that goes on from here by itself, for events that may have to be folded once more."""
        copied = FailureLimit()
        copied.become(self)
        return copied

    def become(self, other: FailureLimit) -> None:
        """Count what another one has counted, and nothing else."""
        self._recent = other._recent.copy()
        self._failures, self._in_a_row = other._failures, other._in_a_row

    def record_all(self, events: Sequence[RecordedEvent], parked: Sequence[Parked]) -> None:
        """Count a batch.

        Raises:
            ProjectionStopped: as ``record``.
        """
        # What waits behind a parked event of its stream is not one more failure.
        failed = {letter.event.position for letter in parked if letter.reason != "BEHIND_PARKED"}
        if not failed and not self._failures:
            # By far the most batches: nothing to look for event by event.
            self._recent.extend([False] * min(len(events), WINDOW))
            return
        for event in events:
            self.record(has_failed=event.position in failed)

    def record(self, *, has_failed: bool) -> None:
        """Count one event.

        Raises:
            ProjectionStopped: over 1 % of the last events failed, or 20 in a row.
        """
        self._failures += has_failed - (len(self._recent) == WINDOW and self._recent[0])
        self._recent.append(has_failed)
        if not has_failed:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_MAX:
            raise ProjectionStopped(f"{self._in_a_row} events in a row could not be projected")
        if self._failures > FAILURES_MAX:
            raise ProjectionStopped(f"{self._failures} of the last {WINDOW} events could not be projected")
