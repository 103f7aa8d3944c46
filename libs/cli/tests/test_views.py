from __future__ import annotations

import pytest
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.artifact.v1.registry_types_pb2 import Dataset, DatasetVersion, Model, ModelVersion, VersionFile
from runyard.artifact.v1.types_pb2 import Artifact, ArtifactOrigin, Origin
from runyard.cost.v1.types_pb2 import Cost, CostTerm
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Envelope
from runyard.history.v1.history_service_pb2 import EventView, ExplainRunResponse, Explanation
from runyard.lineage.v1.lineage_service_pb2 import Edge, EdgeRelation, Vertex, VertexKind
from runyard.metric.v1.batches_pb2 import GpuIncidentSeen
from runyard.metric.v1.metric_service_pb2 import GpuProcess, GpuReading, LogLine, MetricLatest, Statistic
from runyard.node.v1.types_pb2 import GpuDevice, Node, NodeInventory, NodeState, Reservation
from runyard.record.v1.record_service_pb2 import LogSummary, Record
from runyard.run.v1.types_pb2 import (
    Attempt,
    Cause,
    CauseCode,
    CodeRef,
    Environment,
    Executor,
    Hardware,
    Input,
    InputFile,
    Outcome,
    Package,
    ParameterValue,
    Run,
    RunSpec,
    RunState,
)
from runyard_cli.commands.gpus import gpu_rows
from runyard_cli.commands.history import event_line
from runyard_cli.commands.nodes import node_row
from runyard_cli.commands.ps import row_of
from runyard_cli.commands.show import record_lines
from runyard_cli.commands.why import why_lines
from runyard_cli.graph import impact_lines, trace_lines
from runyard_cli.output import Style
from runyard_cli.registry_lines import (
    dataset_rows,
    dataset_version_rows,
    file_rows,
    model_rows,
    model_version_rows,
)
from runyard_cli.table import Cell

NO_NODE = "No node has enrolled yet."
BOXES = (
    "training code",
    "parameters",
    "dataset",
    "used hardware",
    "environment",
    "experiment cost",
    "model",
    "logs",
    "results",
    "statistics",
)


def finished_run() -> Run:
    return Run(
        run_id="0198",
        project="digits",
        number=3,
        state=RunState.RUN_STATE_FINISHED,
        outcome=Outcome.OUTCOME_FAILED,
        cause=Cause(code=CauseCode.CAUSE_CODE_USER_ERROR, exit_code=2),
        spec=RunSpec(step="train"),
        submitted_by="user:alice",
        queued_at=Timestamp(seconds=100),
        started_at=Timestamp(seconds=110),
        finished_at=Timestamp(seconds=128),
        attempts=[Attempt(number=1, node_id="n1")],
    )


def whole_record() -> Record:
    return Record(
        run=finished_run(),
        code=CodeRef(
            tree_sha256="a" * 64,
            git_commit="c" * 40,
            git_branch="main",
            dirty=True,
            patch_sha256="b" * 64,
            file_count=7,
            size_bytes=12_000,
        ),
        parameters=[ParameterValue(name="epochs", value=Value(number_value=5))],
        datasets=[
            Input(name="data", files=[InputFile(uri="s3://b/t.npz", path="t.npz", sha256="d" * 64)]),
            Input(name="near", files=[InputFile(path="n.npz", sha256="1" * 64, size_bytes=9, moved_bytes=0)]),
            Input(name="far", files=[InputFile(path="f.npz", sha256="2" * 64, size_bytes=9, moved_bytes=9)]),
        ],
        hardware=Hardware(
            node_id="n1", cpu_count=2, cpu_model="Xeon", gpus=[GpuDevice(model="H100", uuid="GPU-1")]
        ),
        environment=Environment(
            executor=Executor.EXECUTOR_PROCESS,
            interpreter="CPython 3.11.7",
            packages=[Package(name=f"p{index}", version="1") for index in range(9)],
            cached=True,
            system_packages_sha256="f" * 64,
            system_package_count=213,
        ),
        cost=Cost(
            micro_usd=4200,
            terms=[CostTerm(micro_usd=4200, price_id="p", explanation="18 s of H100 at $0.84: $0.0042")],
        ),
        outputs=[
            Artifact(
                size_bytes=10,
                sha256="e" * 64,
                origins=[ArtifactOrigin(origin=Origin(run_id="0198", path="model.npz"))],
            )
        ],
        logs=LogSummary(line_count=2, size_bytes=20, last_lines=[LogLine(text="bad\x1b[2J")]),
        results=[MetricLatest(name="accuracy", value=0.97, point_count=30, min=0.1, max=0.98)],
        statistics=[Statistic(name="memory_used_bytes", min=1, mean=2048, max=4096, sample_count=18)],
        gpu_incidents=[GpuIncidentSeen(gpu_uuid="GPU-1", detail="the driver reported XID 31")],
        missing=["cost did not answer"],
    )


