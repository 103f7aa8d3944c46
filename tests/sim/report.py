"""What a person reads: a failure with its history and the way to repeat it, and what was reached."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog

from tests.sim.checker import Told
from tests.sim.simulation import Result
from tests.sim.universe import Note

SEEDS_FOR_ALL = 300
"""From so many seeds on, everything below must have been reached."""

EXPECTED = (
    "agent killed",
    "agent killed at a write to its disk",
    "answer to a client lost",
    "append refused by a conflict",
    "append repeated, first answer given",
    "attempt failed",
    "client gave up waiting",
    "lease expired, requeue",
    "lease expired, wait",
    "log away",
    "log silent after having appended",
    "machine lost power",
    "network cut down",
    "network cut up",
    "network cut up+down",
    "node detached",
    "process killed between append and answer",
    "program ended while its agent was dead",
    "program found again that was not written down",
    "request repeated, first answer given",
    "run finished: CAUSE_CODE_ENVIRONMENT_UNAVAILABLE",
    "run finished: CAUSE_CODE_NODE_REBOOT",
    "run finished: CAUSE_CODE_OUTPUT_UNAVAILABLE",
    "run finished: CAUSE_CODE_STOPPED_BY_USER",
    "run finished: CAUSE_CODE_SUCCEEDED",
    "run finished: CAUSE_CODE_USER_ERROR",
    "run reachable again",
    "run requeued",
    "run unreachable",
    "scheduler killed",
    "shim ended a program whose lease ran out",
    "stale report recorded",
    "stop while running",
    "stop while starting",
    "stop while the lease was expired",
    "stop while unreachable",
    "stream ended: ATTACHED_ELSEWHERE",
    "the last attempt was lost",
)
"""Rare branches: a simulation that never gets there proves nothing about them."""

_LINES_MAX = 60


def unreached(seed_count: int, reached: Counter[str]) -> list[str]:
    """Give what should have been reached by so many seeds."""
    return [] if seed_count < SEEDS_FOR_ALL else [what for what in EXPECTED if not reached[what]]


def failure(result: Result, commit: str) -> str:
    """Write down what was found in a seed."""
    lines = [f"seed {result.seed} failed at commit {commit}"]
    for finding in result.findings[:3]:
        lines += ["", f"  {finding.what}"]
        story = result.stories.get(finding.run_id)
        notes = [note for note in result.notes if note.run_id in ("", finding.run_id)]
        lines += _history([] if story is None else story.told, notes, finding.run_id)
    lines += ["", f"repeat: make sim SEED={result.seed}"]
    return "\n".join(lines)


def summary(
    seed_count: int,
    failed: Sequence[int],
    reached: Counter[str],
    event_count: int,
    virtual_seconds: float,
    seconds: float,
) -> str:
    """Write down what many seeds came to."""
    lines = [f"{count:6d} seeds  {what}" for what, count in sorted(reached.items())]
    lines += [f"  none        {what}" for what in EXPECTED if not reached[what]]
    lines.append(
        f"{seed_count} seeds, {event_count} events, {virtual_seconds / 3600:.1f} hours of the yard "
        f"in {seconds:.1f} s: {seed_count / seconds:.2f} seeds/s"
    )
    lines.append(f"failed: {', '.join(map(str, failed))}" if failed else "none failed")
    missing = unreached(seed_count, reached)
    if missing:
        lines.append(f"never reached: {'; '.join(missing)}")
    return "\n".join(lines)


def listen_to_logs() -> None:
    """Keep the logs of the code under test quiet; an error in them is a finding."""
    structlog.configure(processors=[_judge])
    root = logging.getLogger()
    root.handlers[:] = [_ErrorsAreFindings()]
    root.setLevel(logging.ERROR)


def _history(told: Sequence[Told], notes: Sequence[Note], run_id: str) -> list[str]:
    entries = [
        (event.at_seconds, f"@{event.position} {type(event.message).__name__} {_short(str(event.message))}")
        for event in told
    ]
    entries += [(note.at_seconds, note.what) for note in notes]
    entries.sort(key=lambda entry: entry[0])
    shown = entries[-_LINES_MAX:]
    return [f"  run {run_id}" if run_id else "", *(f"  {at:9.3f}  {what}" for at, what in shown)]


def _short(text: str) -> str:
    return " ".join(text.split())[:200]


def _judge(_: object, method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if method in ("error", "exception", "critical") or entry.get("exc_info"):
        _found(str(dict(entry)))
    raise structlog.DropEvent


class _ErrorsAreFindings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _found(self.format(record))


def _found(what: str) -> None:
    from tests.sim import universe

    universe.current().never(f"an error was logged: {what}")
