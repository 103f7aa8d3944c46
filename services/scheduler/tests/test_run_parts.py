"""What may be large in a run is written once, and comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf.message import Message

from runyard.node.v1.types_pb2 import GpuDevice
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Environment,
    EnvironmentVariable,
    FileList,
    Hardware,
    Input,
    InputFile,
    Mount,
    OutputFile,
    Package,
    ParameterValue,
    Run,
)
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.folding.runs import run_after
from runyard_scheduler.projections.run_parts import whole_run
from runyard_scheduler.projections.runs import RunRow, run_rows

from .yard import a_spec

LISTED = [InputFile(path=f"{number % 900}.jpg", sha256="0" * 64) for number in range(1_000)]


def events_of(messages: list[Message]) -> Iterator[RecordedEvent]:
    context = Context(parse_actor("user:alice"), uuid7(), source="/scheduler")
    for version, message in enumerate(messages, start=1):
        envelope = wrap(message, stream_name("run", "it"), context, datetime(2026, 1, 1, tzinfo=UTC))
        envelope.position = envelope.stream_version = version
        yield RecordedEvent(envelope)


def queued() -> ev.RunQueued:
    spec = a_spec()
    spec.inputs.add(name="data", uris=["dataset://images/v1"], files=LISTED)
    spec.parameters.append(ParameterValue(name="rate", is_float=True))
    spec.environment_variables.append(EnvironmentVariable(name="MODE", value="fast"))
    spec.mounts.append(Mount(source="/data", destination="/data"))
    return ev.RunQueued(run_id="it", project="digits", number=1, spec=spec, title="first", tags=["a"])


def attempt(number: int) -> list[Message]:
    inputs = [
        Input(name="empty"),
        Input(name="data", uris=["dataset://images/v1"], files=LISTED, file_list=FileList(file_count=7)),
        Input(name="late", filename="x", keep_directories="full", on_demand=True),
        Input(name="data", on_demand=True),
    ]
    fetched = [
        ev.RunInputFetched(
            run_id="it",
            attempt=number,
            input=name,
            file=InputFile(path=path, sha256="1" * 64, moved_bytes=0),
        )
        for name in ("data", "late", "unknown")
        for path in ("3.jpg", "new.jpg", "3.jpg", "other.jpg", "new.jpg")
    ]
    packages = [Package(name=f"package-{index}", version=str(number)) for index in range(1_000)]
    return [
        ev.RunLeaseGranted(run_id="it", attempt=number, lease_id=f"l{number}", node_id="n", epoch=number),
        ev.EnvironmentCaptured(
            run_id="it", attempt=number, environment=Environment(image="a", packages=packages)
        ),
        ev.EnvironmentCaptured(
            run_id="it", attempt=number, environment=Environment(os="b", packages=packages[1:])
        ),
        ev.RunStarted(
            run_id="it",
            attempt=number,
            hardware=Hardware(node_id="n", gpus=[GpuDevice(uuid="GPU-1")]),
            inputs=inputs,
        ),
        *fetched,
    ]


def story() -> list[Message]:
    status = [ev.RunStatusDetailSet(run_id="it", status_detail=f"epoch {number}") for number in range(50)]
    outputs = [OutputFile(path=f"{number}.pt", sha256="2" * 64) for number in range(1_000)]
    return [
        queued(),
        *attempt(1),
        ev.RunRequeued(run_id="it"),
        *attempt(2),
        *status,
        ev.RunFinished(run_id="it", attempt=2, outputs=outputs, output_list=FileList(file_count=1_000)),
    ]


def rows_of(messages: list[Message]) -> Iterator[tuple[RecordedEvent, RunRow, list[bytes]]]:
    """Give each event, the row after it, and the parts up to it."""
    row: RunRow | None = None
    parts: list[bytes] = []
    for event in events_of(messages):
        made = run_rows(row, event)
        assert made is not None
        row, part = made
        parts += [part.document] if part else []
        yield event, row, parts


def test_a_run_is_whole_again_after_each_of_its_events() -> None:
    run: Run | None = None
    for event, row, parts in rows_of(story()):
        run = run_after(run, event)
        assert whole_run(row.document, parts) == run, event


def test_what_is_large_is_written_once() -> None:
    told = 0
    for event, row, parts in rows_of(story()):
        told += event.message.ByteSize()
        assert len(row.document) < 1_000
        assert sum(map(len, parts)) < told + 100 * len(parts)


def test_an_environment_that_is_empty_is_still_there() -> None:
    captured = ev.EnvironmentCaptured(run_id="it", attempt=1, environment=Environment())
    *_, (_, row, parts) = rows_of([queued(), *attempt(1)[:1], captured])
    assert whole_run(row.document, parts).attempts[0].HasField("environment")
