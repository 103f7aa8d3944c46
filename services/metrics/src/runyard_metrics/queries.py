"""Reads the tables of this service. Every answer shows the telemetry lane up to a given position, exactly."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar, cast

import asyncpg

from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard_core.projection import KeyValue, TableSpec
from runyard_eventlog import readmodel
from runyard_eventlog.querying import queried
from runyard_metrics.projections.runs import RunsProjection
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import (
    COMMITTED_MARK,
    GPU_INCIDENT,
    GPU_READING,
    GPU_SERIES,
    GPU_USAGE,
    HOST_USAGE,
    LOG_CHUNK,
    LOG_PROGRESS,
    METRIC_PROGRESS,
    METRIC_SERIES,
    RUN_PROGRESS,
    GpuIncidentRow,
    GpuReadingRow,
    GpuUsageRow,
    HostUsageRow,
    LogProgressRow,
    MetricProgressRow,
    MetricSeriesRow,
    RunProgressRow,
)

SCHEMA = "metrics"
GPU_INCIDENTS_MAX = 100
"""Of one answer; a card that goes on failing adds nothing new."""
NAMES_MAX = 10_000
"""Metrics of one attempt that an answer looks at: a program can make a name of every sample."""
BATCHES_MAX = 200
"""Rows of samples or points that are read at once, as an agent may have made each: at most 1 MiB."""
_LINE_BYTES = 64
"""What a line takes beside its text."""

RowT = TypeVar("RowT")


def _table(spec: TableSpec[Any]) -> str:
    version = RunsProjection.version if spec in RunsProjection.tables else TelemetryProjection.version
    return f"{SCHEMA}.{readmodel.table_name(spec, version)}"


def _figures(table: str) -> str:
    """Name the columns of the newest row of a metric; those of the points of its batch are left empty."""
    points = {"times_unix_milliseconds", "line_numbers", "values"}
    columns = (field.name for field in fields(MetricSeriesRow))
    return ", ".join(
        f"'{{}}'::bigint[] as {name}" if name in points else f"{table}.{name}" for name in columns
    )


# The names are constants of this code; values always go as parameters.
_LINES = f"""
select payload from (
  select payload, first_line, sum(text_bytes) over (order by first_line) - text_bytes as bytes_before
  from {_table(LOG_CHUNK)}
  where (run_id, attempt) = ($1, $2) and position <= $5 and first_line <= $4
    and first_line >= coalesce((
      select max(first_line) from {_table(LOG_CHUNK)}
      where (run_id, attempt) = ($1, $2) and first_line <= $3), 0)) c
where bytes_before < $6::bigint order by first_line
"""  # noqa: S608
_ADDED_LINES = f"""
select payload, position, size from (
  select c.payload, p.position, a.place, c.text_bytes + {_LINE_BYTES} * c.line_count as size,
    sum(c.text_bytes + {_LINE_BYTES} * c.line_count) over (
      order by p.position groups between unbounded preceding and current row exclude group) as size_before
  from {_table(LOG_PROGRESS)} p
  cross join lateral unnest(p.added_firsts) with ordinality a(first_line, place)
  join {_table(LOG_CHUNK)} c
    on (c.run_id, c.attempt, c.first_line, c.position) = (p.run_id, p.attempt, a.first_line, p.position)
  where (p.run_id, p.attempt) = ($1, $2) and p.position > $3 and p.position <= $4) c
where coalesce(size_before, 0) < $5::bigint order by position, place
"""  # noqa: S608
# Postgres has no skip scan over the leading columns' distinct values: walk from name to name by hand.
_NAMES = f"""
with recursive names(name) as (
  (select name from {_table(METRIC_SERIES)} where (run_id, attempt) = ($1, $2) order by name limit 1)
  union all
  select (select s.name from {_table(METRIC_SERIES)} s
          where (s.run_id, s.attempt) = ($1, $2) and s.name > names.name order by s.name limit 1)
  from names where names.name is not null)
