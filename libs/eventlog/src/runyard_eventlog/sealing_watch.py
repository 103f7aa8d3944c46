"""Looks whether segments are due and has them sealed, for as long as a service lives.

The look is two small queries; sealing itself needs libraries of some 80 MB, so the caller says who does it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.clock import Clock, SystemClock
from runyard_core.errors import Conflict, Corrupt, Unavailable
from runyard_eventlog.manifest import LANE_NAMES
from runyard_eventlog.port import EventLog
from runyard_eventlog.segment_seals import SealingSettings, last_sealed, next_segment
from runyard_eventlog.stored_log import StoredLog

_log = logging.getLogger(__name__)

SealLane = Callable[[Lane.ValueType], Awaitable[object]]
"""Seals what is due of a lane. Raises as ``Sealer.seal_due`` does."""


class SealingWatch:
    """Watches both lanes of a log. Of several watches of one log, one at a time gets to seal a lane."""

    def __init__(
        self,
        log: EventLog,
        stored: StoredLog,
        seal: SealLane,
        *,
        settings: SealingSettings,
        look_seconds: float = 30.0,
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            log: any role's view of the whole log.
            stored: the rows of the same log.
            seal: is called for a lane that has something to seal.
            settings: when a segment is full.
            look_seconds: time between two looks, and before the first, when a yard has other things to do.
            clock: tells ages.
        """
        self._log = log
        self._stored = stored
        self._seal = seal
        self._settings = settings
        self._look_seconds = look_seconds
        self._clock = clock or SystemClock()
        self.stopped: dict[Lane.ValueType, Corrupt] = {}
        """Lanes that are not sealed any more, and why: a person must look."""

    async def run(self) -> None:
        """Watch for ever; wait for an absent engine, leave alone a lane whose archive is not its log's."""
        while True:
            await asyncio.sleep(self._look_seconds)
            await self.look()

    async def look(self) -> None:
        """Have sealed what is due now."""
        for lane in LANE_NAMES:
            if lane not in self.stopped:
                await self._look_at(lane)

    async def _look_at(self, lane: Lane.ValueType) -> None:
        try:
            if await self._is_due(lane):
                await self._seal(lane)
        except (Unavailable, Conflict) as error:
            _log.warning("sealing of lane %s: again in a while: %s", LANE_NAMES[lane], error)
        except Corrupt as error:
            _log.critical("sealing of lane %s stopped: %s", LANE_NAMES[lane], error)
            self.stopped[lane] = error

    async def _is_due(self, lane: Lane.ValueType) -> bool:
        last = await last_sealed(self._log, lane)
        due = await next_segment(self._stored, lane, last, self._settings, self._clock.now())
        return due is not None
