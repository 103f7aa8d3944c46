"""The tables of the read model in schema ``scheduler``, their indexes, and the world that they show."""

# ruff: noqa: S608 - only names from the code are put into statements

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import asyncpg

from runyard.run.v1.types_pb2 import RunState
from runyard_contracts.ids import Position
from runyard_core.projection import TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.querying import lent
from runyard_scheduler.process.restoring import node_entry, project_entry, run_entry
from runyard_scheduler.process.world import RunEntry, World
from runyard_scheduler.projections.nodes import NODES
from runyard_scheduler.projections.projects import PROJECTS
from runyard_scheduler.projections.run_parts import RUN_PARTS
from runyard_scheduler.projections.runs import RUNS, RunRow
from runyard_scheduler.projections.scheduler import SchedulerProjection

SCHEMA = "scheduler"
VERSION = SchedulerProjection.version

RowT = TypeVar("RowT")

_RUNS_TOGETHER = 20
"""Rows of live runs that a start reads at once: one may take megabytes."""


def name_of(spec: TableSpec[RowT]) -> str:
    """Give the full name of a table: "scheduler.run_v1"."""
    return f"{SCHEMA}.{readmodel.table_name(spec, VERSION)}"


RUN_TABLE = name_of(RUNS)
RUN_PART_TABLE = name_of(RUN_PARTS)
NODE_TABLE = name_of(NODES)
PROJECT_TABLE = name_of(PROJECTS)

# The first row of a stream (version 1) holds everything of it that never changes, so lists are driven by
# first rows and look the newest row up only for what they show.
_INDEXES: Mapping[str, str] = {
    "run_of_project": f"{RUN_TABLE} (project, queued_position desc) where version = 1",
    "run_of_step": f"{RUN_TABLE} (step, queued_position desc) where version = 1",
    "run_queued": f"{RUN_TABLE} (queued_position desc) include (run_id) where version = 1",
    "run_number": f"{RUN_TABLE} (project, number desc) where version = 1",
    "run_prefix": f"{RUN_TABLE} (run_id text_pattern_ops) where version = 1",
    "run_tags": f"{RUN_TABLE} using gin (tags) where version = 1",
    "run_ended": f"{RUN_TABLE} (run_id, position) where state = {RunState.RUN_STATE_FINISHED}",
    "run_of_node": f"{RUN_TABLE} (node_id, run_id) where node_id <> ''",
    "node_first": f"{NODE_TABLE} (node_id) where version = 1",
    "project_first": f"{PROJECT_TABLE} (project) where version = 1",
}


async def prepare(pool: asyncpg.Pool) -> None:
    """Make the tables and indexes that are missing.

    Raises:
        Unavailable: the database does not answer.
    """
    store = ProjectionStore(SchedulerProjection(), SCHEMA)
    async with lent(pool) as connection:
        await store.create(connection)
        for name, on in _INDEXES.items():
            await connection.execute(f"create index if not exists {name}_v{VERSION} on {on}")


async def read_world(pool: asyncpg.Pool) -> World:
    """Give the world as the read model shows it at its checkpoint.

    Raises:
        Unavailable: the database does not answer.
    """
    store = ProjectionStore(SchedulerProjection(), SCHEMA)
    live = f"""and not exists (
        select from {RUN_TABLE} ended
        where ended.run_id = first.run_id and ended.state = {RunState.RUN_STATE_FINISHED})"""
    async with (
        lent(pool) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        position = (await store.place(connection)).position
        newest = f"select n.*, {parts_of('n')} as parts from ({_newest(RUN_TABLE, 'run_id', live)}) n"
        found = connection.cursor(newest, prefetch=_RUNS_TOGETHER)
        runs = [_entry_of(dict(row)) async for row in found]
        nodes = await connection.fetch(_newest(NODE_TABLE, "node_id"))
        projects = await connection.fetch(_newest(PROJECT_TABLE, "project"))
    return World(
        runs,
        (node_entry(row_of(NODES, row)) for row in nodes),
        (project_entry(row_of(PROJECTS, row)) for row in projects),
        Position(position),
    )


def parts_of(run: str) -> str:
    """Give the expression of the parts of a run up to a row of it, in order; ``run`` is the row's alias."""
    return f"array(select p.document from {parts_up_to(run)} order by p.version)"


def parts_up_to(run: str) -> str:
    """Give what follows "from" in a select of the parts ``p`` of a run up to a row of it."""
    return f"{RUN_PART_TABLE} p where p.run_id = {run}.run_id and p.position <= {run}.position"


def row_of(spec: TableSpec[RowT], row: asyncpg.Record) -> RowT:
    """Bring what the database gave back into the row's class."""
    return cast("RowT", readmodel.row_from(spec, dict(row)))


def _entry_of(row: dict[str, Any]) -> RunEntry:
    parts = row.pop("parts")
    return run_entry(cast("RunRow", readmodel.row_from(RUNS, row)), parts)


def _newest(table: str, key: str, condition: str = "") -> str:
    return f"""
        select newest.* from {table} first cross join lateral (
            select * from {table} r where r.{key} = first.{key} order by r.position desc limit 1
        ) newest where first.version = 1 {condition}"""
