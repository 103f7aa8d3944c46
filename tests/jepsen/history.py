"""What clients of the log did and saw, one JSON line each, by processes that may be killed at any moment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """An event that somebody asked to append."""

    event_id: str
    stream: str
    text: str
    """What it says, so that changed content shows."""


@dataclass(frozen=True, slots=True)
class Invoked:
    """A command was sent; the same one may be sent several times."""

    command_id: str
    lane: int
    events: Sequence[Event]
    at_ns: int
    """On the machine's monotonic clock, which all processes share."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The log answered: these are the positions."""

    command_id: str
    positions: Sequence[int]
    at_ns: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The log answered: nothing was appended."""

    command_id: str
    code: str


@dataclass(frozen=True, slots=True)
class Forged:
    """Other events under the id of an acknowledged command were sent; none of them may ever be stored."""

    command_id: str
    events: Sequence[Event]
    was_refused: bool
    """False while the answer is not known."""


@dataclass(frozen=True, slots=True)
class Saw:
    """A watcher was given an event."""

    lane: int
    position: int
    event_id: str
    stream: str
    version: int
    text: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An event that the log holds in the end."""

    lane: int
    position: int
    event_id: str
    stream: str
    version: int
    text: str


Record = Invoked | Acknowledged | Refused | Forged | Saw

_KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (Invoked, Acknowledged, Refused, Forged, Saw)
}


def now_ns() -> int:
    """Read the clock of the histories."""
    return time.monotonic_ns()


class HistoryFile:
    """Appends records; each is in the kernel's hands when ``write`` returns, and so survives our death."""

    def __init__(self, path: Path) -> None:
        """Go on with a file, whose last line may have been cut by a kill."""
        if path.exists():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *records: Record) -> None:
        """Append records."""
        lines = [json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n" for record in records]
        os.write(self._descriptor, "".join(lines).encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_history(path: Path) -> list[Record]:
    """Read what a process wrote, without a last line that it did not finish."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_record(json.loads(line)) for line in lines]


def last_seen(records: Iterable[Record], lane: int) -> int:
    """Give the last position of a lane that a watcher saw; 0 for none."""
    return max(
        (record.position for record in records if isinstance(record, Saw) and record.lane == lane), default=0
    )


def _record(fields: dict[str, Any]) -> Record:
    kind = _KINDS[fields.pop("kind")]
    if "events" in fields:
        fields["events"] = tuple(Event(**event) for event in fields["events"])
    if "positions" in fields:
        fields["positions"] = tuple(fields["positions"])
    found: Record = kind(**fields)
    return found
