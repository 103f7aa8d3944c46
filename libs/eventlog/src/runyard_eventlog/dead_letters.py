"""Parked events of a projection: looked at, and applied again in order once the reason is mended.

Rows are one a (key, position), and what later events made of a key stays as it is. So an event is applied
again only over the rows as they were at its position, and only where no later row has been built on the keys
that it changes; otherwise its place is in the past of others, and only a rebuild gives what the log says.
"""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import NotFound, Rejected
from runyard_core.projection import Projection
from runyard_eventlog.connections import Connection
from runyard_eventlog.disputes import disputed_events, undisputed
from runyard_eventlog.filling import fold_events
from runyard_eventlog.folding import Folded, Parked
from runyard_eventlog.port import EventLog
from runyard_eventlog.projection_store import Place, ProjectionStore
from runyard_eventlog.querying import lent
from runyard_eventlog.row_cache import RowCache
from runyard_eventlog.storable import Storable

REQUEUED_MAX = 1_000
"""Most events that one call applies."""
_COLUMNS = "position, stream, event_id, type, reason, error, parked_at"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a projection could not apply."""

    position: int
    stream: str
    event_id: str
    type: str
    reason: str
    """UNDECODABLE, APPLY_FAILED or BEHIND_PARKED."""
    error: str
    parked_at: datetime


@dataclass(slots=True)
class Requeued:
    """What became of a requeue."""

    applied: list[DeadLetter] = field(default_factory=list)
    failed: list[DeadLetter] = field(default_factory=list)
    """The first of each stream that failed again, with the new error."""
    remaining_count: int = 0


class DeadLetters:
    """The parked events of one live read model."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: EventLog,
        projection: Projection[Any],
        *,
        schema: str,
        lane: Lane.ValueType,
    ) -> None:
        """Use connections of the role that owns the schema."""
        self._pool = pool
        self._log = log
        self._projection = projection
        self._lane = lane
        self._store = ProjectionStore(projection, schema)
        self._parked = f"{schema}.projection_parked"
        self._checkpoint = f"{schema}.projection_checkpoint"

    async def page(self, *, after: int, limit: int, stream: str = "") -> list[DeadLetter]:
        """Give parked events behind a position, in order.

        Raises:
            Unavailable: the database does not answer.
        """
        async with lent(self._pool) as connection:
            return await self._read(connection, after=after, limit=limit, stream=stream)

    async def get(self, position: int) -> tuple[DeadLetter, RecordedEvent]:
        """Give a parked event by its position, with the event.

        Raises:
            NotFound: none is parked there (DEAD_LETTER_NOT_FOUND).
            Unavailable: the log or the database did not answer.
        """
        found = await self.page(after=position - 1, limit=1)
        if not found or found[0].position != position:
            raise NotFound(
                f"{self._projection.name} has no parked event at position {position}",
                code="DEAD_LETTER_NOT_FOUND",
            )
        return found[0], await self._event(position)

    async def requeue(self, *, stream: str = "", limit: int = REQUEUED_MAX) -> Requeued:
        """Apply parked events again, in order of position: those of a stream, or all.

        A stream whose first one fails again keeps the rest behind it. The projector looks again afterwards.

        Raises:
            Rejected: later rows were built on what an event changes (REBUILD_NEEDED); nothing is changed.
            Unavailable: the log or the database did not answer.
        """
        done = Requeued()
        async with lent(self._pool) as connection, connection.transaction():
            # The projector waits, so that no event of these streams comes in between.
            await self._store.lock(connection)
            letters = await self._read(connection, after=0, limit=limit, stream=stream)
            place = await self._store.place(connection)
            disputed = await disputed_events(self._log, place.disputes_position)
            stopped: set[str] = set()
            for letter in letters:
                if letter.stream in stopped:
                    continue
                event = await self._event(letter.position)
                failure = await self._apply(connection, undisputed([event], disputed))
                if failure is None:
                    done.applied.append(letter)
                    await self._forget(connection, letter)
                    continue
                if failure.reason == "APPLY_FAILED":
                    stopped.add(letter.stream)
                await self._store.park(connection, [failure])
                (again,) = await self._read(connection, after=letter.position - 1, limit=1)
                done.failed.append(again)
            done.remaining_count = await self._count(connection)
            await connection.execute(
                f"""
                update {self._checkpoint} set epoch = epoch + 1
                where (projection, version, build) = ($1, $2, '')
                """,
                *self._identity,
            )
        return done

    async def _apply(self, connection: Connection, events: list[RecordedEvent]) -> Parked | None:
        """Apply an event over the rows of its time; gives why that fails."""
        if not events:
            return None
        position = events[0].position
        folded = await fold_events(
            connection,
            self._store,
            # Few events, and one that is refused would end the whole transaction.
            Storable(self._projection),
            events,
            Place(Position(0), frozenset()),
            RowCache(has_all_keys=False),
            to_position=position,
        )
        if folded.parked:
            return folded.parked[0]
        await self._refuse_past(connection, folded, position)
        await self._store.write_rows(connection, folded)
        return None

    async def _refuse_past(self, connection: Connection, folded: Folded, position: int) -> None:
        written = {
            spec.name: set(map(spec.key_of, folded.rows[spec.name]))
            for spec in self._projection.tables
            if spec.is_read and folded.rows[spec.name]
        }
        for key, row in (await self._store.fetch(connection, written)).items():
            newest = getattr(row, "position", 0)
            if newest > position:
                raise Rejected(
                    f"row {', '.join(map(str, key.values))} of {key.table} has gone on to position {newest} "
                    f"without the event at {position}: only a rebuild puts it into its place",
                    code="REBUILD_NEEDED",
                    metadata={"position": str(position), "newest_position": str(newest)},
                )

    async def _event(self, position: int) -> RecordedEvent:
        page = await self._log.read(
            self._lane, after_position=Position(position - 1), to_position=Position(position), limit=1
        )
        return page.events[0]

    async def _read(
        self, connection: Connection, *, after: int, limit: int, stream: str = ""
    ) -> list[DeadLetter]:
        rows = await connection.fetch(
            f"""
            select {_COLUMNS} from {self._parked}
            where (projection, version, build) = ($1, $2, '') and position > $3 and ($4 = '' or stream = $4)
            order by position limit $5
            """,
            *self._identity,
            after,
            stream,
            limit,
        )
        return [DeadLetter(*row) for row in rows]

    async def _forget(self, connection: Connection, letter: DeadLetter) -> None:
        await connection.execute(
            f"""
            delete from {self._parked}
            where (projection, version, build, position) = ($1, $2, '', $3)
            """,
            *self._identity,
            letter.position,
        )

    async def _count(self, connection: Connection) -> int:
        count: int = await connection.fetchval(
            f"select count(*) from {self._parked} where (projection, version, build) = ($1, $2, '')",
            *self._identity,
        )
        return count

    @property
    def _identity(self) -> Iterable[object]:
        return (self._projection.name, self._projection.version)
