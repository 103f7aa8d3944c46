"""Reads of runs and nodes from the read model, as of a position."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from runyard.event.v1.read_pb2 import ReadOptions
from runyard.node.v1.types_pb2 import Node
from runyard.run.v1.types_pb2 import Run, RunState
from runyard_contracts.answer_size import ANSWER_BYTES_MAX
from runyard_contracts.ids import Position, RunId
from runyard_core.errors import Ambiguous, DeadlineExceeded, InvalidInput, NotFound
from runyard_eventlog.moment import WAIT_SECONDS_MAX, Moments
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import queried
from runyard_scheduler.projections.run_parts import whole_run
from runyard_scheduler.run_filter import RunFilter
from runyard_scheduler.tables import NODE_TABLE, RUN_TABLE, parts_of, parts_up_to
from runyard_servicekit.large_runs import fit_run

_RUN_ID = re.compile(r"[0-9a-f-]{1,36}")
_NUMBERED = re.compile(r"(?P<project>[a-z0-9-]+)#(?P<number>[0-9]{1,18}|latest)")
RUN_ID_LENGTH = 36
"""Characters of a whole run id."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run in a list, and its place in the order of the list."""

    run: Run
    queued_position: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list."""

    runs: list[Listed]
    has_more: bool
    """There are runs behind the last one."""


class Queries:
    """Answers from the tables that the projector fills."""

    def __init__(self, pool: asyncpg.Pool, projector: Projector, log: EventLog) -> None:
        """Read through a pool of the role that owns the read model."""
        self._pool = pool
        self._projector = projector
        self._moments = Moments(log, projector)
        self._has_caught_up = False

    async def position(self, read: ReadOptions) -> Position:
        """Give the position that an answer shows, once the read model shows it.

        Raises:
            InvalidInput: a position below 0 (BAD_POSITION).
            OutOfRange: a position that the log does not have (POSITION_AHEAD).
            DeadlineExceeded: the read model did not come to it in time, or to the present since the start.
            Unavailable: the log did not answer.
        """
        if read.as_of.WhichOneof("at") is None:
            await self._caught_up()
        return await self._moments.shown(read)

    async def latest(self, min_position: Position) -> Position:
        """Give the newest position that can be shown, at least this one."""
        await self._projector.wait_for(min_position, WAIT_SECONDS_MAX)
        return self._projector.checkpoint

    async def run_id(self, name: str, position: Position) -> RunId:
        """Find the run that a name means: an id, a prefix of one, "project#12" or "project#latest".

        Raises:
            InvalidInput: it is not a name (BAD_RUN_NAME).
            NotFound: it names nothing (RUN_NOT_FOUND).
            Ambiguous: it is a prefix of several ids.
        """
        numbered = _NUMBERED.fullmatch(name)
        if numbered is not None:
            found = await self._by_number(numbered["project"], numbered["number"], position)
        elif _RUN_ID.fullmatch(name):
            found = await self._by_prefix(name, position)
        else:
            what = 'want a run id, the beginning of one, "project#12" or "project#latest"'
            raise InvalidInput(
                f"{name!r} cannot name a run: {what}", code="BAD_RUN_NAME", field_violations={"name": what}
            )
        if not found:
            raise NotFound(f"there is no run {name!r}", code="RUN_NOT_FOUND")
        if len(found) > 1:
            raise Ambiguous(
                f"{name!r} begins several runs: {', '.join(found)}; give more of the id",
                metadata={"candidates": ",".join(found)},
            )
        return RunId(found[0])

    async def run(self, run_id: RunId, position: Position) -> Run:
        """Give a run as it was at a position, but for what is too much for an answer.

        Raises:
            NotFound: it was not queued yet (RUN_NOT_FOUND).
        """
        rows = await self._fetch(
            f"select r.document, {parts_of('r')} as parts from (select * from {RUN_TABLE} "
            "where run_id = $1 and position <= $2 order by position desc limit 1) r",
            run_id,
            position,
        )
        if not rows:
            raise NotFound(f"there is no run {run_id!r} at position {position}", code="RUN_NOT_FOUND")
        return _run(rows[0])

    async def runs(
        self, wanted: RunFilter, position: Position, *, before: int | None, limit: int, is_brief: bool = False
    ) -> Page:
        """Give runs as they were at a position, newest first: as many as a page holds.

        Args:
            wanted: what they must match.
            position: the moment that is shown.
            before: only runs queued before this position; None for the newest.
            limit: most runs to give.
            is_brief: leave their parts out, see ``run_parts``.
        """
        statement, arguments = _list_statement(wanted, position, before, limit + 1, is_brief=is_brief)
        rows = await self._fetch(statement, *arguments)
        runs = [Listed(_run(row), row["queued_position"]) for row in rows[:limit]]
        return Page(runs, has_more=bool(rows) and rows[0]["found_count"] > len(runs))

    async def node(self, node_id: str, position: Position) -> Node:
        """Give a node as it was at a position.

        Raises:
            NotFound: it had not enrolled yet (NODE_NOT_FOUND).
        """
        rows = await self._fetch(
            f"select document from {NODE_TABLE} where node_id = $1 and position <= $2 "
            "order by position desc limit 1",
            node_id,
            position,
        )
        if not rows:
            raise NotFound(f"there is no node {node_id!r}", code="NODE_NOT_FOUND")
        return Node.FromString(rows[0]["document"])

    async def nodes(self, position: Position, *, after: str, limit: int) -> list[Node]:
        """Give nodes as they were at a position, by name."""
        rows = await self._fetch(
            f"""
            select newest.document from {NODE_TABLE} first cross join lateral (
              select document from {NODE_TABLE} r
              where r.node_id = first.node_id and r.position <= $1 order by r.position desc limit 1
            ) newest
            where first.version = 1 and first.position <= $1 and first.node_id > $2
            order by first.node_id limit $3""",
            position,
            after,
            limit,
        )
        return [Node.FromString(row["document"]) for row in rows]

    async def _caught_up(self) -> None:
        """Hold back who asks for the present until it was shown once: new tables may take minutes."""
        if self._has_caught_up:
            return
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._projector.caught_up()
        except TimeoutError:
            position = self._projector.checkpoint
            raise DeadlineExceeded(
                f"the scheduler has just started: its read model is only at position {position}; ask later",
                code="READ_MODEL_BEHIND",
                metadata={"position": str(position)},
            ) from None
        self._has_caught_up = True

    async def _by_number(self, project: str, number: str, position: Position) -> list[str]:
        condition = "" if number == "latest" else f"and number = {int(number)}"
        rows = await self._fetch(
            f"select run_id from {RUN_TABLE} where version = 1 and project = $1 and position <= $2 "
            f"{condition} order by number desc limit 1",
            project,
            position,
        )
        return [row["run_id"] for row in rows]

    async def _by_prefix(self, prefix: str, position: Position) -> list[str]:
        comparison = "run_id = $1" if len(prefix) == RUN_ID_LENGTH else "run_id like $1 || '%'"
        rows = await self._fetch(
            f"select run_id from {RUN_TABLE} where version = 1 and {comparison} and position <= $2 "
            "order by run_id limit 3",
            prefix,
            position,
        )
        return [row["run_id"] for row in rows]

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[asyncpg.Record]:
        return await queried(self._pool, statement, *arguments)


def _run(row: asyncpg.Record) -> Run:
    run = whole_run(row["document"], row["parts"])
    fit_run(run)
    return run


@dataclass(slots=True)
class _Statement:
    arguments: list[object] = field(default_factory=list)
    of_first: list[str] = field(default_factory=list)
    """Conditions on a run's first row, which holds what never changes."""
    of_newest: list[str] = field(default_factory=list)
    """Conditions on its newest row."""

    def put(self, argument: object) -> str:
        self.arguments.append(argument)
        return f"${len(self.arguments)}"


