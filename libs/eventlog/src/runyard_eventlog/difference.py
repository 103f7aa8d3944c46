"""Finds which events differ from the leaf hashes that were sealed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.merkle import leaf_hash
from runyard_eventlog.stored_event import StoredEvent, canonical_bytes


class Kind(StrEnum):
    """What is wrong."""

    CHANGED = "changed"
    DROPPED = "dropped"
    ADDED = "added"
    SWAPPED = "swapped"
    CORRUPT_FILE = "corrupt file"
    MISSING_FILE = "missing file"
    MISSING_SEGMENT = "missing segment"
    BAD_MANIFEST = "bad manifest"
    BAD_SIGNATURE = "bad signature"
    FOREIGN_KEY = "foreign key"
    BROKEN_CHAIN = "broken chain"
    UNKNOWN_SEGMENT = "unknown segment"
    OTHER_SEAL = "other seal"


@dataclass(frozen=True, slots=True)
class Difference:
    """One event that is not as it was sealed."""

    kind: Kind
    position: int
    event_id: str
    """Of the event found there; of a dropped one empty when nothing else tells."""
    detail: str = ""


def differences(
    sealed: Sequence[bytes],
    first: int,
    found: Sequence[StoredEvent],
    lane: Lane.ValueType,
    known_ids: Mapping[int, str],
) -> list[Difference]:
    """Compare rows with the leaf hashes that were sealed.

    Args:
        sealed: the leaf hashes of the positions from ``first`` on, known to be genuine.
        first: position of the first of them.
        found: the rows, in whatever order they are in.
        lane: their lane.
        known_ids: event ids by position as another copy has them, to name what was dropped.
    """
    wrong: dict[int, StoredEvent] = {}
    genuine: set[int] = set()
    added = []
    for event in found:
        index = event.position - first
        if not 0 <= index < len(sealed):
            added.append(
                Difference(Kind.ADDED, event.position, str(event.event_id), "outside of the segment")
            )
        elif _leaf(event, lane) == sealed[index] and event.position not in genuine:
            genuine.add(event.position)
        elif event.position in genuine or event.position in wrong:
            added.append(Difference(Kind.ADDED, event.position, str(event.event_id), "the position twice"))
        else:
            wrong[event.position] = event
    # A second row may be the genuine one.
    for position in genuine & wrong.keys():
        stranger = wrong.pop(position)
        added = [one for one in added if one.position != position]
        added.append(Difference(Kind.ADDED, position, str(stranger.event_id), "the position twice"))
    missing = [
        position for position in range(first, first + len(sealed)) if position not in genuine | wrong.keys()
    ]
    shifted = _shifted(sealed, first, wrong, lane, known_ids)
    if shifted is not None:
        return sorted([*added, shifted], key=lambda one: one.position)
    dropped = [Difference(Kind.DROPPED, position, known_ids.get(position, "")) for position in missing]
    return sorted([*added, *dropped, *_changed(sealed, first, wrong, lane)], key=lambda one: one.position)


def in_order(first: int, found: Sequence[StoredEvent]) -> Difference | None:
    """Find the first row that is not at its place in the file, although all rows are genuine."""
    for index, event in enumerate(found):
        if event.position != first + index:
            return Difference(Kind.SWAPPED, event.position, str(event.event_id), "out of order in the file")
    return None


def _changed(
    sealed: Sequence[bytes], first: int, wrong: Mapping[int, StoredEvent], lane: Lane.ValueType
) -> list[Difference]:
    """Tell events that only stand in each other's place from those that are no longer the same."""
    places = {sealed[position - first]: position for position in wrong}
    changed = []
    for position, event in wrong.items():
        # Quadratic, so only where few events are wrong.
        own = next(
            (
                place
                for place in (wrong if len(wrong) <= 64 else ())
                if places.get(_leaf(event._replace(position=place), lane)) == place
            ),
            None,
        )
        kind = Kind.CHANGED if own is None else Kind.SWAPPED
        detail = "" if own is None else f"belongs to position {own}"
        changed.append(Difference(kind, position, str(event.event_id), detail))
    return changed


def _shifted(
    sealed: Sequence[bytes],
    first: int,
    wrong: Mapping[int, StoredEvent],
    lane: Lane.ValueType,
    known_ids: Mapping[int, str],
) -> Difference | None:
    """See whether one event was put in or taken out and all later ones were renumbered."""
    if len(wrong) < 3:
        return None
    start = min(wrong)
    here, after = wrong[start], wrong.get(start + 1)

    def belongs(event: StoredEvent, position: int) -> bool:
        index = position - first
        return 0 <= index < len(sealed) and _leaf(event._replace(position=position), lane) == sealed[index]

    if after is not None and all(belongs(event, at - 1) for at, event in wrong.items() if at != start):
        return Difference(Kind.ADDED, start, str(here.event_id), "and the later ones were renumbered")
    # The last row of the segment then comes from the next one.
    if all(belongs(event, at + 1) for at, event in wrong.items() if at + 1 < first + len(sealed)):
        return Difference(Kind.DROPPED, start, known_ids.get(start, ""), "and the later ones were renumbered")
    return None


def _leaf(event: StoredEvent, lane: Lane.ValueType) -> bytes:
    return leaf_hash(canonical_bytes(event, lane))
