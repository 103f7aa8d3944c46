"""What every part of a simulation shares: its chance and clock, what it noted, found and reached."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field

from runyard_core.clock import ManualClock

_NOTES_MAX = 4_000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must never be."""

    what: str
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was done to the yard, for whoever reads a failure."""

    at_seconds: float
    what: str
    run_id: str = ""


_current: list[Universe] = []


def current() -> Universe:
    """Give the world that is lived through now: one at a time."""
    return _current[0]


@dataclass(slots=True)
class Universe:
    """One seed's world."""

    seed: int
    chance: random.Random = field(init=False)
    clock: ManualClock = field(default_factory=ManualClock)
    findings: list[Finding] = field(default_factory=list)
    notes: deque[Note] = field(default_factory=lambda: deque(maxlen=_NOTES_MAX))
    reached: Counter[str] = field(default_factory=Counter)
    has_found: asyncio.Event = field(default_factory=asyncio.Event)
    calm: bool = False
    """Once true no more faults come up."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        _current[:] = [self]

    def likely(self, probability: float) -> bool:
        """Draw: true this often while there are faults, never after that."""
        return not self.calm and self.chance.random() < probability

    def between(self, low: float, high: float) -> float:
        """Draw a number."""
        return self.chance.uniform(low, high)

    def note(self, what: str, run_id: str = "") -> None:
        """Keep a line for the report of a failure."""
        self.notes.append(Note(self.clock.monotonic_seconds(), what, run_id))

    def sometimes(self, what: str) -> None:
        """Prove that this was reached."""
        self.reached[what] += 1

    def never(self, what: str, run_id: str = "") -> None:
        """Report what must never be; the simulation ends soon after."""
        self.note(f"FOUND: {what}", run_id)
        self.findings.append(Finding(what, run_id))
        self.has_found.set()

    def always(self, condition: bool, what: str, run_id: str = "") -> None:
        """Check what must hold."""
        if not condition:
            self.never(what, run_id)