select name from names where name is not null limit $3
"""  # noqa: S608
_LATEST = f"""
select {_figures("r")} from unnest($3::text[]) n(name) cross join lateral (
  select * from {_table(METRIC_SERIES)} s
  where (s.run_id, s.attempt, s.name) = ($1, $2, n.name) and s.position <= $4
  order by s.position desc limit 1) r
order by r.name
"""  # noqa: S608
_POINTS = f"""
select position, times_unix_milliseconds, line_numbers, values from {_table(METRIC_SERIES)}
where (run_id, attempt, name) = ($1, $2, $3) and position > $4 and position <= $5
order by position limit $6
"""  # noqa: S608
_GPU_SAMPLES = f"""
select position, payload from {_table(GPU_SERIES)}
where (run_id, attempt, node_id) = ($1, $2, $3) and position > $4 and position <= $5
order by position limit $6
"""  # noqa: S608
_GPU_INCIDENTS = f"""
select * from {_table(GPU_INCIDENT)} where (run_id, attempt) = ($1, $2) and position <= $3
order by time_unix_milliseconds, position limit {GPU_INCIDENTS_MAX}
"""  # noqa: S608
# Every batch of a node is a row: only the newest of each is looked at, node by node as above.
_READINGS = f"""
with recursive nodes(node_id) as (
  (select node_id from {_table(GPU_READING)}
   where node_id >= case when $1::text = '' then $2::text else $1 end order by node_id limit 1)
  union all
  select (select t.node_id from {_table(GPU_READING)} t
          where t.node_id > nodes.node_id and $1 = '' order by t.node_id limit 1)
  from nodes where nodes.node_id is not null)
select {{columns}} from nodes n cross join lateral (
  select * from {_table(GPU_READING)} t
  where t.node_id = n.node_id and t.position <= $3 order by t.position desc limit 1) r
