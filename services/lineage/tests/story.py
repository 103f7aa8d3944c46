"""One small history: raw data is pushed, prepared by a run, and trained on by another."""

from __future__ import annotations

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from runyard.artifact.v1.events_pb2 import ArtifactWritten, CodeSnapshotRecorded
from runyard.artifact.v1.registry_events_pb2 import DatasetVersionCreated, ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.node.v1.types_pb2 import GpuDevice
from runyard.run.v1.events_pb2 import (
    EnvironmentCaptured,
    RunFinished,
    RunInputFetched,
    RunLeaseGranted,
    RunQueued,
    RunStarted,
)
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    CodeRef,
    Environment,
    EnvironmentVariable,
    Executor,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Package,
    ParameterValue,
    RunSpec,
)
from runyard_contracts.ids import sha256_of

RAW, CLEAN, MODEL = (sha256_of(name.encode()) for name in ("raw", "clean", "model"))
TREE = sha256_of(b"tree")
PREPARE, TRAIN = "0198aaaa-0000-7000-8000-000000000001", "0198bbbb-0000-7000-8000-000000000002"
CODE = CodeRef(tree_sha256=TREE, git_commit="c0ffee" * 6 + "c0ff", git_branch="main", dirty=True)


def environment(run_id: str) -> Environment:
    """The same environment, though each run has its own folder and variables."""
    return Environment(
        executor=Executor.EXECUTOR_PROCESS,
        interpreter="CPython 3.11.7",
        interpreter_path=f"/yard/{run_id}/bin/python",
        packages=[Package(name="numpy", version="2.0"), Package(name="torch", version="2.9")],
        variables=[EnvironmentVariable(name="VH_RUN", value=run_id)],
        cached=run_id == TRAIN,
    )


def story() -> list[Message]:
    """Every event of it, in the order of the log."""
    return [
        ArtifactWritten(sha256=RAW, size_bytes=7, origin=Origin(path="raw.csv")),
        CodeSnapshotRecorded(code=CODE, manifest_sha256=TREE),
        *_run(PREPARE, 1, "preprocess", [], used=RAW, made=CLEAN, path="clean.npz"),
        *_run(TRAIN, 2, "train", [_parameter("epochs", 5.0)], used=CLEAN, made=MODEL, path="out/model.pt"),
    ]


def _run(
    run_id: str,
    number: int,
    step: str,
    parameters: list[ParameterValue],
    *,
    used: str,
    made: str,
    path: str,
) -> list[Message]:
    spec = RunSpec(step=step, code=CODE, parameters=parameters)
    file = InputFile(uri=f"datum://{used}", path="data/input.bin", sha256=used, size_bytes=7)
    data = Input(name="data", uris=[f"datum://{used}"], files=[file])
    gpu = GpuDevice(uuid="GPU-1", model="H100", memory_bytes=80)
    return [
        RunQueued(run_id=run_id, project="digits", number=number, spec=spec),
        RunLeaseGranted(run_id=run_id, attempt=1, node_id="n1", gpu_uuids=["GPU-1"]),
        EnvironmentCaptured(run_id=run_id, attempt=1, environment=environment(run_id)),
        RunStarted(
            run_id=run_id,
            attempt=1,
            hardware=Hardware(node_id="n1", hostname="host-1", gpus=[gpu], cpu_count=4),
            inputs=[data],
        ),
        ArtifactWritten(sha256=made, size_bytes=9, origin=Origin(path=path, run_id=run_id, attempt=1)),
        RunFinished(
            run_id=run_id,
            attempt=1,
            outcome=Outcome.OUTCOME_SUCCEEDED,
            cause=Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED),
            outputs=[OutputFile(path=path, sha256=made, size_bytes=9)],
        ),
    ]


def _parameter(name: str, number: float) -> ParameterValue:
    return ParameterValue(name=name, value=Value(number_value=number))


def versions() -> list[Message]:
    """What comes after the story: versions of data and of a model, and a run that uses both by name."""
    run_id = "0198cccc-0000-7000-8000-000000000003"
    v1, v2 = (
        DatasetVersionCreated(
            project="digits",
            dataset="raw_set",
            version=version,
            files=[VersionFile(path="raw.csv", sha256=RAW, size_bytes=7)],
            from_version=before,
        )
        for version, before in (("v1", ""), ("v2", "v1"))
    )
    origin = Origin(run_id=TRAIN, attempt=1)
    model_file = VersionFile(path="model.pt", sha256=MODEL, size_bytes=9)
    model = ModelVersionRegistered(
        project="digits", model="net", version=1, files=[model_file], origin=origin
    )
    newest = "dataset://raw_set/newest"
    used = InputFile(
        uri=newest, resolved_uri="dataset://raw_set/v2", path="raw.csv", sha256=RAW, size_bytes=7
    )
    late = InputFile(uri="model://net/1", path="model.pt", sha256=MODEL, size_bytes=9)
    return [
        v1,
        v2,
        model,
        RunQueued(run_id=run_id, project="digits", number=3, spec=RunSpec(step="evaluate", code=CODE)),
        RunStarted(run_id=run_id, attempt=1, inputs=[Input(name="set", uris=[newest], files=[used])]),
        RunInputFetched(run_id=run_id, attempt=1, input="model", file=late),
    ]
