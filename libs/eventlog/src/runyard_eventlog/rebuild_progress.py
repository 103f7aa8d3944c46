"""How far a rebuild is: its rate over the last seconds, and when it will be done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from runyard.projection.v1.events_pb2 import ProjectionRebuilt
from runyard.projection.v1.types_pb2 import RebuildPhase, RebuildProgress
from runyard_core.clock import Clock
from runyard_core.errors import RunyardError
from runyard_eventlog.comparison import Comparison

RATE_SECONDS = 5.0
"""Time over which the rate is taken."""
REPORT_SECONDS = 0.25
"""Progress within a phase is reported this often."""


class ProgressMeter:
    """Keeps the progress of one rebuild, and reports it whenever there is something to say."""

    def __init__(
        self, begun: RebuildProgress, clock: Clock, report: Callable[[RebuildProgress], None]
    ) -> None:
        """Start with what names the rebuild; ``report`` gets a message that it may keep."""
        self._progress = begun
        self._clock = clock
        self._report = report
        self._seen: deque[tuple[float, int]] = deque()
        self._reported_at = float("-inf")

    def resumed(self, position: int) -> None:
        """Note where it goes on."""
        self._progress.resumed_from_position = position

    def parked(self, count: int) -> None:
        """Note how many events could not be projected so far."""
        self._progress.parked_count = count

    def filling(self, position: int, target: int) -> None:
        """Note where a fill begins, and where it is to end."""
        self._seen.clear()
        if self._progress.phase != RebuildPhase.REBUILD_PHASE_SWAPPING:
            self._progress.phase = RebuildPhase.REBUILD_PHASE_FILLING
        self._progress.target_position = target
        self._at(position)
        self._say()

    def filled(self, position: int, parked_count: int) -> None:
        """Note how far the fill is."""
        self._progress.parked_count += parked_count
        self._at(position)
        if self._clock.monotonic_seconds() - self._reported_at >= REPORT_SECONDS:
            self._say()

    def phase(self, phase: RebuildPhase.ValueType) -> None:
        """Note that a phase begins."""
        self._progress.phase = phase
        self._say()

    def compared(self, comparison: Comparison, later_disputes: int) -> None:
        """Note what the comparison found, and how many disputes the build does not go by."""
        self._progress.later_dispute_count = later_disputes
        del self._progress.tables[:], self._progress.differences[:]
        self._progress.tables.extend(comparison.tables)
        self._progress.differences.extend(comparison.differences)
        self._progress.compared_position = comparison.position
        self._say()

    def told(self, event: ProjectionRebuilt, position: int) -> None:
        """Note that it is done and in the log."""
        del self._progress.tables[:]
        self._progress.tables.extend(event.tables)
        self._progress.compared_position = event.compared_position
        self._progress.position = self._progress.target_position = event.position
        self._progress.event_position = position
        self.phase(RebuildPhase.REBUILD_PHASE_DONE)

    def failed(self, error: RunyardError) -> None:
        """Note what ended it."""
        self._progress.reason, self._progress.message = error.code, error.message
        self.phase(RebuildPhase.REBUILD_PHASE_FAILED)

    def _at(self, position: int) -> None:
        now = self._clock.monotonic_seconds()
        self._seen.append((now, position))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            self._seen.popleft()
        since, first = self._seen[0]
        rate = (position - first) / (now - since) if now > since else 0.0
        left = self._progress.target_position - position
        self._progress.position = position
        self._progress.events_per_second = rate
        self._progress.eta_seconds = left / rate if rate else 0.0

    def _say(self) -> None:
        self._reported_at = self._clock.monotonic_seconds()
        self._report(RebuildProgress.FromString(self._progress.SerializeToString()))
