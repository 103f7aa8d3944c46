"""Rows about GPUs -> messages. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from runyard.metric.v1.batches_pb2 import AttemptRef, GpuIncidentSeen, GpuSamplesRecorded
from runyard.metric.v1.gpus_pb2 import GpuProcessColumn, GpuProcessOwner
from runyard.metric.v1.metric_service_pb2 import GpuProcess, GpuReading, GpuValue, Statistic
from runyard_contracts.gpu_columns import unpacked_column
from runyard_metrics.domain.gpu_figures import COUNTERS, Figures, joined
from runyard_metrics.domain.gpu_readings import (
    BASE_NAMES,
    PROCESS_MEMORY,
    PROCESS_SM,
    is_missing,
    process_values,
    readings_of,
)
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.projections.gpus import figures_of
from runyard_metrics.tables import GpuIncidentRow, GpuReadingRow, GpuUsageRow

BEHIND_MILLISECONDS_MIN = 5 * 60 * 1000
"""A reading is called behind when it is older than this: spools are sent again within 130 s."""
READINGS_BYTES_MAX = 4 * 1024 * 1024
"""Of one page; it ends early rather than grow beyond."""

_READING_BITS = 0b1111
"""Of ``BASE_NAMES`` a reading shows the first four."""


@dataclass(frozen=True, slots=True, order=True)
class SeriesKey:
    """What a series of a GPU is about."""

    gpu_uuid: str
    name: str
    pid: int = 0
    process_name: str = ""


@dataclass(frozen=True, slots=True)
class ReadingPlace:
    """A place in the list of all readings: by node, then in the order of the node's GPUs."""

    node_id: str = ""
    gpu_index: int = 0


@dataclass(slots=True)
class Points:
    """Times (Unix milliseconds) and values."""

    times: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def in_order(self) -> Points:
        """Sort by time: an older spool of a node may have been committed after a newer one."""
        if all(before <= after for before, after in pairwise(self.times)):
            return self
        order = sorted(range(len(self.times)), key=self.times.__getitem__)
        return self.at(order)

    def at(self, places: Iterable[int]) -> Points:
        """Give the points at some places."""
        chosen = Points()
        for place in places:
            chosen.times.append(self.times[place])
            chosen.values.append(self.values[place])
        return chosen


def gpu_statistics(rows: Iterable[GpuUsageRow]) -> Iterator[Statistic]:
    """Write the figures of each GPU, over all spools of its node."""
    spools: dict[tuple[str, str], list[Figures]] = {}
    for row in sorted(rows, key=lambda row: (row.node_id, row.first_time_unix_milliseconds, row.spool_id)):
        for gpu_uuid, figures in figures_of(row).items():
            spools.setdefault((row.node_id, gpu_uuid), []).append(figures)
    for (_, gpu_uuid), each in spools.items():
        for name, extent in joined(each).items():
            yield _statistic(gpu_uuid, name, extent)


def add_gpu_points(
    series: dict[SeriesKey, Points], batches: Iterable[GpuSamplesRecorded], names: frozenset[str]
) -> None:
    """Add the points of some quantities (of all when none is named) from batches, as they came."""
    for batch in batches:
        for gpu_uuid, readings in zip(batch.gpu_uuids, readings_of(batch, names), strict=True):
            for name, values in readings.items():
                key = SeriesKey(gpu_uuid, name)
                points = series.get(key) or series.setdefault(key, Points())
                points.times.extend(batch.times_unix_milliseconds)
                points.values.extend(map(float, values))
        for process in batch.processes:
            _add_process(series, batch, process, names)


def incident_messages(rows: Iterable[GpuIncidentRow]) -> list[GpuIncidentSeen]:
    """Read incidents out of their rows."""
    return [GpuIncidentSeen.FromString(row.payload) for row in rows]