where $1 in ('', r.node_id)
"""  # noqa: S608
_NEWEST_READING_TIME = _READINGS.format(columns="coalesce(max(r.time_unix_milliseconds), 0) as newest")
_READINGS_PAGE = f"""
{_READINGS.format(columns="r.*")} and r.time_unix_milliseconds >= $4 order by r.node_id limit $5
"""
_CHANGED_NAMES = f"""
select distinct unnest(names) as name from {_table(METRIC_PROGRESS)}
where (run_id, attempt) = ($1, $2) and position > $3 and position <= $4 limit $5
"""  # noqa: S608


class MetricQueries:
    """Questions to the tables; any number of tasks may ask."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """Use connections of a role that may read the schema."""
        self._pool = pool

    async def run_progress(self, run_id: str, domain_position: int) -> RunProgressRow | None:
        """Give what is known of a run at a position of the domain lane."""
        return await self._newest(RUN_PROGRESS, (run_id,), domain_position)

    async def committed_mark(self, node_id: str, spool_id: str, position: int) -> int:
        """Give the last sequence of a spool that the tables show; 0 when none."""
        row = await self._newest(COMMITTED_MARK, (node_id, spool_id), position)
        return row.sequence if row else 0

    async def log_progress(self, run_id: str, attempt: int, position: int) -> LogProgressRow | None:
        """Give the totals of an attempt's log."""
        return await self._newest(LOG_PROGRESS, (run_id, attempt), position)

    async def metric_progress(self, run_id: str, attempt: int, position: int) -> MetricProgressRow | None:
        """Give the totals of an attempt's metrics."""
        return await self._newest(METRIC_PROGRESS, (run_id, attempt), position)

    async def log_chunks(
        self, run_id: str, attempt: int, first_line: int, last_line: int, position: int, *, bytes_max: int
    ) -> list[LogChunkRecorded]:
        """Give the chunks with lines of a range, in line order; the outer ones may reach beyond it.

        The last one is that with which their text has so many bytes or more.
        """
        rows = await self._fetch(_LINES, run_id, attempt, first_line, last_line, position, bytes_max)
        return [LogChunkRecorded.FromString(row["payload"]) for row in rows]

    async def added_log_chunks(
        self, run_id: str, attempt: int, after_position: int, position: int, *, bytes_max: int
    ) -> tuple[list[LogChunkRecorded], int]:
        """Give the chunks that came between two positions, in the order in which they came.

        It ends with the batch that brings them to so many bytes. Gives also up to which position that is all.
        """
        rows = await self._fetch(_ADDED_LINES, run_id, attempt, after_position, position, bytes_max)
        chunks = [LogChunkRecorded.FromString(row["payload"]) for row in rows]
        is_all = sum(row["size"] for row in rows) < bytes_max
        return chunks, position if is_all else rows[-1]["position"]

    async def metric_names(self, run_id: str, attempt: int, *, names_max: int = NAMES_MAX) -> list[str]:
        """Give the first names of the metrics of an attempt, also of those that begin after a position."""
        return [row["name"] for row in await self._fetch(_NAMES, run_id, attempt, names_max)]

    async def changed_metric_names(
        self, run_id: str, attempt: int, after_position: int, position: int, *, names_max: int = NAMES_MAX
    ) -> list[str]:
        """Give names of metrics that got values between two positions: all, or ``names_max`` of them."""
        rows = await self._fetch(_CHANGED_NAMES, run_id, attempt, after_position, position, names_max)
        return sorted(row["name"] for row in rows)

    async def latest_metrics(
        self, run_id: str, attempt: int, names: Sequence[str], position: int, *, names_max: int = 500
    ) -> AsyncIterator[list[MetricSeriesRow]]:
        """Give the newest row of each metric without its points, ``names_max`` at a time, by name in each.

        One that begins later is left out.
        """
        for start in range(0, len(names), names_max):
            part = list(names[start : start + names_max])
            rows = await self._fetch(_LATEST, run_id, attempt, part, position)
            yield [_row(METRIC_SERIES, row) for row in rows]

    async def metric_points(
        self, run_id: str, attempt: int, name: str, position: int, *, batches_max: int = BATCHES_MAX
    ) -> tuple[array[int], array[float]]:
        """Give times (Unix milliseconds) and values of all points of a metric, in line order.

        At most ``batches_max`` batches of them are held in any other form than these, with 24 bytes a point.
        """
        times, lines, values = array("q"), array("q"), array("d")
        async for rows in self._in_parts(_POINTS, (run_id, attempt, name), position, batches_max):
            for row in rows:
                times.extend(row["times_unix_milliseconds"])
                lines.extend(row["line_numbers"])
                values.extend(row["values"])
        if all(left <= right for left, right in pairwise(lines)):
            return times, values
        # An older spool of the node was committed after a newer one.
        order = sorted(range(len(lines)), key=lines.__getitem__)
        return array("q", (times[index] for index in order)), array("d", (values[index] for index in order))

    async def host_usage(self, run_id: str, attempt: int, position: int) -> list[HostUsageRow]:
        """Give the statistics of an attempt's processes on each of its nodes."""
        return await self._newest_below(HOST_USAGE, (run_id, attempt), position)

    async def gpu_usage(self, run_id: str, attempt: int, position: int) -> list[GpuUsageRow]:
        """Give the statistics of an attempt's GPUs on each of its nodes."""
        return await self._newest_below(GPU_USAGE, (run_id, attempt), position)

    async def gpu_samples(
        self, run_id: str, attempt: int, position: int, *, batches_max: int = BATCHES_MAX
    ) -> AsyncIterator[list[bytes]]:
        """Give the samples of an attempt's GPUs, a GpuSamplesRecorded a batch, node by node as they came.

        They come in parts of at most ``batches_max``.
        """
        for node_id in sorted({row.node_id for row in await self.gpu_usage(run_id, attempt, position)}):
            key = (run_id, attempt, node_id)
            async for rows in self._in_parts(_GPU_SAMPLES, key, position, batches_max):
                yield [row["payload"] for row in rows]

    async def gpu_incidents(self, run_id: str, attempt: int, position: int) -> list[GpuIncidentRow]:
        """Give what happened to an attempt's GPUs, the first ``GPU_INCIDENTS_MAX`` in order of time."""
        rows = await self._fetch(_GPU_INCIDENTS, run_id, attempt, position)
        return [_row(GPU_INCIDENT, row) for row in rows]

    async def gpu_readings(
        self, node_id: str, from_node: str, since_unix_milliseconds: int, position: int, count_max: int
    ) -> list[GpuReadingRow]:
        """Give the newest readings of a node, or of all nodes when none is named, by node.

        Args:
            node_id: empty for all nodes.
            from_node: the first of them; empty for all.
            since_unix_milliseconds: older ones are left out.
            position: of the telemetry lane, up to which is read.
            count_max: of nodes.
        """
        rows = await self._fetch(
            _READINGS_PAGE, node_id, from_node, position, since_unix_milliseconds, count_max
        )
        return [_row(GPU_READING, row) for row in rows]

    async def newest_gpu_reading_time(self, node_id: str, position: int) -> int:
        """Give the time (Unix milliseconds) of the newest reading of a node, or of all; 0 without any."""
        [row] = await self._fetch(_NEWEST_READING_TIME, node_id, "", position)
        return int(row["newest"])

    async def _in_parts(
        self, statement: str, key: tuple[KeyValue, ...], position: int, rows_max: int
    ) -> AsyncIterator[list[asyncpg.Record]]:
        """Give the rows of a key up to a position, in the order of their positions."""
        after_position, is_full = 0, True
        while is_full:
            rows = await self._fetch(statement, *key, after_position, position, rows_max)
            yield rows
            is_full = len(rows) == rows_max
            after_position = rows[-1]["position"] if rows else position

    async def _newest(self, spec: TableSpec[RowT], key: Sequence[KeyValue], position: int) -> RowT | None:
        columns = ", ".join(spec.key)
        places = ", ".join(f"${place}" for place in range(2, len(key) + 2))
        statement = (
            f"select * from {_table(spec)} where ({columns}) = ({places}) and position <= $1 "  # noqa: S608
            "order by position desc limit 1"
        )
        rows = await self._fetch(statement, position, *key)
        return _row(spec, rows[0]) if rows else None

    async def _newest_below(
        self, spec: TableSpec[RowT], prefix: Sequence[KeyValue], position: int
    ) -> list[RowT]:
        """Give the newest row of each key that starts with a prefix, in the order of the keys."""
        rows = await self._fetch(_newest_below(spec, len(prefix)), position, *prefix)
        return [_row(spec, row) for row in rows]

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        return await queried(self._pool, statement, *arguments)


@cache
def _newest_below(spec: TableSpec[Any], prefix_length: int) -> str:
    """Write the question for the newest row of each key below a prefix.

    An attempt of days has a row for every two seconds of them, so it walks from key to key like ``_NAMES``.
    """
    prefix, rest = spec.key[:prefix_length], spec.key[prefix_length:]
    wanted = " and ".join(f"t.{name} = ${place}" for place, name in enumerate(prefix, start=2))
    names = ", ".join(rest)
    columns, found = (", ".join(f"{table}.{name}" for name in rest) for table in ("t", "k"))
    first = f"select {columns} from {_table(spec)} t where {wanted}"  # noqa: S608
    return f"""
with recursive k as (
  ({first} order by {columns} limit 1)
  union all
  select n.* from k cross join lateral (
    {first} and ({columns}) > ({found}) order by {columns} limit 1) n)
select r.* from k cross join lateral (
  select * from {_table(spec)} t where {wanted} and ({columns}) = ({found}) and position <= $1
  order by position desc limit 1) r
order by {names}
"""  # noqa: S608


def _row(spec: TableSpec[RowT], record: asyncpg.Record) -> RowT:
    return cast("RowT", readmodel.row_from(spec, dict(record)))