def _list_statement(
    wanted: RunFilter, position: Position, before: int | None, limit: int, *, is_brief: bool
) -> tuple[str, list[object]]:
    made = _Statement()
    at = made.put(position)
    made.of_first.append(f"version = 1 and queued_position <= {at}")
    if before is not None:
        made.of_first.append(f"queued_position < {made.put(before)}")
    if wanted.project:
        made.of_first.append(f"project = {made.put(wanted.project)}")
    if wanted.step:
        made.of_first.append(f"step = {made.put(wanted.step)}")
    if wanted.tags:
        made.of_first.append(f"tags @> {made.put(list(wanted.tags))}::text[]")
    if wanted.node:
        node = made.put(wanted.node)
        made.of_newest.append(f"newest.node_id = {node}")
        made.of_first.append(_some_row(f"x.node_id = {node} and x.position <= {at}"))
    is_open = wanted.state not in (None, RunState.RUN_STATE_FINISHED)
    if wanted.state is not None:
        made.of_newest.append(f"newest.state = {made.put(wanted.state)}")
        ended = _some_row(f"x.state = {RunState.RUN_STATE_FINISHED} and x.position <= {at}")
        made.of_first.append(f"not {ended}" if is_open else ended)
    parts = "array[]::bytea[]" if is_brief else parts_of("listed")
    parts_bytes = "0" if is_brief else _parts_bytes("found")
    # Few runs are open: finding them all at once is one anti-join over two indexes, where walking the list
    # from its end would look every run that has ended up, one by one.
    return (
        f"""
        with first as {"" if is_open else "not "}materialized (
          select run_id, queued_position from {RUN_TABLE} f where {" and ".join(made.of_first)}
        )
        select document, {parts} as parts, queued_position, found_count from (
          select found.*, bytes, count(*) over () as found_count,
            sum(bytes) over (order by queued_position desc) as bytes_so_far
          from (
            select newest.*, first.queued_position from first cross join lateral (
              select run_id, position, document, state, node_id from {RUN_TABLE} r
              where r.run_id = first.run_id and r.position <= {at} order by r.position desc limit 1
            ) newest
            where {" and ".join(made.of_newest) or "true"}
            order by first.queued_position desc limit {made.put(limit)}
          ) found cross join lateral (select octet_length(found.document) + {parts_bytes} as bytes) sized
        ) listed
        where bytes_so_far <= {ANSWER_BYTES_MAX} or bytes_so_far = bytes
        order by queued_position desc""",
        made.arguments,
    )


def _parts_bytes(run: str) -> str:
    return f"coalesce((select sum(octet_length(p.document)) from {parts_up_to(run)}), 0)"


def _some_row(condition: str) -> str:
    return f"exists (select from {RUN_TABLE} x where x.run_id = f.run_id and {condition})"
