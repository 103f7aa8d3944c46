"""The read model of the metrics service. Append-only: one row for each (key, position), never updated.

Texts of log lines are stored here and not fetched from the log by position: a page of a log is one range scan
of one index instead of a read for each batch that happened to carry some of its lines, and it stays one when
old segments of the telemetry lane have moved to the archive. Postgres compresses the payloads.
"""

from __future__ import annotations

from dataclasses import dataclass

from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class LogChunkRow:
    """Consecutive lines of an attempt. Chunks of an attempt never overlap."""

    run_id: str
    attempt: int
    first_line: int
    position: int
    line_count: int
    text_bytes: int
    """UTF-8 bytes of the lines, without line ends."""
    payload: bytes
    """A LogChunkRecorded with these lines."""


@dataclass(frozen=True, slots=True)
class LogProgressRow:
    """What the log of an attempt has, after one batch."""

    run_id: str
    attempt: int
    position: int
    line_count: int
    text_bytes: int
    range_firsts: tuple[int, ...]
    """Ranges of line numbers had, merged: usually one."""
    range_lasts: tuple[int, ...]
    added_firsts: tuple[int, ...]
    """first_line of the chunks that this batch added; empty when every line was had before."""


@dataclass(frozen=True, slots=True)
class MetricSeriesRow:
    """The points of one metric that one batch brought, and the figures of all points up to it."""

    run_id: str
    attempt: int
    name: str
    position: int
    times_unix_milliseconds: tuple[int, ...]
    line_numbers: tuple[int, ...]
    values: tuple[float, ...]
    point_count: int
    """Of all batches so far, like every figure below."""
    low: float
    high: float
    """Lowest and highest value that is a number; both 0 when none was."""
    number_count: int
    """Points that are not NaN."""
    last_value: float
    last_line: int
    last_time_unix_milliseconds: int
    last_json: str
    """Set when the newest value is not a number: JSON text."""


@dataclass(frozen=True, slots=True)
class MetricProgressRow:
    """What the metrics of an attempt have, after one batch."""

    run_id: str
    attempt: int
    position: int
    point_count: int
    names: tuple[str, ...]
    """Metrics that this batch brought values of."""
    spool_ids: tuple[str, ...]
    """Spools that told of points so far."""
    spool_firsts: tuple[int, ...]
    """Lowest and highest line that each told of: it told of all points in between."""
    spool_lasts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HostUsageRow:
    """Running statistics of an attempt's processes on one node."""

    run_id: str
    attempt: int
    node_id: str
    position: int
    sample_count: int
    cpu_millicores_low: float
    cpu_millicores_total: float
    cpu_millicores_high: float
    memory_bytes_low: float
    memory_bytes_total: float
    memory_bytes_high: float
    disk_read_bytes: int
    """Counters since the attempt started: the highest seen."""
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int
    network_is_host: bool


@dataclass(frozen=True, slots=True)
class GpuUsageRow:
    """Running figures of the GPUs that an attempt holds on one node, from the batches of one spool.

    One row a batch for all GPUs: a row for each would be eight times as many on the usual node. A spool's
    batches come in order, spools in any: what a counter grew by can only be told of each by itself.
    """

    run_id: str
    attempt: int
    node_id: str
    spool_id: str
    position: int
    first_time_unix_milliseconds: int
    """Of the spool's first sample, by the node's clock: in this order the node filled its spools."""
    gpu_uuids: tuple[str, ...]
    sample_counts: tuple[int, ...]
    """How often each GPU was looked at."""
    figure_names: tuple[str, ...]
    counts: tuple[int, ...]
    """Figure f of GPU g is at g * number of figures + f, here and below; 0 for what a card does not offer."""
    lows: tuple[float, ...]
    totals: tuple[float, ...]
    highs: tuple[float, ...]
    """Of a counter: its first reading, how much it grew, its last reading."""


@dataclass(frozen=True, slots=True)
class GpuSeriesRow:
    """The samples of an attempt's GPUs on one node that one batch brought."""

    run_id: str
    attempt: int
    node_id: str
    position: int
    payload: bytes
    """A GpuSamplesRecorded with these GPUs."""


@dataclass(frozen=True, slots=True)
class GpuReadingRow:
    """The newest samples of every GPU of a node."""

    node_id: str
    position: int
    spool_id: str
    time_unix_milliseconds: int
    """Of the last sample, but no later than the log took it: the node's clock may be ahead."""
    payload: bytes
    """The GpuSamplesRecorded that brought them."""


@dataclass(frozen=True, slots=True)
class GpuIncidentRow:
    """Something that happened to a GPU."""

    run_id: str
    """Attempt that held it; empty text and 0 for a free one."""
    attempt: int
    time_unix_milliseconds: int
    gpu_uuid: str
    kind: int
    number: int
    position: int
    payload: bytes
    """A GpuIncidentSeen."""


@dataclass(frozen=True, slots=True)
class CommittedMarkRow:
    """Up to which sequence the log has a spool, and its tables have applied it."""

    node_id: str
    spool_id: str
    position: int
    sequence: int


@dataclass(frozen=True, slots=True)
class MalformedBatchRow:
    """A batch whose columns do not fit together, or that names another node.

    Its event is in the log, its content in no other table.
    """

    node_id: str
    spool_id: str
    position: int
    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunProgressRow:
    """What a watcher needs to know of a run. Position of the domain lane."""

    run_id: str
    position: int
    attempt: int
    """The last that was leased; 0 before the first lease."""
    finished: bool
    mark_node_id: str
    """The telemetry mark of run.finished; empty when it never got an attempt or its agent was lost."""
    mark_spool_id: str
    mark_sequence: int


LOG_CHUNK = TableSpec("log_chunk", LogChunkRow, ("run_id", "attempt", "first_line"), is_read=False)
LOG_PROGRESS = TableSpec("log_progress", LogProgressRow, ("run_id", "attempt"))
METRIC_SERIES = TableSpec("metric_series", MetricSeriesRow, ("run_id", "attempt", "name"))
METRIC_PROGRESS = TableSpec("metric_progress", MetricProgressRow, ("run_id", "attempt"))
HOST_USAGE = TableSpec("host_usage", HostUsageRow, ("run_id", "attempt", "node_id"))
GPU_USAGE = TableSpec("gpu_usage", GpuUsageRow, ("run_id", "attempt", "node_id", "spool_id"))
GPU_SERIES = TableSpec("gpu_series", GpuSeriesRow, ("run_id", "attempt", "node_id"))
GPU_INCIDENT = TableSpec(
    "gpu_incident",
    GpuIncidentRow,
    ("run_id", "attempt", "time_unix_milliseconds", "gpu_uuid", "kind", "number"),
)
GPU_READING = TableSpec("gpu_reading", GpuReadingRow, ("node_id",))
COMMITTED_MARK = TableSpec("committed_mark", CommittedMarkRow, ("node_id", "spool_id"))
MALFORMED_BATCH = TableSpec("malformed_batch", MalformedBatchRow, ("node_id", "spool_id"))
RUN_PROGRESS = TableSpec("run_progress", RunProgressRow, ("run_id",))
