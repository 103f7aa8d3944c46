"""Lets the database read the next page while the caller works on this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from runyard_contracts.ids import Position
from runyard_eventlog.port import Page


class ReadingAhead:
    """Asks for pages, one of them ahead of time."""

    def __init__(self, read: Callable[[Position], Coroutine[None, None, Page]]) -> None:
        """Ask nothing yet.

        Args:
            read: reads the page after a position.
        """
        self._read = read
        self._ahead: asyncio.Task[Page] | None = None

    async def page_after(self, position: Position) -> Page:
        """Give the page after a position: the one that was asked for ahead, or else it is asked for now.

        Raises:
            Unavailable: the log did not answer in time.
        """
        ahead, self._ahead = self._ahead, None
        return await (ahead or self._read(position))

    async def ask_after(self, position: Position) -> None:
        """Ask for the page that will be wanted next."""
        self._ahead = asyncio.create_task(self._read(position))
        # Lets it ask, as the caller may not give way while it works.
        await asyncio.sleep(0)

    def close(self) -> None:
        """Let go of a page that nobody wants any more."""
        if self._ahead is not None:
            self._ahead.cancel()
