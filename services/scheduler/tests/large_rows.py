"""Rows of runs, and how much memory this process has for them."""

from __future__ import annotations

import gc
import re
from pathlib import Path

from runyard.run.v1.types_pb2 import Run as RunDocument
from runyard_scheduler.projections.runs import RunRow


def a_row(document: RunDocument) -> RunRow:
    """A row of a run that holds no lease."""
    return RunRow(
        run_id=document.run_id,
        position=1,
        version=1,
        queued_position=1,
        project="digits",
        number=1,
        state=document.state,
        step="train",
        node_id="",
        submitted_by="user:alice",
        tags=(),
        correlation_id="",
        traceparent="",
        trail_event_ids=(),
        trail_positions=(),
        lease_milliseconds=0,
        lease_expired=False,
        stop_cause=0,
        stop_reason="",
        document=document.SerializeToString(),
    )


def held_mebibytes() -> float:
    """What the process holds now."""
    gc.collect()
    return _status("VmRSS")


def forget_peak() -> None:
    """Let ``peak_mebibytes`` begin anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes() -> float:
    """The most that the process has held."""
    return _status("VmHWM")


def _status(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
