"""Fetches the rows of a page that are not more than its bytes.

To add up sizes costs the database a third of a read. So the usual statement adds up nothing, and only leaves
out payloads of more than their share of a page. Where it met one, sizes are added up until
none is that large.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog import rows
from runyard_eventlog.port import PAGE_BYTES_MAX

Run = Callable[[str, list[object]], Awaitable[list[asyncpg.Record]]]
"""Runs a statement of ``rows``; it may add columns."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """The rows of a window that a page has room for."""

    rows: Sequence[asyncpg.Record]
    """Position, what is added, payload."""
    is_cut: bool
    """The next one had no room."""
    first: asyncpg.Record | None
    """What came first, whether it is an event or not."""


class FittingRows:
    """Remembers for each lane whether large events were met last."""

    def __init__(self) -> None:
        """Begin with small ones."""
        self._large: set[Lane.ValueType] = set()

    async def fetch(self, run: Run, window: rows.Window, *, page_limit: int, had_bytes: int) -> Fitting:
        """Fetch what a page has room for.

        Args:
            run: asks the database.
            window: where its next events are.
            page_limit: most events of the page.
            had_bytes: what it holds already.
        """
        share = PAGE_BYTES_MAX // page_limit
        if window.lane not in self._large:
            fitting = _fitting(await run(*rows.page(window, share)))
            if not fitting.is_cut:
                return fitting
            self._large.add(window.lane)
        fitting = _fitting(await run(*rows.page_by_size(window, PAGE_BYTES_MAX - had_bytes)))
        if all(len(row[2]) <= share for row in fitting.rows):
            self._large.discard(window.lane)
        return fitting


def size_of(found: Sequence[asyncpg.Record]) -> int:
    """Add up the bytes of payloads."""
    return sum(len(row[2]) for row in found)


def _fitting(found: list[asyncpg.Record]) -> Fitting:
    first = found[0] if found else None
    if first is None or first[0] is None:
        return Fitting((), is_cut=False, first=first)
    payloads = [row[2] for row in found]
    if None not in payloads:
        return Fitting(found, is_cut=False, first=first)
    return Fitting(found[: payloads.index(None)], is_cut=True, first=first)
