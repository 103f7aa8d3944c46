"""The events of a run's life for the benchmarks, with marks where one run's differ from another's.

They are those that a run with one new output writes: a test compares them with a recording.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from runyard.artifact.v1.events_pb2 import ArtifactUploadBegun, ArtifactWritten
from runyard.artifact.v1.types_pb2 import Origin
from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.node.v1.types_pb2 import GpuDevice
from runyard.run.v1 import events_pb2 as ev
from runyard.run.v1.types_pb2 import (
    Cause,
    CauseCode,
    CodeRef,
    Environment,
    Executor,
    Hardware,
    Input,
    InputFile,
    Outcome,
    OutputFile,
    Package,
    ParameterValue,
    Resources,
    RunSpec,
)
from runyard_contracts.ids import StreamName, sha256_of, stream_name

EVENTS_A_RUN = 11
EVENTS_TO_QUEUE = 2
"""Of them, so many queue it: one append writes these."""
VERSIONS = (0, 1, 2, 0, 3, 4, 5, 0, 1, 2, 6)
"""Of the streams of these events; 0 for a project's and a node's."""
NODES = 20
PROJECTS = 5
PRIORITIES = 3
ENVIRONMENTS = 10
KINDS = 60
"""Runs whose numbers differ by a multiple of it differ by nothing but ids: lcm of the four above."""

# Marks have the length of what takes their place, as they stand within messages of a given length.
EVENT = b"eeeeeeee-eeee-7eee-8eee-eeeeeeeeeeee"
RUN = b"rrrrrrrr-rrrr-7rrr-8rrr-rrrrrrrrrrrr"
LEASE = b"llllllll-llll-7lll-8lll-llllllllllll"
MODEL = b"m" * 64
CODE = b"c" * 64
COMMIT = b"g" * 40
NUMBER = b"\xfe\xfe\x7f"
"""As protobuf writes it; run numbers take three bytes too, from 2**14 on."""
_NUMBER = 0x1FFF7E
AT = datetime.fromtimestamp(1_999_999_999, UTC).replace(microsecond=987_654)
STREAM_VERSION = 2**55 + 7


def _occurred_mark() -> bytes:
    envelope = Envelope()
    envelope.occurred_at.FromDatetime(AT)
    return envelope.SerializeToString()


OCCURRED = _occurred_mark()
VERSION = Envelope(stream_version=STREAM_VERSION).SerializeToString()
_MARKS = re.compile(
    b"|".join(map(re.escape, (EVENT, RUN, LEASE, MODEL, CODE, COMMIT, NUMBER, OCCURRED, VERSION)))
)


def split(payload: bytes) -> tuple[list[bytes], list[bytes]]:
    """Cut a stored envelope at its marks: the pieces, and the marks between them."""
    return _MARKS.split(payload), _MARKS.findall(payload)


def run_id(number: int) -> str:
    """Name a run, in the order of their numbers."""
    return _uuid(number, "a")


def event_id(position: int) -> str:
    """Name the event at a position."""
    return _uuid(position, "b")


@lru_cache(maxsize=1_000)
def _values(number: int) -> dict[bytes, bytes]:
    counted = (1 << 14) + number
    varint = bytes((counted & 0x7F | 0x80, counted >> 7 & 0x7F | 0x80, counted >> 14))
    run = run_id(number).encode()
    return {
        RUN: run,
        LEASE: _uuid(number, "c").encode(),
        MODEL: sha256_of(run).encode(),
        CODE: sha256_of(b"%d" % (number // 100)).encode(),
        COMMIT: b"%040x" % (number // 100),
        NUMBER: varint,
    }


def values(number: int) -> dict[bytes, bytes]:
    """Give what takes the place of the marks in the events of a run."""
    return _values(number).copy()


def price() -> tuple[StreamName, Message]:
    """Give the first event of the log and its stream."""
    given = Price(price_id=_uuid(0, "d"), unit=PriceUnit.PRICE_UNIT_GPU_HOUR, micro_usd_per_hour=2_000_000)
    return stream_name("price", given.price_id), PriceSet(price=given)


def event(kind: int, index: int) -> tuple[StreamName, Message]:
    """Give an event of the life of runs of a kind, and its stream."""
    return _life(kind)[index]


@lru_cache(maxsize=KINDS)
def _life(kind: int) -> list[tuple[StreamName, Message]]:
    node_id, gpu, project = f"node-{kind % NODES}", f"GPU-{kind % NODES:08}", f"project-{kind % PROJECTS}"
    run_id, lease_id, model = RUN.decode(), LEASE.decode(), MODEL.decode()
    run, node = stream_name("run", run_id), stream_name("node", node_id)
    of: dict[str, Any] = {"run_id": run_id, "attempt": 1}
    at: dict[str, Any] = {**of, "lease_id": lease_id, "node_id": node_id, "gpu_uuids": [gpu]}
    device = GpuDevice(uuid=gpu, model="H200", memory_bytes=150_000_000_000)
    hardware = Hardware(node_id=node_id, hostname=node_id, gpus=[device], cpu_count=96)
    dataset = InputFile(path="dataset.csv", sha256=sha256_of(b"dataset"), size_bytes=1_000)
    cause = Cause(code=CauseCode.CAUSE_CODE_SUCCEEDED, exit_code=0)
    output = OutputFile(path="model.pt", sha256=model, size_bytes=10_000_000)
    artifact = stream_name("artifact", model)
    origin = Origin(run_id=run_id, attempt=1, path="model.pt", project=project)
    return [
        (
            stream_name("project", project),
            ev.ProjectRunNumbered(project=project, run_id=run_id, number=_NUMBER),
        ),
        (run, ev.RunQueued(run_id=run_id, project=project, number=_NUMBER, spec=_spec(kind))),
        (run, ev.RunLeaseGranted(**at, epoch=1, lease_milliseconds=30_000)),
        (node, NodeGpusReserved(**at, project=project, gpu_models=["H200"])),
        (run, ev.EnvironmentCaptured(**of, epoch=1, environment=_environment(kind % ENVIRONMENTS))),
        (
            run,
            ev.RunStarted(**of, epoch=1, hardware=hardware, inputs=[Input(name="dataset", files=[dataset])]),
        ),
        (run, ev.RunAttemptExited(**of, epoch=1, cause=cause)),
        (node, NodeGpusReleased(**at)),
        (artifact, ArtifactUploadBegun(sha256=model, size_bytes=10_000_000, origin=origin)),
        (
            artifact,
            ArtifactWritten(
                sha256=model, size_bytes=10_000_000, origin=origin, object_key=f"blobs/sha256/ab/cd/{model}"
            ),
        ),
        (
            run,
            ev.RunFinished(run_id=run_id, outcome=Outcome.OUTCOME_SUCCEEDED, cause=cause, outputs=[output]),
        ),
    ]


def _spec(kind: int) -> RunSpec:
    return RunSpec(
        step="train",
        command_lines=["python train.py --epochs {parameter:epochs}"],
        executor=Executor.EXECUTOR_PROCESS,
        parameters=[
            ParameterValue(name="epochs", value=Value(number_value=kind)),
            ParameterValue(name="rate", value=Value(number_value=0.001)),
        ],
        inputs=[Input(name="dataset", uris=[f"datum://{sha256_of(b'dataset')}"])],
        code=CodeRef(tree_sha256=CODE.decode(), git_commit=COMMIT.decode()),
        resources=Resources(gpu_count=1),
        priority=kind % PRIORITIES,
    )


@lru_cache(maxsize=ENVIRONMENTS)
def _environment(made: int) -> Environment:
    return Environment(
        executor=Executor.EXECUTOR_PROCESS,
        interpreter="CPython 3.11.7",
        packages=[Package(name=f"package-{i}", version=f"{made}.{i}") for i in range(45)],
        requirements_sha256=sha256_of(b"%d" % made),
        os="Debian GNU/Linux 12",
    )


def _uuid(number: int, kind: str) -> str:
    """Make a UUIDv7 of its own for each number of a kind, in their order."""
    return f"{number >> 16:08x}-{number & 0xFFFF:04x}-7{kind}00-8000-00000000000{kind}"
