"""What each event says ends up in the field where people look for it, and what it does not say stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import ArtifactAlias, Dataset, Model
from runyard.history.v1.history_service_pb2 import ProjectState
from runyard.node.v1 import events_pb2 as node_ev
from runyard.node.v1.types_pb2 import Node, NodeAccess, NodeInventory, NodeState, Reservation
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.secret_service_pb2 import Secret
from runyard.run.v1.types_pb2 import (
    Attempt,
    Cause,
    CauseCode,
    Environment,
    FileList,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Run,
    RunSpec,
    RunState,
    TelemetryMark,
)
from runyard_contracts.registry import event_type_of
from runyard_replay.folding.nodes import ForeignProcesses, foreign_after, node_after
from runyard_replay.folding.projects import NAME_TYPES, ProjectFold
from runyard_replay.folding.runs import run_after, state_after

from .test_folding import recorded

LOST = Cause(code=CauseCode.CAUSE_CODE_AGENT_LOST)
FAILED = Cause(code=CauseCode.CAUSE_CODE_USER_ERROR, exit_code=3)
QUEUED = ev.RunQueued(
    run_id="r", project="p", number=4, spec=RunSpec(step="s"), title="first", tags=["a", "b"]
)
GRANTED = ev.RunLeaseGranted(attempt=1, node_id="n1", lease_id="l1", epoch=5, gpu_uuids=["g1", "g2"])
AGAIN = ev.RunLeaseGranted(attempt=2, node_id="n2", lease_id="l2", epoch=6)
ENROLLED = node_ev.NodeEnrolled(inventory=NodeInventory(hostname="h"))
INVITED = node_ev.NodeInvited(token_sha256="t", expires_at=Timestamp(seconds=99))
ISSUED = node_ev.NodeCredentialIssued(credential_sha256="c")
ATTACHED = node_ev.NodeAttached(boot_id="b", agent_version="1.2")
DETACHED = node_ev.NodeDetached(reason="silent")
REVOKED = node_ev.NodeRevoked()


def at(seconds: int) -> Timestamp:
    """The event at a position occurs as many seconds after 1970."""
    return Timestamp(seconds=seconds)


def folded_run(*messages: Message) -> Run:
    run: Run | None = None
    for position, message in enumerate(messages, start=1):
        run = run_after(run, recorded(message, position, "run-r"))
    assert run is not None
    return run


def folded_node(*messages: Message) -> Node:
    node: Node | None = None
    for position, message in enumerate(messages, start=1):
        node = node_after(node, recorded(message, position, "node-n1"))
    assert node is not None
    return node


def folded_project(*messages: Message) -> ProjectFold:
    project = ProjectFold("p")
    for position, message in enumerate(messages, start=1):
        project.apply(recorded(message, position, "project-p"))
    return project


def test_a_queued_run_is_what_was_submitted_and_by_whom() -> None:
    assert folded_run(QUEUED) == Run(
        run_id="r", project="p", number=4, spec=RunSpec(step="s"), title="first", tags=["a", "b"],
        submitted_by="user:alice", queued_at=at(1), state=RunState.RUN_STATE_QUEUED, position=1,
    )  # fmt: skip


def test_each_lease_begins_an_attempt_that_can_be_heard() -> None:
    first, second = folded_run(QUEUED, GRANTED, AGAIN).attempts
    assert first == Attempt(
        number=1,
        node_id="n1",
        lease_id="l1",
        epoch=5,
        gpu_uuids=["g1", "g2"],
        reachable=True,
        leased_at=at(2),
    )
    assert (second.number, second.node_id, second.leased_at) == (2, "n2", at(3))


def test_a_run_has_started_when_its_first_attempt_has() -> None:
    first = ev.RunStarted(attempt=1, hardware=Hardware(node_id="n1"), inputs=[Input(name="data")])
    run = folded_run(QUEUED, GRANTED, first, AGAIN, ev.RunStarted(attempt=2))
    assert run.started_at == at(3)
    assert [attempt.started_at for attempt in run.attempts] == [at(3), at(5)]
    assert (run.attempts[0].hardware.node_id, [one.name for one in run.attempts[0].inputs]) == (
        "n1",
        ["data"],
    )
    assert not run.attempts[1].HasField("hardware") or not run.attempts[1].hardware.node_id


@pytest.mark.parametrize("state", [s for s in RunState.values() if s != RunState.RUN_STATE_STARTING])
def test_a_start_that_comes_late_changes_no_state(state: RunState.ValueType) -> None:
    assert state_after(state, ev.RunStarted()) == state
    assert state_after(RunState.RUN_STATE_STARTING, ev.RunStarted()) == RunState.RUN_STATE_RUNNING


@pytest.mark.parametrize(
    ("message", "state"),
    [
        (ev.RunRequeued(), RunState.RUN_STATE_QUEUED),
        (ev.RunLeaseGranted(), RunState.RUN_STATE_STARTING),
        (ev.RunStopRequested(), RunState.RUN_STATE_STOPPING),
        (ev.RunAttemptExited(), RunState.RUN_STATE_FINISHING),
        (ev.RunAttemptFailed(), RunState.RUN_STATE_FINISHING),
        (ev.RunFinished(), RunState.RUN_STATE_FINISHED),
        (ev.RunUnreachable(), RunState.RUN_STATE_RUNNING),
        (ev.RunLeaseExpired(), RunState.RUN_STATE_RUNNING),
    ],
)
def test_an_event_leads_to_one_state(message: Message, state: RunState.ValueType) -> None:
    assert state_after(RunState.RUN_STATE_RUNNING, message) == state


def test_an_attempt_is_told_apart_from_its_successor() -> None:
    of_first: Sequence[Message] = (
        ev.EnvironmentCaptured(attempt=1, environment=Environment(interpreter="python")),
        ev.RunUnreachable(attempt=1),
        ev.RunLeaseExpired(attempt=1),
        ev.RunAttemptFailed(attempt=1, cause=LOST),
    )
    first, second = folded_run(QUEUED, GRANTED, AGAIN, *of_first).attempts
    assert (first.environment.interpreter, first.reachable, first.lease_expired) == ("python", False, True)
    assert first.cause == LOST
    assert second == folded_run(QUEUED, GRANTED, AGAIN).attempts[1]


def test_an_attempt_that_is_heard_again_is_reachable() -> None:
    gone = (QUEUED, GRANTED, ev.RunUnreachable(attempt=1))
    assert not folded_run(*gone).attempts[0].reachable
    assert folded_run(*gone, ev.RunReachableAgain(attempt=1)).attempts[0].reachable


def test_what_is_said_of_an_attempt_that_never_was_changes_none() -> None:
    run = folded_run(QUEUED, GRANTED, ev.RunUnreachable(attempt=9))
    assert run.attempts == folded_run(QUEUED, GRANTED).attempts


def test_an_exit_was_when_the_agent_says_and_else_when_it_was_told() -> None:
    said = ev.RunAttemptExited(attempt=1, cause=FAILED, exited_at=at(77))
    unsaid = ev.RunAttemptExited(attempt=1, cause=FAILED)
    (attempt,) = folded_run(QUEUED, GRANTED, said).attempts
    assert (attempt.cause, attempt.exited_at) == (FAILED, at(77))
    assert folded_run(QUEUED, GRANTED, unsaid).attempts[0].exited_at == at(3)


def test_a_finished_run_and_its_attempt_have_the_end_that_was_told() -> None:
    end = ev.RunFinished(
        attempt=1, outcome=Outcome.OUTCOME_FAILED, cause=FAILED, outputs=[OutputFile(path="o")],
        telemetry=TelemetryMark(last_sequence=7),
    )  # fmt: skip
    run = folded_run(QUEUED, GRANTED, end)
    assert (run.outcome, run.cause, run.finished_at) == (Outcome.OUTCOME_FAILED, FAILED, at(3))
    (attempt,) = run.attempts
    assert (attempt.cause, [file.path for file in attempt.outputs]) == (FAILED, ["o"])
    assert attempt.telemetry.last_sequence == 7
    end.ClearField("telemetry")
    (untold,) = folded_run(QUEUED, GRANTED, end).attempts
    assert not untold.HasField("telemetry")
    assert not untold.HasField("output_list")


def test_outputs_too_many_for_an_event_are_named_by_their_list() -> None:
    named = FileList(sha256="s", file_count=9, size_bytes=70)
    (attempt,) = folded_run(QUEUED, GRANTED, ev.RunFinished(attempt=1, output_list=named)).attempts
    assert attempt.output_list == named


def test_a_status_is_the_newest_that_was_set() -> None:
    run = folded_run(
        QUEUED, ev.RunStatusDetailSet(status_detail="1"), ev.RunStatusDetailSet(status_detail="2")
    )
    assert run.status_detail == "2"


def test_a_stale_report_does_not_move_a_run() -> None:
    assert folded_run(QUEUED, GRANTED, ev.RunStaleReportReceived(attempt=1)) == folded_run(QUEUED, GRANTED)


def test_a_file_got_on_demand_belongs_to_the_input_that_it_was_asked_of() -> None:
    inputs = [Input(name=name, files=[InputFile(path="a")], on_demand=True) for name in ("x", "y")]
    begin = (QUEUED, GRANTED, ev.RunStarted(attempt=1, inputs=inputs))
    listed = ev.RunInputFetched(attempt=1, input="y", file=InputFile(path="a", sha256="s"))
    new = ev.RunInputFetched(attempt=1, input="y", file=InputFile(path="b", sha256="t"))
    (attempt,) = folded_run(*begin, listed, new).attempts
    files = {one.name: [(file.path, file.sha256) for file in one.files] for one in attempt.inputs}
    assert files == {"x": [("a", "")], "y": [("a", "s"), ("b", "t")]}


def test_a_node_is_where_its_newest_event_left_it() -> None:
    node = folded_node(ENROLLED, ATTACHED, DETACHED)
    assert node == Node(
        node_id="n1", state=NodeState.NODE_STATE_DETACHED,
        enrolled_at=at(1), attached_at=at(2), detached_at=at(3),
        inventory=NodeInventory(hostname="h", boot_id="b", agent_version="1.2"), position=3,
    )  # fmt: skip
    assert folded_node(ENROLLED, ATTACHED).state == NodeState.NODE_STATE_ATTACHED


def test_a_changed_inventory_takes_the_place_of_the_former() -> None:
    changed = node_ev.NodeInventoryChanged(inventory=NodeInventory(slot_count=8))
    node = folded_node(ENROLLED, changed)
    assert (node.inventory, node.enrolled_at) == (NodeInventory(slot_count=8), at(1))


def test_a_release_gives_back_what_its_lease_held_and_nothing_else() -> None:
    held = [
        node_ev.NodeGpusReserved(lease_id=lease, run_id="r", attempt=2, gpu_uuids=[f"g-{lease}"])
        for lease in ("l1", "l2")
    ]
    node = folded_node(*held, node_ev.NodeGpusReleased(lease_id="l1"))
    assert list(node.reservations) == [
        Reservation(lease_id="l2", run_id="r", attempt=2, gpu_uuids=["g-l2"], reserved_at=at(2))
    ]


@pytest.mark.parametrize(
    ("messages", "state"),
    [
        ([INVITED], NodeState.NODE_STATE_INVITED),
        ([INVITED, ISSUED], NodeState.NODE_STATE_DETACHED),
        ([ATTACHED, INVITED], NodeState.NODE_STATE_ATTACHED),
        ([ATTACHED, ISSUED], NodeState.NODE_STATE_ATTACHED),
        ([ATTACHED, REVOKED], NodeState.NODE_STATE_REVOKED),
        ([ATTACHED, REVOKED, DETACHED], NodeState.NODE_STATE_REVOKED),
        ([REVOKED, ISSUED], NodeState.NODE_STATE_DETACHED),
        ([REVOKED, INVITED], NodeState.NODE_STATE_REVOKED),
    ],
)
def test_access_given_or_taken_leads_to_one_state(
    messages: list[Message], state: NodeState.ValueType
) -> None:
    assert folded_node(*messages).state == state


def test_a_token_is_spent_by_a_credential_and_by_a_revocation() -> None:
    open_token = NodeAccess(token_sha256="t", token_expires_at=at(99))
    assert folded_node(INVITED).access == open_token
    let_in = NodeAccess(
        token_sha256="t",
        token_expires_at=at(99),
        token_spent=True,
        credential_sha256="c",
        credential_issued_at=at(2),
    )
    assert folded_node(INVITED, ISSUED).access == let_in
    assert folded_node(INVITED, REVOKED).access.token_spent
    assert folded_node(INVITED, ISSUED, INVITED).access.token_spent is False


def test_a_revoked_node_has_no_credential_until_it_gets_another() -> None:
    out = folded_node(INVITED, ISSUED, REVOKED).access
    assert (out.credential_sha256, out.revoked_at) == ("", at(3))
    back = folded_node(INVITED, ISSUED, REVOKED, ISSUED).access
    assert (back.credential_sha256, back.HasField("revoked_at")) == ("c", False)


def test_a_foreign_process_is_known_by_gpu_and_pid_until_it_is_gone() -> None:
    def seen(gpu: str, pid: int, *, gone: bool = False) -> node_ev.NodeForeignProcessSeen:
        return node_ev.NodeForeignProcessSeen(gpu_uuid=gpu, pid=pid, gone=gone)

    known: ForeignProcesses = {}
    for position, message in enumerate((seen("a", 1), seen("a", 2), seen("b", 1), ATTACHED), start=1):
        known = foreign_after(known, recorded(message, position, "node-n1"))
    assert set(known) == {("a", 1), ("a", 2), ("b", 1)}
    newer = node_ev.NodeForeignProcessSeen(gpu_uuid="a", pid=1, process_name="miner")
    known = foreign_after(known, recorded(newer, 5, "node-n1"))
    assert known["a", 1].process_name == "miner"
    left = foreign_after(known, recorded(seen("a", 1, gone=True), 6, "node-n1"))
    assert (set(left), set(known)) == ({("a", 2), ("b", 1)}, {("a", 1), ("a", 2), ("b", 1)})


def test_a_project_shows_what_is_kept_under_it_by_name() -> None:
    project = folded_project(
        ev.ProjectCreated(project="p"),
        ev.ProjectRunNumbered(project="p", run_id="r1", number=1),
        ev.ProjectRunNumbered(project="p", run_id="r2", number=2),
        *(ev.ProjectSecretSet(project="p", name=name) for name in ("Z", "A")),
        *(ArtifactAliasMoved(project="p", alias=name, sha256=f"s-{name}") for name in ("z", "a")),
        *(DatasetVersionCreated(project="p", dataset=name, version="v1") for name in ("z", "a")),
        *(ModelVersionRegistered(project="p", model=name, version=1) for name in ("z", "a")),
    )
    alice = "user:alice"
    assert project.number_of_run == {"r1": 1, "r2": 2}
    assert project.state() == ProjectState(
        project="p",
        created_at=at(1),
        run_count=2,
        secrets=[
            Secret(project="p", name=name, changed_at=at(seconds), changed_by=alice)
            for name, seconds in (("A", 5), ("Z", 4))
        ],
        aliases=[
            ArtifactAlias(project="p", alias=name, sha256=f"s-{name}", moved_at=at(seconds), moved_by=alice)
            for name, seconds in (("a", 7), ("z", 6))
        ],
        datasets=[
            Dataset(project="p", name=name, version_count=1, newest_version="v1", newest_at=at(seconds))
            for name, seconds in (("a", 9), ("z", 8))
        ],
        models=[
            Model(project="p", name=name, version_count=1, newest_version=1, newest_at=at(seconds))
            for name, seconds in (("a", 11), ("z", 10))
        ],
    )


def test_versions_are_counted_and_the_newest_is_shown() -> None:
    state = folded_project(
        *(DatasetVersionCreated(project="p", dataset="d", version=version) for version in ("v1", "v0")),
        *(ModelVersionRegistered(project="p", model="m", version=version) for version in (1, 2, 3)),
    ).state()
    [dataset], [model] = state.datasets, state.models
    assert (dataset.version_count, dataset.newest_version, dataset.newest_at) == (2, "v0", at(2))
    assert (model.version_count, model.newest_version, model.newest_at) == (3, 3, at(5))


def test_whatever_names_something_in_a_project_is_asked_for_by_its_type() -> None:
    named = (ArtifactAliasMoved(), DatasetVersionCreated(), ModelVersionRegistered())
    assert set(NAME_TYPES) == {event_type_of(message).name for message in named}


def test_a_removed_secret_is_no_longer_named() -> None:
    removed = ev.ProjectSecretRemoved(project="p", name="A")
    assert folded_project(ev.ProjectSecretSet(project="p", name="A"), removed).secrets() == []
    assert folded_project(removed).secrets() == []


def test_what_happens_in_another_project_changes_nothing() -> None:
    others = (
        ev.ProjectCreated(project="q"),
        ev.ProjectRunNumbered(project="q", run_id="r", number=1),
        ModelVersionRegistered(project="q", model="m", version=1),
        ATTACHED,
    )
    assert folded_project(*others).state() == ProjectState(project="p")
