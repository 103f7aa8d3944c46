"""What one event says about the graph: things, and how they came from one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import ArtifactWritten, CodeSnapshotRecorded
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.lineage.v1.lineage_service_pb2 import EdgeRelation, VertexKind
from runyard.run.v1.events_pb2 import (
    EnvironmentCaptured,
    RunFinished,
    RunInputFetched,
    RunLeaseGranted,
    RunQueued,
    RunStarted,
)
from runyard.run.v1.types_pb2 import CauseCode, CodeRef, Environment, Executor, Hardware, Outcome
from runyard_contracts.envelope import actor_name
from runyard_replay.graph.identities import (
    environment_id,
    external_id,
    key_text,
    parameters_id,
    parameters_json,
)
from runyard_replay.graph.names import DATUM

LABEL_CHARACTERS_MAX = 120

# Looked up once: the class looks names up in its descriptor.
_USED = EdgeRelation.EDGE_RELATION_USED
_WAS_ASSOCIATED_WITH = EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH
_WAS_ATTRIBUTED_TO = EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO
_WAS_GENERATED_BY = EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY
_ACTOR = VertexKind.VERTEX_KIND_ACTOR
_ARTIFACT = VertexKind.VERTEX_KIND_ARTIFACT
_CODE = VertexKind.VERTEX_KIND_CODE
_ENVIRONMENT = VertexKind.VERTEX_KIND_ENVIRONMENT
_EXTERNAL = VertexKind.VERTEX_KIND_EXTERNAL
_GPU = VertexKind.VERTEX_KIND_GPU
_NODE = VertexKind.VERTEX_KIND_NODE
_PARAMETERS = VertexKind.VERTEX_KIND_PARAMETERS
_RUN = VertexKind.VERTEX_KIND_RUN

EVENTS = (
    RunQueued,
    RunLeaseGranted,
    RunStarted,
    RunInputFetched,
    EnvironmentCaptured,
    ArtifactWritten,
    CodeSnapshotRecorded,
    RunFinished,
)
"""Every event that says something about the graph."""


_NONE: Mapping[str, str] = MappingProxyType({})


class Thing(NamedTuple):
    """A vertex, with what this event knows of it."""

    kind: VertexKind.ValueType
    id: str
    label: str = ""
    """Empty: keep the one it has."""
    properties: Mapping[str, str] = _NONE


class Origin(NamedTuple):
    """An edge, from the later thing to what it came from."""

    source: Thing
    relation: EdgeRelation.ValueType
    target: Thing
    role: str = ""


def facts(message: Message, envelope: Envelope) -> Iterator[Thing | Origin]:
    """Give what an event says; nothing for an event that says nothing about the graph."""
    match message:
        case RunQueued():
            yield from _queued(message, envelope)
        case RunLeaseGranted():
            yield from _leased(message)
        case RunStarted():
            yield from _started(message)
        case RunInputFetched(run_id=run_id, input=name, file=file):
            yield _used(_run(run_id), _artifact(file.sha256, "", file.size_bytes), name)
        case EnvironmentCaptured(run_id=run_id, environment=environment):
            yield _used(_run(run_id), _environment(environment))
        case ArtifactWritten():
            yield from _written(message, envelope)
        case CodeSnapshotRecorded(code=code):
            yield _attributed(_code(code), envelope)
        case RunFinished():
            yield from _finished(message)
        case _:
            return


def _queued(queued: RunQueued, envelope: Envelope) -> Iterator[Thing | Origin]:
    spec = queued.spec
    properties = {"project": queued.project, "number": str(queued.number), "step": spec.step}
    if queued.title:
        properties["title"] = queued.title
    run = _run(queued.run_id, f"{queued.project}#{queued.number} {spec.step}".rstrip(), properties)
    yield run
    yield Origin(run, _WAS_ASSOCIATED_WITH, _actor(envelope), "submitter")
    if spec.code.tree_sha256:
        yield _used(run, _code(spec.code))
    text = parameters_json(spec.parameters)
    parameters = Thing(_PARAMETERS, parameters_id(text), _shortened(text))
    yield _used(run, parameters)


def _leased(leased: RunLeaseGranted) -> Iterator[Origin]:
    run = _run(leased.run_id)
    yield _associated(run, _node(leased.node_id))
    for gpu_uuid in leased.gpu_uuids:
        yield _associated(run, Thing(_GPU, key_text(gpu_uuid)))


def _started(started: RunStarted) -> Iterator[Thing | Origin]:
    run = _run(started.run_id)
    if started.hardware.node_id:
        yield from _machines(started.hardware)
    for used in started.inputs:
        for file in used.files:
            if file.sha256:
                yield _used(run, _artifact(file.sha256, "", file.size_bytes), used.name)
        for uri in used.uris:
            if not uri.startswith(DATUM):
                external = external_id(uri)
                yield _used(run, Thing(_EXTERNAL, external, _shortened(external)), used.name)


def _written(written: ArtifactWritten, envelope: Envelope) -> Iterator[Origin]:
    origin = written.origin
    artifact = _artifact(written.sha256, _file_name(origin.path), written.size_bytes)
    if origin.run_id:
        yield _generated(artifact, _run(origin.run_id), origin.path)
    else:
        yield _attributed(artifact, envelope, origin.path)


def _finished(finished: RunFinished) -> Iterator[Thing | Origin]:
    properties = {"outcome": Outcome.Name(finished.outcome).removeprefix("OUTCOME_")}
    if finished.cause.code:
        properties["cause"] = CauseCode.Name(finished.cause.code).removeprefix("CAUSE_CODE_")
    run = _run(finished.run_id, "", properties)
    yield run
    for file in finished.outputs:
        if file.sha256:
            artifact = _artifact(file.sha256, _file_name(file.path), file.size_bytes)
            yield _generated(artifact, run, file.path)


def _machines(hardware: Hardware) -> Iterator[Thing]:
    models = sorted({gpu.model for gpu in hardware.gpus})
    counts = ", ".join(f"{sum(gpu.model == model for gpu in hardware.gpus)} x {model}" for model in models)
    label = f"{hardware.node_id} ({counts})" if counts else hardware.node_id
    properties = {
        "hostname": hardware.hostname,
        "cpu_model": hardware.cpu_model,
        "cpu_count": str(hardware.cpu_count),
        "memory_bytes": str(hardware.memory_bytes),
        "gpu_driver_version": hardware.gpu_driver_version,
    }
    yield _node(hardware.node_id, label, _filled(properties))
    for gpu in hardware.gpus:
        yield Thing(
            _GPU,
            key_text(gpu.uuid),
            _shortened(gpu.model),
            {"model": gpu.model, "memory_bytes": str(gpu.memory_bytes), "node_id": hardware.node_id},
        )


def _run(run_id: str, label: str = "", properties: Mapping[str, str] | None = None) -> Thing:
    return Thing(_RUN, key_text(run_id), _shortened(label), properties or _NONE)


def _node(node_id: str, label: str = "", properties: Mapping[str, str] | None = None) -> Thing:
    label = _shortened(label or node_id) if properties else ""
    return Thing(_NODE, key_text(node_id), label, properties or _NONE)


def _actor(envelope: Envelope) -> Thing:
    name = actor_name(envelope.actor)
    return Thing(_ACTOR, key_text(name), _shortened(name))


def _artifact(sha256: str, name: str, size_bytes: int) -> Thing:
    properties = {"size_bytes": str(size_bytes)}
    return Thing(_ARTIFACT, key_text(sha256), _shortened(name), properties)


def _code(code: CodeRef) -> Thing:
    commit = code.git_commit[:12] or code.tree_sha256[:12]
    properties = {
        "git_commit": code.git_commit,
        "git_branch": code.git_branch,
        "git_remote_url": external_id(code.git_remote_url) if code.git_remote_url else "",
        "patch_sha256": code.patch_sha256,
        "dirty": "true" if code.dirty else "",
    }
    label = f"{commit} (dirty)" if code.dirty else commit
    return Thing(_CODE, key_text(code.tree_sha256), label, _filled(properties))


def _environment(environment: Environment) -> Thing:
    if environment.executor == Executor.EXECUTOR_DOCKER:
        label = environment.image
    else:
        label = f"{environment.interpreter}, {len(environment.packages)} packages"
    properties = {
        "image": environment.image,
        "image_id": environment.image_id,
        "interpreter": environment.interpreter,
        "os": environment.os,
        "kernel": environment.kernel,
        "package_count": str(len(environment.packages)),
        "requirements_sha256": environment.requirements_sha256,
        "cuda_version": environment.cuda_version,
    }
    return Thing(
        _ENVIRONMENT,
        environment_id(environment),
        _shortened(label),
        _filled(properties),
    )


def _used(run: Thing, used: Thing, role: str = "") -> Origin:
    return Origin(run, _USED, used, key_text(role))


def _associated(run: Thing, other: Thing) -> Origin:
    return Origin(run, _WAS_ASSOCIATED_WITH, other)


def _generated(artifact: Thing, run: Thing, path: str) -> Origin:
    return Origin(artifact, _WAS_GENERATED_BY, run, key_text(path))


def _attributed(thing: Thing, envelope: Envelope, role: str = "") -> Origin:
    return Origin(thing, _WAS_ATTRIBUTED_TO, _actor(envelope), key_text(role))


def _filled(properties: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in properties.items() if value}


def _shortened(text: str) -> str:
    clean = text.replace("\x00", "\ufffd")
    return clean if len(clean) <= LABEL_CHARACTERS_MAX else f"{clean[: LABEL_CHARACTERS_MAX - 1]}…"


@lru_cache(maxsize=1_024)
def _file_name(path: str) -> str:
    return PurePosixPath(path).name
