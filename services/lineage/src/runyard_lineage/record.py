"""Gathers the ten boxes of a run's record from the services that own them, at one position."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.artifact.v1.types_pb2 import Artifact
from runyard.cost.v1.cost_service_pb2 import GetRunCostRequest, GetRunCostResponse
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.metric.v1.metric_service_pb2 import (
    GetCommittedMarkRequest,
    GetRunSummaryRequest,
    GetRunSummaryResponse,
    ListLogLinesRequest,
    LogLine,
)
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
from runyard.record.v1.record_service_pb2 import GetRecordResponse, LogSummary, Record
from runyard.run.v1.scheduler_service_pb2 import GetRunRequest, GetRunResponse
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import Run
from runyard_core.errors import InvalidInput, NotFound, OutOfRange, RunyardError, Unavailable
from runyard_core.task_group import TaskGroup
from runyard_eventlog.moment import Moments
from runyard_lineage.domain.completeness import completeness, last_attempt
from runyard_lineage.record_size import (
    RECORD_BYTES_MAX,
    add_outputs,
    add_results,
    found_inputs,
    lacking_files,
)
from runyard_servicekit.error_mapping import reason_of

BOX_SECONDS_MAX = 2.0
"""How long a service may take for its boxes."""
LAST_LINES = 20
OUTPUTS_MAX = 10_000
"""Most outputs of a record; that there are more is said, so that nobody compares the rest with nothing."""
_PAGE_SIZE = 1_000

Answer = TypeVar("Answer")

_PASSED_ON: dict[grpc.StatusCode, type[RunyardError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
}
"""Answers of the scheduler that are about the caller's question, not about the scheduler."""


@dataclass(frozen=True, slots=True)
class Peers:
    """The services that own the boxes."""

    scheduler: SchedulerServiceStub
    artifact: ArtifactServiceStub
    metrics: MetricServiceStub
    cost: CostServiceStub


@dataclass(frozen=True, slots=True)
class _Telemetry:
    summary: GetRunSummaryResponse
    lines: list[LogLine]
    committed: int | None


