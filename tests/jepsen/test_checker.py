"""The checker says nothing of a good history and names each broken promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.jepsen.checker import violations
from tests.jepsen.history import (
    Acknowledged,
    Event,
    Forged,
    HistoryFile,
    Invoked,
    Record,
    Refused,
    Saw,
    Stored,
    last_seen,
    read_history,
)


@dataclass(slots=True)
class Told:
    """A history and the log that it ended with."""

    client: list[Record]
    watcher: list[Record]
    stored: list[Stored]

    def found(self) -> list[str]:
        return violations([self.client], {"w": self.watcher}, self.stored)


def event(number: int, stream: str) -> Event:
    return Event(f"e{number}", stream, f"text {number}")


def good() -> Told:
    """Four commands in two streams: acknowledged, unanswered and stored, unanswered and gone, refused."""
    stored = [
        Stored(1, 1, "e1", "run-a", 1, "text 1"),
        Stored(1, 2, "e2", "run-b", 1, "text 2"),
        Stored(1, 3, "e3", "run-a", 2, "text 3"),
        Stored(1, 4, "e4", "run-a", 3, "text 4"),
        Stored(2, 1, "t1", "telemetry-n.s", 1, "text t"),
    ]
    client: list[Record] = [
        Invoked("c1", 1, (event(1, "run-a"), event(2, "run-b")), 10),
        Acknowledged("c1", (1, 2), 20),
        Invoked("c1", 1, (event(1, "run-a"), event(2, "run-b")), 21),
        Acknowledged("c1", (1, 2), 22),
        Forged("c1", (event(90, "run-a"),), was_refused=True),
        Invoked("c2", 1, (event(3, "run-a"),), 30),
        Invoked("gone", 1, (event(5, "run-a"), event(6, "run-b")), 31),
        Invoked("no", 1, (event(7, "run-a"),), 32),
        Refused("no", "WRONG_VERSION"),
        Invoked("c3", 1, (event(4, "run-a"),), 40),
        Acknowledged("c3", (4,), 50),
        Invoked("t", 2, (Event("t1", "telemetry-n.s", "text t"),), 5),
        Acknowledged("t", (1,), 60),
    ]
    return Told(client, watched(stored), stored)


def watched(stored: Sequence[Stored]) -> list[Record]:
    return [Saw(e.lane, e.position, e.event_id, e.stream, e.version, e.text, 100) for e in stored]


def lost(told: Told) -> None:
    """The last acknowledged event is gone, from the log and from what was seen of it."""
    told.stored.remove(next(e for e in told.stored if e.event_id == "e4"))
    told.watcher = watched(told.stored)


def lost_between(told: Told) -> None:
    """An unanswered one is gone after it had a position: a hole."""
    del told.stored[2]


def torn(told: Told) -> None:
    told.stored.insert(4, Stored(1, 5, "e5", "run-a", 4, "text 5"))
    told.watcher = watched(told.stored)


def doubled(told: Told) -> None:
    told.stored.insert(4, Stored(1, 5, "e2", "run-b", 2, "text 2"))
    told.watcher = watched(told.stored)


def reordered(told: Told) -> None:
    """Events 1 and 2 changed places: each is there once, and nobody was told so."""
    told.stored[0] = replace(told.stored[0], position=2)
    told.stored[1] = replace(told.stored[1], position=1)
    told.stored[:2] = told.stored[1::-1]
    told.watcher = watched(told.stored)


def stored_too_early(told: Told) -> None:
    """An event that was sent after position 4 was acknowledged lies before it."""
    told.client[5] = replace(told.client[5], at_ns=55)  # type: ignore[arg-type]  # an Invoked


def answered_otherwise(told: Told) -> None:
    told.client[3] = Acknowledged("c1", (3, 4), 22)


def refused_and_stored(told: Told) -> None:
    told.client.append(Refused("c2", "WRONG_VERSION"))


def forged(told: Told) -> None:
    told.stored.insert(4, Stored(1, 5, "e90", "run-a", 4, "text 90"))
    told.watcher = watched(told.stored)


def unasked(told: Told) -> None:
    told.stored.insert(4, Stored(1, 5, "e99", "run-a", 4, "text 99"))
    told.watcher = watched(told.stored)


def changed(told: Told) -> None:
    told.stored[3] = replace(told.stored[3], text="other")
    told.watcher = watched(told.stored)


def version_skipped(told: Told) -> None:
    told.stored[3] = replace(told.stored[3], version=4)
    told.watcher = watched(told.stored)


def missed(told: Told) -> None:
    del told.watcher[1]


def missed_the_end(told: Told) -> None:
    del told.watcher[3]


def missed_a_lane(told: Told) -> None:
    del told.watcher[4]


def seen_twice(told: Told) -> None:
    told.watcher.insert(2, told.watcher[1])


def seen_in_another_order(told: Told) -> None:
    told.watcher[1], told.watcher[2] = told.watcher[2], told.watcher[1]


def seen_with_other_content(told: Told) -> None:
    told.watcher[1] = replace(told.watcher[1], text="other")  # type: ignore[arg-type]  # a Saw


def seen_and_gone(told: Told) -> None:
    """A watcher was shown what a crash then took back."""
    told.watcher.append(Saw(1, 5, "e5", "run-a", 4, "text 5", 100))


def seen_too_early(told: Told) -> None:
    told.watcher[0] = replace(told.watcher[0], at_ns=9)  # type: ignore[arg-type]  # a Saw


def test_a_good_history_has_no_violation() -> None:
    assert good().found() == []


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lost, "command c3 is lost"),
        (lost_between, "position 4 where 3 belongs"),
        (torn, "command gone is torn: 1 of 2"),
        (doubled, "event e2 is stored 2 times"),
        (reordered, "command c1 was told (1, 2), it is at (2, 1)"),
        (stored_too_early, "position 3 of lane 1 was sent after position 4 was acknowledged"),
        (answered_otherwise, "command c1 was told (3, 4), it is at (1, 2)"),
        (refused_and_stored, "command c2 was refused (WRONG_VERSION) and is stored"),
        (forged, "event e90 is stored under a command id that had other events"),
        (unasked, "event e99 is stored, and nobody asked for it"),
        (changed, "event e4 is stored with other content"),
        (version_skipped, "run-a has version 4 where 3 belongs"),
        (missed, "watcher w saw position 3"),
        (missed_the_end, "watcher w saw 3 of 4 events of lane 1"),
        (missed_a_lane, "watcher w saw 0 of 1 events of lane 2"),
        (seen_twice, "watcher w saw position 2 (e2, run-b@1) as number 3"),
        (seen_in_another_order, "watcher w saw position 3 (e3, run-a@2) as number 2"),
        (seen_with_other_content, "watcher w saw position 2"),
        (seen_and_gone, "watcher w saw 5 events of lane 1, the log has 4"),
        (seen_too_early, "watcher w saw event e1 before it was sent"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_promise_is_named(fault: Callable[[Told], None], named: str) -> None:
    told = good()
    fault(told)
    assert any(named in violation for violation in told.found()), told.found()


def test_a_watcher_of_one_lane_need_not_have_seen_the_other() -> None:
    told = good()
    missed_a_lane(told)
    assert violations([told.client], {"w": told.watcher}, told.stored, lanes=[1]) == []
    missed(told)
    assert violations([told.client], {"w": told.watcher}, told.stored, lanes=[1]) != []


def test_a_history_file_survives_a_kill_within_a_line(tmp_path: Path) -> None:
    told = good()
    path = tmp_path / "history"
    for part in (told.client, told.watcher):
        file = HistoryFile(path)
        file.write(*part)
        file.close()
        with path.open("ab") as cut:
            cut.write(b'{"kind": "Saw", "lane": 1, "pos')
    assert read_history(path) == [*told.client, *told.watcher]
    assert (last_seen(told.watcher, 1), last_seen(told.watcher, 2), last_seen([], 1)) == (4, 1, 0)
