"""Ends a run when its stop condition holds: looks at the metrics on their way from file to spool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.batching import LogLine
from runyard_agent.domain.metric_lines import read_metric_line
from runyard_agent.domain.stop_condition import StopCondition
from runyard_agent.runtime import LaunchPlan

_LINE_BYTES_MAX = 64 * 1024


class StopWatch:
    """The stop condition of one attempt. Once it has held, the run is stopped, whatever comes after."""

    def __init__(self, spec: RunSpec, plan: LaunchPlan, stop: Callable[[Stop], None]) -> None:
        """Watch for the condition of a run that has one; ``stop`` may be called more than once.

        Raises:
            InvalidInput: STOP_CONDITION_INVALID.
        """
        self._condition = StopCondition(spec.stop_condition)
        self._plan = plan
        self._stop = stop
        self._order = Stop(
            CauseCode.CAUSE_CODE_STOP_CONDITION,
            f"its stop condition holds: {spec.stop_condition}",
            spec.stop_grace_seconds,
        )
        self._has_held = False

    def look_back(self, byte_count: int) -> None:
        """Look at what an earlier life of the agent has read: its values died with it. Stops nothing yet."""
        with contextlib.suppress(FileNotFoundError), self._plan.stdout.open("rb") as file:
            while file.tell() < byte_count and (line := file.readline(_LINE_BYTES_MAX)):
                self._look(line.decode("utf-8", "replace"))

    def look(self, lines: Sequence[LogLine]) -> None:
        """Look at lines as they are read."""
        for line in lines:
            if line.stream == LogStream.LOG_STREAM_STDOUT and line.is_whole:
                self._look(line.text)
        # What ended by itself, while nobody read, was not stopped.
        if self._has_held and not self._plan.exit_file.exists():
            self._stop(self._order)

    def _look(self, text: str) -> None:
        reading = read_metric_line(text)
        if reading is not None and self._condition.holds_after(reading):
            self._has_held = True