class RecordHandlers:
    """Puts records together. A box whose service does not answer is named, never invented."""

    def __init__(self, moments: Moments, peers: Peers) -> None:
        """Ask these services; a time is mapped to a position once, for all of them."""
        self._moments = moments
        self._peers = peers

    async def record(self, name: str, read: ReadOptions) -> GetRecordResponse:
        """Give the record of a run.

        Raises:
            NotFound, InvalidInput, OutOfRange: as the scheduler says of the name and the moment.
            Unavailable: the scheduler, which owns the run itself, does not answer.
        """
        read = await self._pinned(read)
        found = await self._run(name, read)
        run = found.run
        # Every box shows what the run shows, or later.
        at = ReadOptions(min_position=found.position)
        if read.HasField("as_of"):
            at.as_of.CopyFrom(read.as_of)
        missing: list[str] = []
        async with TaskGroup() as group:
            outputs = group.create_task(_box("outputs", "artifact", self._outputs(run, at), missing))
            cost = group.create_task(_box("experiment cost", "cost", self._cost(run, at), missing))
            telemetry = group.create_task(
                _box("logs, results and statistics", "metrics", self._telemetry(run, at), missing)
            )
        record = _stored_boxes(run)
        missing.extend(lacking_files(record.datasets))
        if (costs := cost.result()) is not None:
            record.cost.CopyFrom(costs.cost)
        measured = telemetry.result()
        if measured is not None:
            _fill_telemetry(record, measured)
            missing.extend(add_results(record, measured.summary))
        listed = outputs.result() or ()
        add_outputs(record, listed[:OUTPUTS_MAX])
        if len(listed) > len(record.outputs):
            missing.append(f"outputs: there are more than {len(record.outputs)}; ListArtifacts has all")
        verdict = completeness(
            run, measured.summary if measured else None, measured.committed if measured else None
        )
        record.complete = verdict.complete
        record.missing.extend([*sorted(missing), *verdict.missing])
        return GetRecordResponse(record=record, position=found.position)

    async def _pinned(self, read: ReadOptions) -> ReadOptions:
        """Map a time to a position once, so that all boxes show the same moment."""
        if not read.HasField("as_of"):
            return read
        position = await self._moments.shown(read)
        return ReadOptions(min_position=read.min_position, as_of=AsOf(position=position))

    async def _run(self, name: str, read: ReadOptions) -> GetRunResponse:
        try:
            return await self._peers.scheduler.GetRun(
                GetRunRequest(name=name, read=read), timeout=BOX_SECONDS_MAX
            )
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            if passed_on := _PASSED_ON.get(error.code()):
                raise passed_on(details, code=reason_of(error)) from error
            raise Unavailable(
                f"the scheduler does not answer ({error.code().name}: {details}); the run is its own",
                code="SCHEDULER_UNAVAILABLE",
            ) from error

    async def _outputs(self, run: Run, read: ReadOptions) -> list[Artifact]:
        """Give the newest outputs: all, or more than a record holds."""
        outputs: list[Artifact] = []
        token, size_bytes = "", 0
        while True:
            page = await self._peers.artifact.ListArtifacts(
                ListArtifactsRequest(run_id=run.run_id, page_size=_PAGE_SIZE, page_token=token, read=read),
                timeout=BOX_SECONDS_MAX,
            )
            outputs.extend(page.artifacts)
            token, size_bytes = page.next_page_token, size_bytes + page.ByteSize()
            if not token or len(outputs) > OUTPUTS_MAX or size_bytes > RECORD_BYTES_MAX:
                return outputs

    async def _cost(self, run: Run, read: ReadOptions) -> GetRunCostResponse:
        request = GetRunCostRequest(run_id=run.run_id, read=read)
        return await self._peers.cost.GetRunCost(request, timeout=BOX_SECONDS_MAX)

    async def _telemetry(self, run: Run, read: ReadOptions) -> _Telemetry:
        metrics = self._peers.metrics
        summary = await metrics.GetRunSummary(
            GetRunSummaryRequest(run_id=run.run_id, read=read), timeout=BOX_SECONDS_MAX
        )
        page = await metrics.ListLogLines(
            ListLogLinesRequest(run_id=run.run_id, tail_line_count=LAST_LINES, read=read),
            timeout=BOX_SECONDS_MAX,
        )
        attempt = last_attempt(run)
        committed = None
        if attempt is not None and attempt.telemetry.spool_id:
            mark = attempt.telemetry
            answer = await metrics.GetCommittedMark(
                GetCommittedMarkRequest(node_id=mark.node_id, spool_id=mark.spool_id),
                timeout=BOX_SECONDS_MAX,
            )
            committed = answer.sequence
        return _Telemetry(summary, list(page.lines), committed)


async def _box(name: str, service: str, asked: Awaitable[Answer], missing: list[str]) -> Answer | None:
    """Wait for a service's boxes; a failure becomes a sentence."""
    try:
        return await asked
    except grpc.aio.AioRpcError as error:
        missing.append(f"{name}: the {service} service says {error.code().name}: {error.details()}")
        return None


def _stored_boxes(run: Run) -> Record:
    """Fill the boxes that the run itself holds."""
    record = Record(run=run, parameters=run.spec.parameters)
    if run.spec.HasField("code"):
        record.code.CopyFrom(run.spec.code)
    attempt = last_attempt(run)
    # What the code found; before it has started, what was asked for.
    record.datasets.extend(found_inputs(attempt) if attempt and attempt.inputs else run.spec.inputs)
    if attempt is not None and attempt.HasField("hardware"):
        record.hardware.CopyFrom(attempt.hardware)
    if attempt is not None and attempt.HasField("environment"):
        record.environment.CopyFrom(attempt.environment)
    return record


def _fill_telemetry(record: Record, measured: _Telemetry) -> None:
    summary = measured.summary
    record.logs.CopyFrom(
        LogSummary(line_count=summary.log_line_count, size_bytes=summary.log_bytes, last_lines=measured.lines)
    )
    record.statistics.extend(summary.statistics)
    record.gpu_incidents.extend(summary.gpu_incidents)