def test_record_has_its_ten_boxes_in_order_and_shows_what_is_missing() -> None:
    lines = list(record_lines(whole_record(), whole=False, now=0))
    starts = [line for line in lines if line[:2].strip().isdigit()]
    assert [line[3:].startswith(name) for line, name in zip(starts, BOXES, strict=True)] == [True] * 10
    text = "\n".join(lines)
    for part in (
        "digits#3 train failed after 18 s",
        "exit code 2",
        "commit cccccccccccc (main), with uncommitted changes",
        "epochs = 5",
        "data: t.npz",
        "near: n.npz, 9 B, SHA-256 1111111111111111, in the node's cache",
        "far: f.npz, 9 B, SHA-256 2222222222222222, moved",
        "process, CPython 3.11.7 (cached)",
        "213 packages of the system, list SHA-256 ffffffffffffffff",
        "from s3://b/t.npz",
        "H100",
        "GPU-1: the driver reported XID 31",
        "p5 1, and 3 more (--all)",
        "  18 s of H100 at $0.84: $0.0042",
        "model.npz, 10 B, datum://eeeeeeeeeeeeeeee",
        "accuracy = 0.97",
        "max 4.0 KiB",
        "incomplete: cost did not answer",
    ):
        assert part in text
    assert "\x1b" not in text


def test_image_that_was_there_is_said() -> None:
    environment = Environment(executor=Executor.EXECUTOR_DOCKER, image="pytorch:2", cached=True)
    text = "\n".join(record_lines(Record(environment=environment), whole=False, now=0))
    assert "container pytorch:2, there already" in text


def test_whole_record_cuts_nothing() -> None:
    packages = ["adduser 3.1", "libc6 2.36"]
    text = "\n".join(record_lines(whole_record(), whole=True, now=0, system_packages=packages))
    assert "libc6 2.36" in text
    assert "e" * 64 in text
    assert "p8 1" in text


def test_record_of_a_run_that_never_started_has_its_boxes_all_the_same() -> None:
    lines = list(record_lines(Record(run=Run(project="d", number=1)), whole=False, now=0))
    assert sum(line.endswith(" none") for line in lines) == 10


def test_queue_shows_why_a_run_waits_and_why_it_failed() -> None:
    assert row_of(finished_run(), now=0) == (
        "digits#3",
        "train",
        Cell("failed", Style.BAD),
        "18 s",
        "n1",
        "exit code 2",
    )
    waiting = Run(
        project="digits",
        number=4,
        state=RunState.RUN_STATE_QUEUED,
        queued_at=Timestamp(seconds=40),
        waiting_reason="no node has 8 GPUs",
    )
    assert row_of(waiting, now=100)[3:] == ("1 min", "", "no node has 8 GPUs")


def test_record_of_a_run_that_waits_says_for_what() -> None:
    waiting = Run(project="d", number=1, state=RunState.RUN_STATE_QUEUED, waiting_reason=NO_NODE)
    assert list(record_lines(Record(run=waiting), whole=False, now=0))[1] == f"waits: {NO_NODE}"


