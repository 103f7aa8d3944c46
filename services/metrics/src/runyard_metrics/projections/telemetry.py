"""The projection of the telemetry lane: batches of agents -> logs, series, statistics, committed marks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from runyard.metric.v1.batches_pb2 import (
    GpuIncidentSeen,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    LogChunkRecorded,
    MetricPointsRecorded,
    SamplesMissing,
)
from runyard_contracts.ids import stream_id
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.projection import Put, RowKey, Rows, TableSpec
from runyard_metrics.domain.keys import key_text
from runyard_metrics.projections.gpus import apply_gpu_incident, apply_gpu_samples, gpu_reads
from runyard_metrics.projections.logs import apply_log_chunk, log_reads
from runyard_metrics.projections.points import apply_points, points_reads
from runyard_metrics.projections.samples import apply_host_samples, host_reads
from runyard_metrics.tables import (
    COMMITTED_MARK,
    GPU_INCIDENT,
    GPU_READING,
    GPU_SERIES,
    GPU_USAGE,
    HOST_USAGE,
    LOG_CHUNK,
    LOG_PROGRESS,
    MALFORMED_BATCH,
    METRIC_PROGRESS,
    METRIC_SERIES,
    CommittedMarkRow,
    MalformedBatchRow,
)

_BATCHES = (
    LogChunkRecorded,
    MetricPointsRecorded,
    GpuSamplesRecorded,
    GpuIncidentSeen,
    HostSamplesRecorded,
    SamplesMissing,
)


class TelemetryProjection:
    """Folds telemetry batches. Every batch moves its spool's committed mark."""

    name = "telemetry"
    version = 5
    tables: tuple[TableSpec[Any], ...] = (
        LOG_CHUNK,
        LOG_PROGRESS,
        METRIC_SERIES,
        METRIC_PROGRESS,
        HOST_USAGE,
        GPU_USAGE,
        GPU_SERIES,
        GPU_READING,
        GPU_INCIDENT,
        COMMITTED_MARK,
        MALFORMED_BATCH,
    )
    event_types = frozenset(event_type_of(batch).name for batch in _BATCHES)

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        """Name the rows that a batch touches."""
        match event.message:
            case LogChunkRecorded() as chunk:
                return log_reads(chunk)
            case MetricPointsRecorded() as points:
                return points_reads(points)
            case GpuSamplesRecorded() as samples:
                return gpu_reads(samples, _spool(event)[1])
            case HostSamplesRecorded() as samples:
                return host_reads(samples)
            case _:
                return ()

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
        """Give the new rows of a batch.

        A batch whose columns do not fit together, or that is in the name of another node, is written down as
        such. Were it parked instead, every later batch of its spool would have to wait behind it.
        """
        node_id, spool_id = _spool(event)
        try:
            yield from list(_content(event, rows))
        except ValueError as error:
            row = MalformedBatchRow(node_id, spool_id, event.position, event.envelope.event_id, str(error))
            yield Put(MALFORMED_BATCH, row)
        sequence = event.envelope.stream_version
        yield Put(COMMITTED_MARK, CommittedMarkRow(node_id, spool_id, event.position, sequence))


def _content(event: RecordedEvent, rows: Rows) -> Iterator[Put[Any]]:
    position = event.position
    _check_node(event)
    match event.message:
        case LogChunkRecorded() as chunk:
            yield from apply_log_chunk(chunk, position, rows)
        case MetricPointsRecorded() as points:
            yield from apply_points(points, _spool(event)[1], position, rows)
        case GpuSamplesRecorded() as samples:
            yield from apply_gpu_samples(samples, _spool(event)[1], event, rows)
        case GpuIncidentSeen() as seen:
            yield from apply_gpu_incident(seen, position)
        case HostSamplesRecorded() as samples:
            yield from apply_host_samples(samples, position, rows)
        case _:
            return


def _check_node(event: RecordedEvent) -> None:
    """Refuse what a node says in the name of another: its stream is proved by its credential, nothing else.

    Raises:
        ValueError: it does.
    """
    match event.message:
        case (
            GpuSamplesRecorded(node_id=claimed)
            | HostSamplesRecorded(node_id=claimed)
            | GpuIncidentSeen(node_id=claimed)
        ):
            node_id = stream_id(event.envelope.stream).partition(".")[0]
            if claimed != node_id:
                raise ValueError(f"a batch of {key_text(node_id)} says that it is of {key_text(claimed)}")
        case _:
            return


def _spool(event: RecordedEvent) -> tuple[str, str]:
    node_id, _, spool_id = stream_id(event.envelope.stream).partition(".")
    return key_text(node_id), key_text(spool_id)