def readings_page(
    rows: Iterable[GpuReadingRow], first: ReadingPlace, count_max: int, now_unix_milliseconds: int
) -> tuple[list[GpuReading], ReadingPlace | None]:
    """Give the readings of one page, from a place on, and where the next page begins; None after the last.

    Each says how far it is behind ``now_unix_milliseconds``.
    """
    page: list[GpuReading] = []
    size = 0
    for row in rows:
        skipped = first.gpu_index if row.node_id == first.node_id else 0
        age = now_unix_milliseconds - row.time_unix_milliseconds
        for index, reading in enumerate(reading_messages(row)):
            if index < skipped:
                continue
            reading.behind_milliseconds = age if age > BEHIND_MILLISECONDS_MIN else 0
            size += reading.ByteSize()
            if page and (len(page) == count_max or size > READINGS_BYTES_MAX):
                return page, ReadingPlace(row.node_id, index)
            page.append(reading)
    return page, None


def reading_messages(row: GpuReadingRow) -> Iterator[GpuReading]:
    """Write the newest reading of each GPU of a node."""
    batch = GpuSamplesRecorded.FromString(row.payload)
    gpu_count, row_count = len(batch.gpu_uuids), len(batch.times_unix_milliseconds)
    columns = [(each.quantity, unpacked_column(each, gpu_count, row_count)) for each in batch.columns]
    for index, gpu_uuid in enumerate(batch.gpu_uuids):
        newest = (row_count - 1) * gpu_count + index
        missing = sum(1 << bit for bit in range(len(BASE_NAMES)) if is_missing(batch, index, bit))
        reading = GpuReading(
            node_id=row.node_id,
            gpu_uuid=gpu_uuid,
            holder=batch.holders[index],
            utilization_percent=batch.utilization_percents[newest],
            memory_used_bytes=batch.memory_used_bytes[newest],
            power_milliwatts=batch.power_milliwatts[newest],
            temperature_celsius=batch.temperature_celsius[newest],
            not_offered_bits=missing & _READING_BITS,
            values=[
                GpuValue(quantity=quantity, value=by_gpu[index][-1])
                for quantity, by_gpu in columns
                if index in by_gpu
            ],
            processes=[
                _process_message(each, batch)
                for each in batch.processes
                if each.gpu_index == index and each.first_row + each.row_count == row_count
            ],
        )
        reading.time.FromMilliseconds(batch.times_unix_milliseconds[-1])
        yield reading


def _process_message(process: GpuProcessColumn, batch: GpuSamplesRecorded) -> GpuProcess:
    values = process_values(process, len(batch.gpu_uuids), len(batch.times_unix_milliseconds))
    attempt = AttemptRef(run_id=process.run_id, attempt=process.attempt)
    if process.owner == GpuProcessOwner.GPU_PROCESS_OWNER_HOLDER:
        attempt = batch.holders[process.gpu_index]
    percents = process.sm_utilization_percents
    return GpuProcess(
        pid=process.pid,
        name=process.name,
        owner=process.owner,
        attempt=attempt,
        memory_bytes=values[-1],
        sm_utilization_percent=percents[-1] if percents else None,
    )


def _add_process(
    series: dict[SeriesKey, Points],
    batch: GpuSamplesRecorded,
    process: GpuProcessColumn,
    names: frozenset[str],
) -> None:
    gpu_uuid = batch.gpu_uuids[process.gpu_index]
    all_times = batch.times_unix_milliseconds
    times = all_times[process.first_row : process.first_row + process.row_count]
    memory = process_values(process, len(batch.gpu_uuids), len(all_times))
    for name, values in ((PROCESS_MEMORY, memory), (PROCESS_SM, process.sm_utilization_percents)):
        if values and (not names or name in names):
            points = series.setdefault(SeriesKey(gpu_uuid, name, process.pid, process.name), Points())
            points.times.extend(times)
            points.values.extend(map(float, values))


def _statistic(gpu_uuid: str, name: str, extent: Extent) -> Statistic:
    if name in COUNTERS:
        # A counter has one figure: how much it grew.
        total = extent.total
        return Statistic(
            name=f"{name}_total",
            gpu_uuid=gpu_uuid,
            min=total,
            mean=total,
            max=total,
            sample_count=extent.count,
        )
    return Statistic(
        name=name,
        gpu_uuid=gpu_uuid,
        min=extent.low,
        mean=extent.mean,
        max=extent.high,
        sample_count=extent.count,
    )
