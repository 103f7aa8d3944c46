"""Ends a run when its stop condition holds: looks at the metrics on their way from file to spool."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, RunSpec
from runyard_agent.domain.attempt import Stop
from runyard_agent.domain.batching import LogLine
from runyard_agent.domain.line_assembler import Line, LineAssembler
from runyard_agent.domain.metric_lines import read_metric_line
from runyard_agent.domain.stop_condition import StopCondition
from runyard_agent.runtime import LaunchPlan

_READ_BYTES = 256 * 1024


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
        assembler = LineAssembler()
        with contextlib.suppress(FileNotFoundError), self._plan.stdout.open("rb") as file:
            while chunk := file.read(min(_READ_BYTES, byte_count - file.tell())):
                self._look_at(assembler.feed(chunk))
            self._look_at(assembler.finish())

    def look(self, lines: Sequence[LogLine]) -> None:
        """Look at lines as they are read."""
        self._look_at([line for line in lines if line.stream == LogStream.LOG_STREAM_STDOUT])
        # What ended by itself, while nobody read, was not stopped.
        if self._has_held and not self._plan.exit_file.exists():
            self._stop(self._order)

    def _look_at(self, lines: Sequence[Line | LogLine]) -> None:
        for line in lines:
            reading = read_metric_line(line.text) if line.is_whole else None
            if reading is not None and self._condition.holds_after(reading):
                self._has_held = True
