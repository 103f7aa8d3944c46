"""Deciding again: what a package that decides offers, and what comes out of it.

Commands are not recorded, but what they came to is, and from that and the state before they can be rebuilt.
A package names its deciders with an entry point of group ``runyard.deciders``: a callable that gives a fresh
``Deciders``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Rejected
from runyard_replay.folding.decisions import Decision

GROUP = "runyard.deciders"


class Deciders(Protocol):
    """Decides again, command after command, from the first event of the log on."""

    categories: Sequence[str]
    """Streams that it decides on."""

    def decide_again(self, events: Sequence[RecordedEvent]) -> Iterable[Decision]:
        """Decide what these events of one command came from, then go on with what was recorded."""
        ...


def installed_deciders() -> list[Deciders]:
    """Give the deciders of every installed package.

    Raises:
        Rejected: none is installed here (NO_DECIDERS).
    """
    # A package that is on the path twice decides once.
    named = {point.value: point for point in entry_points(group=GROUP)}
    found: list[Deciders] = [point.load()() for point in named.values()]
    if not found:
        raise Rejected(
            "no package here decides anything: install runyard-scheduler beside the command line",
            code="NO_DECIDERS",
        )
    return found


def by_command(events: Iterable[RecordedEvent]) -> Iterator[list[RecordedEvent]]:
    """Group the events of a lane by the command that appended them: they follow one another."""
    group: list[RecordedEvent] = []
    for event in events:
        if group and event.envelope.command_id != group[-1].envelope.command_id:
            yield group
            group = []
        group.append(event)
    if group:
        yield group
