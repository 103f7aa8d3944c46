"""A mirror that lost something is filled anew, one that holds something of its own halts the relay."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nats.js.api import StorageType, StreamConfig

from runyard_eventlog.mirror import MirrorEntry, configuration
from runyard_eventlog.mirror_judgement import (
    Halt,
    Keep,
    LogSighting,
    MirrorSighting,
    Refill,
    differing_settings,
    judge,
)


def entry(position: int, body: bytes = b"body") -> MirrorEntry:
    return MirrorEntry(position, "runyard.event.run.r1", f"event-{position}", body)


LOG = LogSighting(head=100, first_position=1, first_expected=11, entries=[entry(10), entry(90)])
MIRROR = MirrorSighting("EVENTS_x", [], first=10, last=90, count=81, entries=[entry(10), entry(90)])
EMPTY = MirrorSighting("EVENTS_x", [], first=1, last=0, count=0, entries=[])


def test_a_mirror_that_is_behind_is_kept() -> None:
    assert judge(LOG, MIRROR) == Keep()


def test_an_empty_mirror_of_an_empty_log_is_kept() -> None:
    assert judge(LogSighting(0, 1, 1, []), EMPTY) == Keep()


def test_a_mirror_whose_events_were_all_let_go_is_kept() -> None:
    mirror = replace(MIRROR, first=91, count=0, entries=[])
    assert judge(replace(LOG, first_expected=101), mirror) == Keep()


def test_an_end_that_only_the_archive_still_holds_is_not_held_against_the_mirror() -> None:
    assert judge(replace(LOG, entries=[entry(90)]), MIRROR) == Keep()


@pytest.mark.parametrize(
    "mirror",
    [
        replace(MIRROR, last=101, count=92),
        replace(MIRROR, entries=[entry(10), entry(90, b"other")]),
        replace(MIRROR, entries=[entry(10, b"other"), entry(90)]),
        replace(MIRROR, entries=[entry(10), replace(entry(90), event_id="")]),
        replace(MIRROR, entries=[entry(10), replace(entry(90), subject="runyard.event.run.r2")]),
        # Content comes before anything that filling it anew would repair, and wipe out.
        replace(MIRROR, count=80, differing_settings=["max_msgs"], entries=[entry(90, b"other")]),
    ],
)
def test_a_mirror_with_something_of_its_own_halts(mirror: MirrorSighting) -> None:
    assert isinstance(judge(LOG, mirror), Halt)


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        (replace(MIRROR, count=80), "80 of positions 10 to 90"),
        (replace(MIRROR, first=12, count=79, entries=[entry(90)]), "begins at 12, not at 11"),
        (replace(MIRROR, first=91, count=0, entries=[]), "begins at 91"),
        (replace(MIRROR, differing_settings=["max_msgs"]), "max_msgs"),
    ],
)
def test_a_mirror_that_has_lost_something_is_filled_anew(mirror: MirrorSighting, reason: str) -> None:
    judged = judge(LOG, mirror)
    assert isinstance(judged, Refill)
    assert reason in judged.reason


def test_a_mirror_that_ends_before_the_database_begins_is_filled_anew() -> None:
    assert isinstance(judge(replace(LOG, first_position=92), MIRROR), Refill)
    assert judge(replace(LOG, first_position=91), MIRROR) == Keep()


def test_settings_that_could_make_the_mirror_forget_are_told() -> None:
    made = configuration("EVENTS_x", 10, 1)
    assert differing_settings(made, configuration("EVENTS_x", 1, 3)) == []
    # As a server says it: what is off is left out.
    answered = StreamConfig.from_response({**made.as_dict(), "sealed": False, "sources": None})
    assert differing_settings(answered, made) == []
    changed = made.evolve(max_msgs=5, deny_purge=False, storage=StorageType.MEMORY)
    assert differing_settings(changed, made) == ["storage", "max_msgs", "deny_purge"]
