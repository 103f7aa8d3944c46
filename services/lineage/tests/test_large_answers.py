"""Records and walks of things as large as their events may be, in answers no larger than a message."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf.message import Message

from runyard.artifact.v1.types_pb2 import Artifact
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard.history.v1.history_service_pb2 import GetStateAsOfRequest, Subject, SubjectKind
from runyard.history.v1.history_service_pb2_grpc import HistoryServiceStub
from runyard.lineage.v1.lineage_service_pb2 import ImpactRequest, TraceRequest
from runyard.lineage.v1.lineage_service_pb2_grpc import LineageServiceStub
from runyard.metric.v1.metric_service_pb2 import MetricLatest
from runyard.record.v1.record_service_pb2 import GetRecordRequest, Record
from runyard.record.v1.record_service_pb2_grpc import RecordServiceStub
from runyard.run.v1.events_pb2 import RunLeaseGranted, RunQueued, RunStarted
from runyard.run.v1.types_pb2 import Attempt, CodeRef, FileList, Input, InputFile, Run, RunSpec
from runyard_contracts.answer_size import ANSWER_BYTES_MAX
from runyard_contracts.ids import uuid7
from runyard_testkit import Bus, Database

from .story import TRAIN, TREE
from .yard import append, knowing_peers, serving

pytestmark = pytest.mark.engines

FILES = [InputFile(path="000001.jpg", sha256="0" * 64, size_bytes=1)] * 12_000


def a_run(attempt_count: int) -> Run:
    """A run whose attempts have found a megabyte of files, each."""
    data = Input(name="data", files=FILES)
    attempts = [Attempt(number=number, inputs=[data]) for number in range(1, attempt_count + 1)]
    return Run(run_id=TRAIN, spec=RunSpec(step="train", inputs=[data]), attempts=attempts)


async def a_record(
    run: Run,
    outputs: Sequence[Artifact],
    database: Database,
    bus: Bus,
    folder: Path,
    results: Sequence[MetricLatest] = (),
) -> Record:
    async with (
        knowing_peers(run, line_count=1, outputs=outputs, results=results) as peers,
        serving(database, bus, folder, peers) as channel,
    ):
        return (await RecordServiceStub(channel).GetRecord(GetRecordRequest(name=TRAIN))).record


async def test_a_record_of_many_attempts_and_outputs_fits_into_an_answer(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    run = a_run(10)
    assert run.ByteSize() < ANSWER_BYTES_MAX
    outputs = [Artifact(name=f"{number} {'x' * 1_000}") for number in range(7_000)]
    record = await a_record(run, outputs, database, bus, tmp_path)
    assert list(record.datasets[0].files) == FILES
    assert list(record.run.attempts[-1].inputs[0].files) == FILES
    assert record.run.attempts[0].inputs[0].file_list.file_count == len(FILES)
    shown = len(record.outputs)
    assert 3_900 < shown < len(outputs)
    assert list(record.outputs) == outputs[:shown]
    assert record.missing[0] == f"outputs: there are more than {shown}; ListArtifacts has all"


async def test_a_record_says_which_files_nobody_names(database: Database, bus: Bus, tmp_path: Path) -> None:
    counted = FileList(file_count=3)
    stored = FileList(file_count=3, sha256="1" * 64)
    inputs = [Input(name="data", file_list=counted), Input(name="checkpoints", file_list=stored)]
    run = Run(run_id=TRAIN, attempts=[Attempt(number=1, inputs=inputs)])
    record = await a_record(run, [], database, bus, tmp_path)
    assert list(record.missing) == ["input data: it names 0 of 3 files"]


async def test_a_record_of_very_many_files_on_demand_and_large_results_fits_into_an_answer(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    fetched = Input(name="data", on_demand=True, files=FILES * 8)
    run = Run(run_id=TRAIN, attempts=[Attempt(number=1, inputs=[fetched])])
    results = [MetricLatest(name=f"{number}", json_value="x" * 16_000) for number in range(500)]
    outputs = [Artifact(name="x" * 1_000)] * 3_000
    record = await a_record(run, outputs, database, bus, tmp_path, results)
    shown, named = len(record.results), len(record.datasets[0].files)
    assert list(record.results) == results[:shown]
    assert list(record.outputs) == outputs
    assert list(record.missing) == [
        f"input data: it names {named} of {len(fetched.files)} files",
        f"results: there are more than {shown}; GetRunSummary has all",
    ]


async def test_a_walk_ends_with_what_fits_into_an_answer(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    codes = [CodeRef(tree_sha256=TREE, git_branch="x" * 900_000), *[CodeRef(tree_sha256=TREE)] * 20]
    queued = [
        RunQueued(run_id=uuid7(), project="digits", number=number, spec=RunSpec(step="train", code=code))
        for number, code in enumerate(codes, start=1)
    ]
    async with serving(database, bus, tmp_path) as channel:
        lineage = LineageServiceStub(channel)
        read = ReadOptions(min_position=await append(database, queued))
        impact = await lineage.Impact(ImpactRequest(name=TREE, read=read))
        one = await lineage.Trace(TraceRequest(name="digits#1", read=read))
    assert 10 < len(impact.edges) < len(queued)
    assert [edge.source.id for edge in impact.edges] == [run.run_id for run in queued[: len(impact.edges)]]
    assert impact.truncated
    assert not one.truncated


async def test_a_run_of_many_large_attempts_is_shown_as_of_a_moment(
    database: Database, bus: Bus, tmp_path: Path
) -> None:
    attempts = range(1, 19)
    data = Input(name="data", files=FILES[:11_000])
    events: list[Message] = [RunQueued(run_id=TRAIN, project="digits", number=1, spec=RunSpec(step="train"))]
    for attempt in attempts:
        events += [
            RunLeaseGranted(run_id=TRAIN, attempt=attempt, lease_id=uuid7(), epoch=attempt, node_id="n1"),
            RunStarted(run_id=TRAIN, attempt=attempt, epoch=attempt, inputs=[data]),
        ]
    async with serving(database, bus, tmp_path) as channel:
        position = await append(database, events)
        subject = Subject(kind=SubjectKind.SUBJECT_KIND_RUN, name=TRAIN)
        request = GetStateAsOfRequest(subject=subject, as_of=AsOf(position=position))
        shown = (await HistoryServiceStub(channel).GetStateAsOf(request)).run
    assert [attempt.number for attempt in shown.attempts] == [*attempts]
    assert shown.attempts[-1].inputs[0] == data
    assert shown.attempts[0].inputs[0].file_list.file_count == len(data.files)
    assert shown.ByteSize() <= ANSWER_BYTES_MAX
