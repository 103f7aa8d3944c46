"""A rebuild in words: a line that moves on a terminal, plain lines in a pipe, and how it ended."""

from __future__ import annotations

import sys
import time

from runyard.projection.v1 import types_pb2 as pb
from runyard_cli.output import note, safe
from runyard_cli.words import duration_words
from runyard_core.counted import count_words

PLAIN_LINE_SECONDS = 5.0
"""A pipe gets a line for each phase, and within one this often."""
ROW_CHARACTERS_MAX = 300

_PHASES = {
    pb.REBUILD_PHASE_FILLING: "folding the log",
    pb.REBUILD_PHASE_INDEXING: "making indexes",
    pb.REBUILD_PHASE_COMPARING: "comparing with the live tables",
    pb.REBUILD_PHASE_SWAPPING: "taking their place",
}


def target_name(progress: pb.RebuildProgress) -> str:
    """Name a read model as the commands take it: "metrics/runs"."""
    return f"{progress.service}/{progress.projection}"


def progress_line(progress: pb.RebuildProgress) -> str:
    """Say how far it is: "cost/cost: folding the log, 400 of 1,000 (40%), 61,000 events/s, 10 ms left"."""
    words = f"{target_name(progress)}: {_PHASES.get(progress.phase, 'done')}"
    if progress.phase != pb.REBUILD_PHASE_FILLING or not progress.target_position:
        return words
    share = progress.position / progress.target_position
    words += f", {progress.position:,} of {progress.target_position:,} ({share:.0%})"
    if progress.events_per_second:
        left = duration_words(progress.eta_seconds)
        words += f", {progress.events_per_second:,.0f} events/s, {left} left"
    if progress.resumed_from_position:
        words += f", resumed at {progress.resumed_from_position:,}"
    return words


class ProgressLine:
    """Shows progress on standard error."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._is_terminal = sys.stderr.isatty()
        self._phase = pb.REBUILD_PHASE_UNSPECIFIED
        self._said_at = float("-inf")

    def show(self, progress: pb.RebuildProgress) -> None:
        """Show how far it is now; what has ended is left to whoever says how."""
        if progress.phase not in _PHASES:
            self.clear()
            return
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[K{safe(progress_line(progress))}")
            sys.stderr.flush()
            return
        now = time.monotonic()
        if progress.phase != self._phase or now - self._said_at >= PLAIN_LINE_SECONDS:
            self._phase, self._said_at = progress.phase, now
            note(safe(progress_line(progress)))

    def note(self, text: str) -> None:
        """Write a line of another kind in its place."""
        self.clear()
        note(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def outcome_lines(progress: pb.RebuildProgress) -> list[str]:
    """Say how a rebuild or verification ended: each table, then each row that differs."""
    lines = []
    for table in progress.tables:
        is_same = table.live_checksum == table.rebuilt_checksum
        rows = count_words(table.live_row_count, "row")
        if is_same:
            lines.append(f"  {table.table:<16} {rows}, checksum {table.live_checksum}")
        else:
            lines.append(
                f"  {table.table:<16} DIFFERS: live {rows}, {table.live_checksum}; "
                f"from the log {table.rebuilt_row_count:,}, {table.rebuilt_checksum}"
            )
    for row in progress.differences:
        lines += [
            f"  {row.table} {row.key_json} at position {row.position}",
            f"    live:         {_shown(row.live_row_json)}",
            f"    from the log: {_shown(row.rebuilt_row_json)}",
        ]
    if later := progress.later_dispute_count:
        lines.append(
            f"  {count_words(later, 'dispute')} came since it began; only the next rebuild goes by that"
        )
    if progress.parked_count:
        lines.append(f"  {count_words(progress.parked_count, 'event')} could not be projected")
    return lines


def _shown(row_json: str) -> str:
    if not row_json:
        return "no such row"
    return row_json if len(row_json) <= ROW_CHARACTERS_MAX else row_json[:ROW_CHARACTERS_MAX] + "..."
