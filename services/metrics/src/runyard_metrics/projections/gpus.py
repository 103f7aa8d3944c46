"""Samples of GPUs -> series and figures of attempts, the newest reading of each GPU, its incidents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runyard.metric.v1.batches_pb2 import GpuIncidentSeen, GpuSamplesRecorded
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows
from runyard_metrics.domain.gpu_figures import counted_in
from runyard_metrics.domain.gpu_readings import readings_of, samples_of_gpus
from runyard_metrics.domain.keys import key_text
from runyard_metrics.domain.statistics import Extent
from runyard_metrics.domain.times import is_time
from runyard_metrics.tables import (
    GPU_INCIDENT,
    GPU_READING,
    GPU_SERIES,
    GPU_USAGE,
    GpuIncidentRow,
    GpuReadingRow,
    GpuSeriesRow,
    GpuUsageRow,
)


def gpu_reads(samples: GpuSamplesRecorded, spool_id: str) -> Iterator[RowKey]:
    """Name the rows that GPU samples touch."""
    node_id = key_text(samples.node_id)
    yield RowKey(GPU_READING.name, (node_id,))
    for run_id, attempt in _holders(samples):
        yield RowKey(GPU_USAGE.name, (run_id, attempt, node_id, spool_id))


def apply_gpu_samples(
    samples: GpuSamplesRecorded, spool_id: str, event: RecordedEvent, rows: Rows
) -> Iterator[Put[Any]]:
    """Put the node's newest readings, and samples and figures of each attempt that holds a GPU there.

    Raises:
        ValueError: columns that do not fit together, or a time that is none.
    """
    readings = readings_of(samples)
    times = samples.times_unix_milliseconds
    if not readings or not times:
        return
    if not is_time(times[-1]):
        # As the newest reading it would stay that, and no answer could show it.
        raise ValueError(f"the last sample is of {times[-1]} ms since 1970, which is no time")
    node_id, position = key_text(samples.node_id), event.position
    reading = _reading(samples, node_id, spool_id, event)
    if _is_newest(reading, rows.get(GPU_READING, node_id)):
        yield Put(GPU_READING, reading)
    for (run_id, attempt), held in _holders(samples).items():
        before = rows.get(GPU_USAGE, run_id, attempt, node_id, spool_id)
        first_time = before.first_time_unix_milliseconds if before else times[0]
        figures, counts = figures_of(before), sample_counts_of(before)
        for index in held:
            # PostgreSQL cannot store a NUL.
            gpu_uuid = samples.gpu_uuids[index].replace("\0", "\ufffd")
            figures[gpu_uuid] = counted_in(figures.get(gpu_uuid, {}), readings[index])
            counts[gpu_uuid] = counts.get(gpu_uuid, 0) + len(times)
        key = (run_id, attempt, node_id, spool_id)
        yield Put(GPU_USAGE, _usage_row(key, position, first_time, counts, figures))
        payload = samples_of_gpus(samples, held).SerializeToString(deterministic=True)
        yield Put(GPU_SERIES, GpuSeriesRow(run_id, attempt, node_id, position, payload))


def apply_gpu_incident(seen: GpuIncidentSeen, position: int) -> Iterator[Put[Any]]:
    """Put what happened to a GPU."""
    yield Put(
        GPU_INCIDENT,
        GpuIncidentRow(
            run_id=key_text(seen.holder.run_id),
            attempt=seen.holder.attempt,
            time_unix_milliseconds=seen.time_unix_milliseconds,
            gpu_uuid=key_text(seen.gpu_uuid),
            kind=seen.kind,
            number=seen.number,
            position=position,
            payload=seen.SerializeToString(deterministic=True),
        ),
    )


def figures_of(row: GpuUsageRow | None) -> dict[str, dict[str, Extent]]:
    """Read the figures out of a row: GPU UUID -> name -> figure."""
    if row is None:
        return {}
    width = len(row.figure_names)
    return {
        gpu_uuid: {
            name: Extent(row.counts[place], row.lows[place], row.totals[place], row.highs[place])
            for place, name in enumerate(row.figure_names, start=index * width)
            if row.counts[place]
        }
        for index, gpu_uuid in enumerate(row.gpu_uuids)
    }


def sample_counts_of(row: GpuUsageRow | None) -> dict[str, int]:
    """Read how many samples there were of each GPU out of a row."""
    return {} if row is None else dict(zip(row.gpu_uuids, row.sample_counts, strict=True))


def _usage_row(
    key: tuple[str, int, str, str],
    position: int,
    first_time_unix_milliseconds: int,
    sample_counts: dict[str, int],
    figures: dict[str, dict[str, Extent]],
) -> GpuUsageRow:
    names = tuple(dict.fromkeys(name for each in figures.values() for name in each))
    table = [each.get(name, Extent()) for each in figures.values() for name in names]
    run_id, attempt, node_id, spool_id = key
    return GpuUsageRow(
        run_id=run_id,
        attempt=attempt,
        node_id=node_id,
        spool_id=spool_id,
        position=position,
        first_time_unix_milliseconds=first_time_unix_milliseconds,
        gpu_uuids=tuple(figures),
        sample_counts=tuple(sample_counts[gpu_uuid] for gpu_uuid in figures),
        figure_names=names,
        counts=tuple(extent.count for extent in table),
        lows=tuple(extent.low for extent in table),
        totals=tuple(extent.total for extent in table),
        highs=tuple(extent.high for extent in table),
    )


def _is_newest(reading: GpuReadingRow, newest: GpuReadingRow | None) -> bool:
    if newest is None or reading.spool_id == newest.spool_id:
        # A spool is in order, whatever became of the node's clock.
        return True
    return reading.time_unix_milliseconds >= newest.time_unix_milliseconds


def _reading(samples: GpuSamplesRecorded, node_id: str, spool_id: str, event: RecordedEvent) -> GpuReadingRow:
    recorded_at = event.envelope.recorded_at.ToMilliseconds()
    return GpuReadingRow(
        node_id=node_id,
        position=event.position,
        spool_id=spool_id,
        time_unix_milliseconds=min(samples.times_unix_milliseconds[-1], recorded_at),
        payload=samples.SerializeToString(deterministic=True),
    )


def _holders(samples: GpuSamplesRecorded) -> dict[tuple[str, int], Sequence[int]]:
    """Attempt -> indices of the GPUs that it holds, attempts in the order of their first GPU."""
    held: dict[tuple[str, int], list[int]] = {}
    for index, holder in enumerate(samples.holders):
        if holder.run_id:
            held.setdefault((key_text(holder.run_id), holder.attempt), []).append(index)
    return dict(held)
