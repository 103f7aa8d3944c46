"""A small log in a home of its own, and the command line on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.message import Message

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Lane
from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded, LogStream
from runyard.node.v1.events_pb2 import NodeEnrolled, NodeGpusReleased, NodeGpusReserved
from runyard.node.v1.types_pb2 import GpuDevice, NodeInventory
from runyard.run.v1.events_pb2 import ProjectRunNumbered, RunFinished, RunLeaseGranted, RunQueued
from runyard.run.v1.types_pb2 import Outcome, RunSpec
from runyard_cli import output
from runyard_cli.main import main
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import EventId, deterministic_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.exports import FORMAT, LaneWriter, Manifest, write_manifest

RUN = "0198aaaa-0000-7000-8000-000000000001"
START_SECONDS = 1_767_225_600
ALICE = Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice")
PRICE = Price(price_id="p", unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=3_600_000_000)
INVENTORY = NodeInventory(gpus=[GpuDevice(uuid="G", model="H")])
Told = tuple[str, str, Message]
STORY: tuple[Told, ...] = (
    (
        "node",
        "n1",
        NodeEnrolled(node_id="n1", inventory=NodeInventory(gpus=[GpuDevice(uuid="G", model="H")])),
    ),
    ("price", "p", PriceSet(price=PRICE)),
    ("project", "digits", ProjectRunNumbered(project="digits", run_id=RUN, number=1)),
    ("run", RUN, RunQueued(run_id=RUN, project="digits", number=1, spec=RunSpec(step="train"))),
    (
        "run",
        RUN,
        RunLeaseGranted(run_id=RUN, attempt=1, lease_id="l", epoch=1, node_id="n1", gpu_uuids=["G"]),
    ),
    (
        "node",
        "n1",
        NodeGpusReserved(
            node_id="n1",
            lease_id="l",
            run_id=RUN,
            attempt=1,
            gpu_uuids=["G"],
            gpu_models=["H"],
            project="digits",
        ),
    ),
    ("node", "n1", NodeGpusReleased(node_id="n1", lease_id="l", run_id=RUN, attempt=1, gpu_uuids=["G"])),
    ("run", RUN, RunFinished(run_id=RUN, attempt=1, epoch=1, outcome=Outcome.OUTCOME_SUCCEEDED)),
)
LINES = LogChunkRecorded(
    attempt=AttemptRef(run_id=RUN, attempt=1),
    first_line_number=1,
    lines=["hello"],
    streams=[LogStream.LOG_STREAM_STDOUT],
)


def event_id(position: int) -> EventId:
    return EventId(deterministic_id("cli", position))


def recorded(category: str, name: str, message: Message, position: int, version: int) -> RecordedEvent:
    group = RUN if RUN in str(message) else ""
    cause = event_id(position - 1) if position in (5, 6, 7, 8) else ""
    context = Context(ALICE, group or event_id(position), "/test", causation_id=cause)
    at = datetime.fromtimestamp(START_SECONDS + position, UTC)
    envelope = wrap(message, stream_name(category, name), context, at, event_id=event_id(position))
    envelope.position, envelope.stream_version = position, version
    envelope.recorded_at.FromDatetime(at)
    return RecordedEvent(envelope)


def export_of(folder: Path, story: Sequence[Told] = STORY) -> Path:
    """Write an export of a story, with one batch of telemetry."""
    folder.mkdir()
    versions: dict[str, int] = {}
    with LaneWriter(folder, Lane.LANE_DOMAIN, cloudevents=False) as domain:
        for position, (category, name, message) in enumerate(story, start=1):
            versions[name] = versions.get(name, 0) + 1
            domain.write(recorded(category, name, message, position, versions[name]))
    batch = recorded("telemetry", "n1.s", LINES, 1, 1)
    batch.envelope.event_id, batch.envelope.after_position = event_id(99), 6
    with LaneWriter(folder, Lane.LANE_TELEMETRY, cloudevents=False) as telemetry:
        telemetry.write(batch)
    write_manifest(folder, Manifest(FORMAT, "log-1", (domain.entry(), telemetry.entry())))
    return folder


class Terminal:
    """Runs commands in a home of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.said = ""
        """What the last command wrote to standard error."""

    def run(self, *arguments: str, expect: int = 0) -> str:
        """Give standard output, or standard error of a failure."""
        output._Mode.is_json = False
        self._monkeypatch.setattr(sys, "argv", ["runyard", "history", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        self.said = err
        assert int(ended.value.code or 0) == expect, f"{out}\n{err}"
        output._Mode.is_json = False
        return err if expect else out
