"""The folds of runs and nodes, which the scheduler's decisions, its read model and history all use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.node.v1 import events_pb2 as node_ev
from runyard.node.v1.types_pb2 import GpuDevice, Node, NodeInventory
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    Environment,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Run,
    RunSpec,
)
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_replay.folding.files import FileFold
from runyard_replay.folding.nodes import node_after
from runyard_replay.folding.runs import run_after

LOST = Cause(code=CauseCode.CAUSE_CODE_AGENT_LOST)
RUN_EVENTS: Sequence[Message] = (
    ev.RunQueued(run_id="r", project="p", number=1, spec=RunSpec(step="s"), tags=["t"]),
    ev.RunLeaseGranted(attempt=1, node_id="n1", epoch=1, gpu_uuids=["g"]),
    ev.RunLeaseGranted(attempt=2, node_id="n2", epoch=2),
    ev.RunStarted(attempt=1, epoch=1, hardware=Hardware(node_id="n1")),
    ev.RunStarted(
        attempt=2, epoch=2, inputs=[Input(name="late", files=[InputFile(path="a")], on_demand=True)]
    ),
    ev.EnvironmentCaptured(attempt=1, environment=Environment(interpreter="x")),
    ev.RunStatusDetailSet(attempt=1, status_detail="half"),
    ev.RunInputFetched(attempt=2, input="late", file=InputFile(path="a", sha256="s")),
    ev.RunStopRequested(reason="enough"),
    ev.RunUnreachable(attempt=1),
    ev.RunReachableAgain(attempt=1),
    ev.RunLeaseExpired(attempt=1),
    ev.RunAttemptExited(attempt=2, cause=Cause(exit_code=1), exited_at=Timestamp(seconds=9)),
    ev.RunAttemptFailed(attempt=1, cause=LOST),
    ev.RunRequeued(next_attempt=2),
    ev.RunFinished(attempt=2, outcome=Outcome.OUTCOME_FAILED, cause=LOST, outputs=[OutputFile(path="o")]),
    ev.RunStaleReportReceived(attempt=1, epoch=1),
    ev.RunHandsOnOpened(attempt=1, session_id="s", command=["ls"]),
    ev.RunHandsOnClosed(attempt=1, session_id="s", sent_bytes=1),
)
NODE_EVENTS: Sequence[Message] = (
    node_ev.NodeEnrolled(inventory=NodeInventory(hostname="h", gpus=[GpuDevice(uuid="g")])),
    node_ev.NodeAttached(boot_id="b", agent_version="1"),
    node_ev.NodeDetached(reason="silent"),
    node_ev.NodeInventoryChanged(inventory=NodeInventory(hostname="i")),
    node_ev.NodeGpusReserved(lease_id="l1", run_id="r", gpu_uuids=["g"]),
    node_ev.NodeGpusReserved(lease_id="l2", run_id="r2"),
    node_ev.NodeGpusReleased(lease_id="l1"),
    node_ev.NodeForeignProcessSeen(gpu_uuid="g", pid=1),
    node_ev.NodeInvited(token_sha256="t"),
    node_ev.NodeCredentialIssued(credential_sha256="c"),
    node_ev.NodeRevoked(),
)


def test_every_event_of_runs_and_nodes_is_tried() -> None:
    known = {type(message).DESCRIPTOR.name for message in (*RUN_EVENTS, *NODE_EVENTS)}
    files = (ev.DESCRIPTOR, node_ev.DESCRIPTOR)
    declared = {name for file in files for name in file.message_types_by_name}
    assert {name for name in declared - known if not name.startswith("Project")} == set()


@given(st.lists(st.sampled_from(RUN_EVENTS), max_size=12))
def test_folding_a_run_does_not_change_the_one_given(messages: list[Message]) -> None:
    run: Run | None = None
    for position, message in enumerate(messages, start=1):
        before = None if run is None else run.SerializeToString(deterministic=True)
        after = run_after(run, recorded(message, position, "run-r"))
        assert run is None or run.SerializeToString(deterministic=True) == before
        run = after


@given(st.lists(st.sampled_from(NODE_EVENTS), max_size=12))
def test_folding_a_node_does_not_change_the_one_given(messages: list[Message]) -> None:
    node: Node | None = None
    for position, message in enumerate(messages, start=1):
        before = None if node is None else node.SerializeToString(deterministic=True)
        after = node_after(node, recorded(message, position, "node-n1"))
        assert node is None or node.SerializeToString(deterministic=True) == before
        node = after


def test_what_a_program_got_on_demand_takes_the_place_of_what_was_listed() -> None:
    run: Run | None = None
    for position, message in enumerate(RUN_EVENTS[:8], start=1):
        run = run_after(run, recorded(message, position, "run-r"))
    assert run is not None
    [one] = run.attempts[1].inputs
    assert [(file.path, file.sha256) for file in one.files] == [("a", "s")]


def test_the_folds_load_no_driver_of_an_engine() -> None:
    code = (
        "import sys, runyard_replay.folding.nodes, runyard_replay.folding.runs\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(loaded & {'asyncpg', 'grpc', 'nats', 'runyard_eventlog', 'sqlalchemy', 'sqlite3'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_place_where_a_file_is_left_again_is_told_once_and_last() -> None:
    first, other = Origin(run_id="r", path="a.pt"), Origin(run_id="r", path="b.pt")
    fold = FileFold()
    for position, origin in enumerate((first, other, first), start=1):
        written = ArtifactWritten(sha256="a" * 64, origin=origin)
        fold.apply(recorded(written, position, "artifact-a"))
    file = fold.file()
    assert file is not None
    assert ([told.origin for told in file.origins], file.name) == ([other, first], "a.pt")


def recorded(message: Message, position: int, stream: str) -> RecordedEvent:
    envelope = Envelope(
        type=event_type_of(message).name,
        stream=stream,
        stream_version=position,
        position=position,
        occurred_at=Timestamp(seconds=position),
        actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"),
    )
    return RecordedEvent(envelope, message)
