"""Follows a lane of the log: pages of history first, then each new page as soon as it is there.

Events always come from the log itself; the doorbell only says when to look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_core.errors import Unavailable
from runyard_core.retry import Backoff, Retries
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EVERYTHING, EventFilter, EventLog, Page
from runyard_eventlog.reading_ahead import ReadingAhead

LOOK_SECONDS_MAX = 1.0
"""The log's head is looked at least this often, whether it rings or not."""

_BACKOFF = Backoff(first_seconds=0.1, seconds_max=1.0)
_log = logging.getLogger(__name__)


async def follow(
    log: EventLog,
    lane: Lane.ValueType,
    *,
    after_position: Position = Position(0),
    filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
    doorbell: Doorbell | None = None,
    page_size: int = 1_000,
    idle_page_seconds: float | None = None,
) -> AsyncGenerator[Page, None]:
    """Give every matching event of a lane once and in order, for ever.

    A page is given whenever ``scanned_to`` moved, so it may be empty. The log being away is waited out.

    Args:
        log: where events are read.
        lane: the lane to follow.
        after_position: the last position that the caller has.
        filter: what the caller wants.
        doorbell: rings when the log may have grown; without one the head is looked at every second.
        page_size: most events of a page.
        idle_page_seconds: give an empty page when nothing happened for so long (for bookmarks).
    """
    bell = doorbell or Doorbell()
    loop = asyncio.get_running_loop()
    position = after_position
    given_at = loop.time()
    retries = Retries("following the log", _BACKOFF, _log)
    heard = bell.rings
    pages = ReadingAhead(
        lambda position: log.read(lane, after_position=position, filter=filter, limit=page_size)
    )
    try:
        while True:
            try:
                page = await pages.page_after(position)
            except Unavailable as error:
                await retries.pause(error)
                continue
            retries.succeeded()
            if page.scanned_to > position:
                position = page.scanned_to
                heard = bell.rings
                if page.is_full:
                    await pages.ask_after(position)
                yield page
                given_at = loop.time()
                continue
            if idle_page_seconds is not None and loop.time() - given_at >= idle_page_seconds:
                yield Page([], position)
                given_at = loop.time()
            await bell.wait(heard, LOOK_SECONDS_MAX)
            heard = bell.rings
    finally:
        pages.close()