def test_why_says_it_in_a_sentence_and_names_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_PROJECT", "d")
    envelope = Envelope(type="runyard.run.queued", position=7, recorded_at=Timestamp(seconds=40))
    queued = Explanation(event=EventView(envelope=envelope), sentence="queued as d#1")
    waiting = Run(project="d", number=1, state=RunState.RUN_STATE_QUEUED, waiting_reason=NO_NODE)
    said = list(why_lines(waiting, ExplainRunResponse(explanations=[queued]), now=100))
    assert said[0] == f"d#1 queued: {NO_NODE}"
    assert said[1].startswith("       7 ")
    assert said[1].endswith(" run.queued: queued as d#1")
    assert said[2] == "`runyard stop 1` takes it out of the queue"
    monkeypatch.setenv("RUNYARD_PROJECT", "other")
    said = list(why_lines(waiting, ExplainRunResponse(), now=100))
    assert said[1] == "`runyard stop d#1` takes it out of the queue"
    running = finished_run()
    running.state = RunState.RUN_STATE_RUNNING
    running.ClearField("finished_at")
    running.attempts[0].gpu_uuids.append("GPU-1")
    running.attempts[0].reachable = True
    nothing = ExplainRunResponse()
    assert list(why_lines(running, nothing, now=128)) == ["digits#3 running on n1, GPU-1 for 18 s"]
    assert list(why_lines(finished_run(), nothing, now=0)) == ["digits#3 failed: exit code 2"]


def test_trace_is_a_tree_that_names_what_it_has_shown_again() -> None:
    model = Vertex(kind=VertexKind.VERTEX_KIND_ARTIFACT, id="e" * 64, label="model.npz")
    report = Vertex(kind=VertexKind.VERTEX_KIND_ARTIFACT, id="f" * 64, label="report.json")
    run = Vertex(kind=VertexKind.VERTEX_KIND_RUN, id="0198", label="digits#3 train")
    code = Vertex(kind=VertexKind.VERTEX_KIND_CODE, id="a" * 64, label="digits")
    made, used = EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY, EdgeRelation.EDGE_RELATION_USED
    edges = [
        Edge(source=report, relation=made, target=run),
        Edge(source=report, relation=used, target=model, role="model"),
        Edge(source=run, relation=used, target=code),
        Edge(source=model, relation=made, target=run),
    ]
    assert list(trace_lines(report, edges)) == [
        "file report.json ffffffffffff",
        "├─ made by run digits#3 train",
        "│  └─ used code digits aaaaaaaaaaaa",
        "└─ used file model.npz eeeeeeeeeeee",
        "   └─ made by run digits#3 train (above)",
    ]


def test_a_thing_without_a_name_is_called_by_the_beginning_of_its_hash() -> None:
    code = Vertex(kind=VertexKind.VERTEX_KIND_CODE, id="a" * 64)
    assert list(trace_lines(code, [])) == ["code aaaaaaaaaaaa"]


def test_trace_of_a_circle_ends() -> None:
    one = Vertex(kind=VertexKind.VERTEX_KIND_RUN, id="1")
    two = Vertex(kind=VertexKind.VERTEX_KIND_RUN, id="2")
    assert len(list(trace_lines(one, [Edge(source=one, target=two), Edge(source=two, target=one)]))) == 3


def test_impact_is_the_same_tree_the_other_way_with_its_size() -> None:
    data = Vertex(kind=VertexKind.VERTEX_KIND_ARTIFACT, id="e" * 64, label="data.csv")
    model = Vertex(kind=VertexKind.VERTEX_KIND_ARTIFACT, id="f" * 64, label="model.json")
    train = Vertex(kind=VertexKind.VERTEX_KIND_RUN, id="0198", label="digits#3 train")
    check = Vertex(kind=VertexKind.VERTEX_KIND_RUN, id="0199", label="digits#4 check")
    made, used = EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY, EdgeRelation.EDGE_RELATION_USED
    edges = [
        Edge(source=train, relation=used, target=data, role="dataset"),
        Edge(source=model, relation=made, target=train, role="model.json"),
        Edge(source=check, relation=used, target=model, role="model"),
    ]
    assert list(impact_lines(data, edges)) == [
        "file data.csv eeeeeeeeeeee",
        "└─ used by run digits#3 train as dataset",
        "   └─ made file model.json ffffffffffff",
        "      └─ used by run digits#4 check",
        "touched: 2 runs, 1 file",
    ]


