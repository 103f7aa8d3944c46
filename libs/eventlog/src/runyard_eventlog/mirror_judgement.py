"""Whether a mirror may be kept as it was found: pure, from what log and bus say of themselves.

The mirror can be computed again at any time, so one that has lost something is made anew. One that holds
what the log does not hold is left for a person to look at: either the log lost events, or somebody else
writes to the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nats.js.api import StreamConfig

from runyard_eventlog.mirror import MirrorEntry

_MUST_BE_AS_MADE = (
    "subjects", "retention", "storage", "max_age", "max_msgs", "max_bytes", "max_msgs_per_subject", "no_ack",
    "mirror", "sources", "sealed", "deny_delete", "deny_purge", "allow_rollup_hdrs", "republish",
    "subject_transform", "allow_msg_ttl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on after its last position."""


@dataclass(frozen=True, slots=True)
class Refill:
    """Delete it and make it again from the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class Halt:
    """It holds something that the log does not."""

    reason: str


@dataclass(frozen=True, slots=True)
class LogSighting:
    """What the log says."""

    head: int
    """Newest position of the domain lane; 0 when there is none."""
    first_position: int
    """Oldest position that the database still holds (older ones are in the archive)."""
    first_expected: int
    """The mirror must hold everything from here on: it is younger than what the mirror lets go."""
    entries: Sequence[MirrorEntry]
    """How the mirror's first and last positions must look, as far as the database holds them."""


@dataclass(frozen=True, slots=True)
class MirrorSighting:
    """What the bus says."""

    name: str
    differing_settings: Sequence[str]
    """Settings of the stream that are not as the relay makes them."""
    first: int
    last: int
    """Its first and last sequence; last = first - 1 when it is empty."""
    count: int
    """Messages that it holds."""
    entries: Sequence[MirrorEntry]
    """Its first and last message, as far as it holds them."""


def judge(log: LogSighting, mirror: MirrorSighting) -> Keep | Refill | Halt:
    """Say what to do with a mirror."""
    if mirror.last > log.head:
        return Halt(
            f"mirror {mirror.name} is at {mirror.last}, the log at {log.head}: was the log restored without "
            "log.change_identity()? See docs/how-to/restore-the-log.md"
        )
    logged = {entry.position: entry for entry in log.entries}
    for entry in mirror.entries:
        if entry.position in logged and entry != logged[entry.position]:
            return Halt(
                f"sequence {entry.position} of {mirror.name} is event {entry.event_id or '(none)'} on "
                f"{entry.subject}, in the log it is {logged[entry.position].event_id}, or its bytes differ"
            )
    if mirror.differing_settings:
        return Refill(f"its settings were changed: {', '.join(mirror.differing_settings)}")
    if mirror.count != mirror.last - mirror.first + 1:
        return Refill(f"it holds {mirror.count} of positions {mirror.first} to {mirror.last}")
    if mirror.first > log.first_expected:
        return Refill(f"it begins at {mirror.first}, not at {log.first_expected}")
    if mirror.last + 1 < log.first_position:
        return Refill(f"it ends at {mirror.last}, and the database begins at {log.first_position}")
    return Keep()


def differing_settings(found: StreamConfig, wanted: StreamConfig) -> list[str]:
    """Name the settings of a stream that are not as they were made."""
    return [
        name for name in _MUST_BE_AS_MADE if _plain(getattr(found, name)) != _plain(getattr(wanted, name))
    ]


def _plain(value: Any) -> Any:
    # The server leaves out what is off.
    return value or None
