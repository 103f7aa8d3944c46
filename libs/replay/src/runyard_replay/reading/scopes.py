"""Which events belong to the timeline of a thing."""

from __future__ import annotations

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import SubjectKind
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.run.v1.events_pb2 import RunStaleReportReceived
from runyard.run.v1.types_pb2 import TelemetryMark
from runyard_contracts.ids import StreamName, stream_name
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.positions import telemetry_at
from runyard_replay.reading.file_scope import add_file, add_versions
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.reading.run_scope import add_run
from runyard_replay.reading.scope import Scope, Span
from runyard_replay.reading.subjects import Thing
from runyard_replay.views import readable


async def scope_of(event_log: EventLog, thing: Thing, span: Span) -> Scope:
    """Gather the timeline of a thing.

    Raises:
        InvalidInput: it has no timeline of its own (NO_TIMELINE).
        NotFound: a model or dataset has no such version (MODEL_VERSION_NOT_FOUND, DATASET_VERSION_NOT_FOUND).
        Unavailable: the log did not answer in time.
    """
    scope = Scope()
    match thing.kind:
        case SubjectKind.SUBJECT_KIND_RUN:
            await add_run(event_log, scope, thing.id, span)
        case SubjectKind.SUBJECT_KIND_NODE:
            await _add_node(event_log, scope, thing.id, span)
        case SubjectKind.SUBJECT_KIND_FILE:
            await add_file(event_log, scope, thing.id, span)
        case SubjectKind.SUBJECT_KIND_MODEL | SubjectKind.SUBJECT_KIND_DATASET:
            await add_versions(event_log, scope, thing, span)
        case _:
            raise InvalidInput(
                "a run, a node, a file, a model or a dataset has a timeline", code="NO_TIMELINE"
            )
    return scope


async def committed_sequence(event_log: EventLog, mark: TelemetryMark) -> int:
    """Give the last sequence of a spool that the log has, at most the mark's.

    Raises:
        Unavailable: the log did not answer in time.
    """
    stream = StreamName(stream_name("telemetry", f"{mark.node_id}.{mark.spool_id}"))
    low, high = 0, mark.last_sequence
    while low < high:
        middle = (low + high + 1) // 2
        if await event_log.read_stream(stream, after_version=middle - 1, limit=1):
            low = middle
        else:
            high = middle - 1
    return low


async def _add_node(event_log: EventLog, scope: Scope, node_id: str, span: Span) -> None:
    open_leases: dict[str, tuple[str, int]] = {}
    leases: list[tuple[str, int, int]] = []
    async for event in read_stream(event_log, stream_name("node", node_id), to=span.to):
        scope.add(event)
        match readable(event):
            case NodeGpusReserved() as reserved:
                open_leases[reserved.lease_id] = (reserved.run_id, event.position)
            case NodeGpusReleased() as released if released.lease_id in open_leases:
                run_id, began = open_leases.pop(released.lease_id)
                leases.append((run_id, began, event.position))
            case _:
                pass
    leases.extend((run_id, began, span.to) for run_id, began in open_leases.values())
    for run_id, began, ended in leases:
        if ended <= span.after:
            continue
        wanted = EventFilter(streams=(stream_name("run", run_id),))
        # A lease is granted and let go together with the run's event, at most a few positions before.
        async for event in read_lane(
            event_log, Lane.LANE_DOMAIN, after=max(0, began - 3), to=min(span.to, ended + 3), wanted=wanted
        ):
            scope.add(event)
    await _add_late_reports(event_log, scope, node_id, span)
    first = await telemetry_at(event_log, max(span.after, 1) - 1, span.telemetry_to)
    wanted = EventFilter(actor=f"agent:{node_id}")
    scope.telemetry.append(
        read_lane(event_log, Lane.LANE_TELEMETRY, after=first, to=span.telemetry_to, wanted=wanted)
    )


async def _add_late_reports(event_log: EventLog, scope: Scope, node_id: str, span: Span) -> None:
    """Add what a node said of leases that it had no more."""
    wanted = EventFilter(types=("runyard.run.stale_report_received",))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=span.after, to=span.to, wanted=wanted):
        late = readable(event)
        if isinstance(late, RunStaleReportReceived) and late.node_id == node_id:
            scope.add(event)