def test_gpu_shows_its_holder_and_its_last_reading() -> None:
    node = Node(
        node_id="n1",
        state=NodeState.NODE_STATE_ATTACHED,
        inventory=NodeInventory(
            gpus=[
                GpuDevice(uuid="GPU-1", index=0, model="H100", memory_bytes=80 << 30),
                GpuDevice(uuid="GPU-2", index=1, model="H100", memory_bytes=80 << 30),
            ]
        ),
        reservations=[Reservation(run_id="0198", gpu_uuids=["GPU-1"])],
    )
    reading = GpuReading(
        gpu_uuid="GPU-1",
        utilization_percent=93,
        memory_used_bytes=40 << 30,
        power_milliwatts=350_400,
        temperature_celsius=61,
    )
    held, free = gpu_rows(node, {"GPU-1": reading}, {"0198": "digits#3"})
    assert held[3:9] == (Cell("digits#3", Style.BUSY), "93 %", "40.0 GiB of 80.0 GiB", "350 W", "61 C", "-")
    assert free[3:9] == (Cell("free", Style.FAINT), "", "", "", "", "")
    foreign = GpuReading(gpu_uuid="GPU-2", processes=[GpuProcess(pid=1, memory_bytes=1 << 30)])
    assert gpu_rows(node, {"GPU-2": foreign}, {})[1][3] == Cell("others", Style.BAD)


def test_node_shows_what_is_in_use() -> None:
    node = Node(
        node_id="n1",
        state=NodeState.NODE_STATE_DETACHED,
        inventory=NodeInventory(slot_count=2, cpu_count=4, gpus=[GpuDevice(uuid="GPU-1")]),
        reservations=[Reservation(gpu_uuids=["GPU-1"])],
    )
    assert node_row(node)[:5] == ("n1", Cell("not heard from", Style.BAD), "1 of 2", "1 of 1", "4")


def test_event_is_a_line() -> None:
    envelope = Envelope(
        position=7,
        type="runyard.run.queued",
        stream="run-0198",
        actor=Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice"),
    )
    line = event_line(EventView(envelope=envelope, data_json='{"a":1}'))
    assert line.startswith("      7 ")
    assert line.split()[3:] == ["run.queued", "run-0198", "user:alice", '{"a":1}']
    assert event_line(EventView(envelope=envelope)).endswith("user:alice (cannot be read here)")


def test_a_record_shows_the_first_input_files_and_counts_the_rest() -> None:
    inputs = [
        Input(name=name, files=[InputFile(path=f"{number}.csv") for number in range(15)])
        for name in ("near", "far", "away")
    ]
    record = Record(run=finished_run(), datasets=inputs)
    text = "\n".join(record_lines(record, whole=False, now=0))
    assert ("near: 14.csv" in text, "far: 4.csv" in text, "far: 5.csv" in text) == (True, True, False)
    assert "far: 10 more files (--all)" in text
    assert "away: 15 more files (--all)" in text
    assert "away: 14.csv" in "\n".join(record_lines(record, whole=True, now=0))


def test_datasets_and_models_are_listed_with_what_stands_for_them() -> None:
    origin = Origin(run_id="0199aaaa-bbbb", attempt=1)
    version = DatasetVersion(
        dataset="images", version="v2", file_count=3, size_bytes=2048, aliases=["newest", "test"],
        origin=origin, from_version="dataset://images/v1",
    )  # fmt: skip
    [row] = dataset_version_rows([version])
    assert (row[:4], row[5:]) == (("v2", "newest, test", "3", "2.0 KiB"), ("0199aaaa-bbbb", "images/v1"))
    [row] = dataset_rows([Dataset(name="images", version_count=2, newest_version="v2")])
    assert row[:3] == ("images", "2", "v2")
    [row] = model_rows([Model(name="resnet", version_count=4, newest_version=4)])
    assert row[:2] == ("resnet", "4")
    [row] = model_version_rows(
        [ModelVersion(version=4, file_count=1, tags=["x"], release_note="n", origin=origin)]
    )
    assert (row[0], row[1], *row[4:]) == ("4", "1", "0199aaaa-bbbb", "x", "n")
    assert file_rows([VersionFile(path="a", sha256="f" * 64)])[0][2] == f"datum://{'f' * 64}"
