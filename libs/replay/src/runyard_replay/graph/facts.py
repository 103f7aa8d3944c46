"""What one event says about the graph: things, and how they came from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from google.protobuf.message import Message

from runyard.artifact.v1.events_pb2 import ArtifactWritten, CodeSnapshotRecorded
from runyard.artifact.v1.registry_events_pb2 import DatasetVersionCreated, ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.lineage.v1.lineage_service_pb2 import EdgeRelation, VertexKind
from runyard.node.v1.types_pb2 import GpuDevice
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
from runyard_replay.graph.names import DATASET, MODEL, is_outside, is_version, version_id

LABEL_CHARACTERS_MAX = 120

# Looked up once: the class looks names up in its descriptor.
_HAD_MEMBER = EdgeRelation.EDGE_RELATION_HAD_MEMBER
_USED = EdgeRelation.EDGE_RELATION_USED
_WAS_ASSOCIATED_WITH = EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH
_WAS_ATTRIBUTED_TO = EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO
_WAS_DERIVED_FROM = EdgeRelation.EDGE_RELATION_WAS_DERIVED_FROM
_WAS_GENERATED_BY = EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY
_ACTOR = VertexKind.VERTEX_KIND_ACTOR
_ARTIFACT = VertexKind.VERTEX_KIND_ARTIFACT
_CODE = VertexKind.VERTEX_KIND_CODE
_DATASET_VERSION = VertexKind.VERTEX_KIND_DATASET_VERSION
_ENVIRONMENT = VertexKind.VERTEX_KIND_ENVIRONMENT
_EXTERNAL = VertexKind.VERTEX_KIND_EXTERNAL
_GPU = VertexKind.VERTEX_KIND_GPU
_MODEL_VERSION = VertexKind.VERTEX_KIND_MODEL_VERSION
_NODE = VertexKind.VERTEX_KIND_NODE
_PARAMETERS = VertexKind.VERTEX_KIND_PARAMETERS
_RUN = VertexKind.VERTEX_KIND_RUN

_OUTCOMES = {number: name.removeprefix("OUTCOME_") for name, number in Outcome.items()}
_CAUSES = {number: name.removeprefix("CAUSE_CODE_") for name, number in CauseCode.items()}

EdgeKey = tuple[int, str, int, int, str, str]
"""Kind and id of the source, relation, kind and id of the target, role."""
Properties = tuple[tuple[str, str], ...]
"""Names and values."""
Thing = tuple[int, str, str, Properties]
"""A vertex with what one event knows of it: kind, id, label (empty: keep the one it has), properties.

Plain tuples, as hundreds of thousands are made each second; those of few things are made once and kept.
"""
Facts = tuple[Sequence[Thing], Sequence[EdgeKey]]
"""Things, and how they came from one another. A run is named when it is queued and finished."""


ProjectOf = Callable[[str], str]
"""The project of a run that is among the things of the event; empty when it is not known (yet)."""


def facts(message: Message, envelope: Envelope, project_of: ProjectOf) -> Facts:
    """Give what an event says; nothing for an event that says nothing about the graph.

    The things are the same whatever ``project_of`` gives: only edges to versions need it.
    """
    say = _SAYS.get(type(message))
    return _NOTHING if say is None else say(message, envelope, project_of)


_NOTHING: Facts = ((), ())


def _queued(queued: RunQueued, envelope: Envelope, _: ProjectOf) -> Facts:
    spec = queued.spec
    run_id, project, number, step = key_text(queued.run_id), queued.project, str(queued.number), spec.step
    properties: Properties = (("project", project), ("number", number), ("step", step))
    if title := queued.title:
        properties = (*properties, ("title", title))
    run = (_RUN, run_id, _shortened(f"{project}#{number} {step}".rstrip()), properties)
    actor = _actor(envelope)
    text = parameters_json(spec.parameters)
    parameters = parameters_id(text)
    things: list[Thing] = [run, actor, (_PARAMETERS, parameters, _shortened(text), ())]
    edges: list[EdgeKey] = [
        (_RUN, run_id, _WAS_ASSOCIATED_WITH, _ACTOR, actor[1], "submitter"),
        (_RUN, run_id, _USED, _PARAMETERS, parameters, ""),
    ]
    if (given := spec.code).tree_sha256:
        code = _code(given.SerializeToString())
        things.append(code)
        edges.append((_RUN, run_id, _USED, _CODE, code[1], ""))
    return (things, edges)


def _leased(leased: RunLeaseGranted, _envelope: Envelope, _: ProjectOf) -> Facts:
    run_id, node_id = key_text(leased.run_id), key_text(leased.node_id)
    gpus = [key_text(uuid) for uuid in leased.gpu_uuids]
    return (
        [(_NODE, node_id, "", ()), *[(_GPU, gpu, "", ()) for gpu in gpus]],
        [
            (_RUN, run_id, _WAS_ASSOCIATED_WITH, _NODE, node_id, ""),
            *[(_RUN, run_id, _WAS_ASSOCIATED_WITH, _GPU, gpu, "") for gpu in gpus],
        ],
    )


def _started(started: RunStarted, _: Envelope, project_of: ProjectOf) -> Facts:
    run_id = key_text(started.run_id)
    things: list[Thing] = []
    edges: list[EdgeKey] = []
    if (hardware := started.hardware).node_id:
        things += _machines(hardware.SerializeToString())
    for used in started.inputs:
        role = key_text(used.name)
        versions: dict[str, None] = {}
        for file in used.files:
            if file.sha256:
                artifact = _artifact(file.sha256, "", file.size_bytes)
                things.append(artifact)
                edges.append((_RUN, run_id, _USED, _ARTIFACT, artifact[1], role))
            if is_version(uri := file.resolved_uri or file.uri):
                versions[uri] = None
        for uri in used.uris:
            if is_outside(uri):
                external = external_id(uri)
                things.append((_EXTERNAL, external, _shortened(external), ()))
                edges.append((_RUN, run_id, _USED, _EXTERNAL, external, role))
        if versions:
            things.append((_RUN, run_id, "", ()))
            edges += _used_versions(run_id, versions, role, project_of)
    return (things, edges)


def _fetched(fetched: RunInputFetched, _: Envelope, project_of: ProjectOf) -> Facts:
    run_id, file, role = key_text(fetched.run_id), fetched.file, key_text(fetched.input)
    artifact = _artifact(file.sha256, "", file.size_bytes)
    edges: list[EdgeKey] = [(_RUN, run_id, _USED, _ARTIFACT, artifact[1], role)]
    if not is_version(uri := file.resolved_uri or file.uri):
        return ([artifact], edges)
    edges += _used_versions(run_id, [uri], role, project_of)
    return ([artifact, (_RUN, run_id, "", ())], edges)


def _used_versions(run_id: str, uris: Iterable[str], role: str, project_of: ProjectOf) -> Iterator[EdgeKey]:
    """Say which versions a run used; what they are was told when they were made."""
    if project := project_of(run_id):
        for uri in uris:
            kind = _DATASET_VERSION if uri.startswith(DATASET) else _MODEL_VERSION
            yield (_RUN, run_id, _USED, kind, version_id(uri, project), role)


def _captured(captured: EnvironmentCaptured, _envelope: Envelope, _: ProjectOf) -> Facts:
    run_id = key_text(captured.run_id)
    environment = _environment(captured.environment.SerializeToString())
    edge = (_RUN, run_id, _USED, _ENVIRONMENT, environment[1], "")
    return ([environment], [edge])


def _written(written: ArtifactWritten, envelope: Envelope, _: ProjectOf) -> Facts:
    origin = written.origin
    path = origin.path
    artifact = _artifact(written.sha256, path, written.size_bytes)
    if origin.run_id:
        run_id = key_text(origin.run_id)
        edge = (_ARTIFACT, artifact[1], _WAS_GENERATED_BY, _RUN, run_id, key_text(path))
        return ([artifact], [edge])
    actor = _actor(envelope)
    edge = (_ARTIFACT, artifact[1], _WAS_ATTRIBUTED_TO, _ACTOR, actor[1], key_text(path))
    return ([artifact, actor], [edge])


def _recorded(recorded: CodeSnapshotRecorded, envelope: Envelope, _: ProjectOf) -> Facts:
    code, actor = _code(recorded.code.SerializeToString()), _actor(envelope)
    return ([code, actor], [(_CODE, code[1], _WAS_ATTRIBUTED_TO, _ACTOR, actor[1], "")])


def _dataset_made(made: DatasetVersionCreated, envelope: Envelope, _: ProjectOf) -> Facts:
    name = f"{DATASET}{made.dataset}/{made.version}"
    version: Thing = (_DATASET_VERSION, version_id(name, made.project), name, _of_version(made))
    things, edges = _members(version, made.files)
    _made_by(version, made.origin, envelope, things, edges)
    if made.from_version:
        earlier = version_id(f"{DATASET}{made.dataset}/{made.from_version}", made.project)
        edges.append((_DATASET_VERSION, version[1], _WAS_DERIVED_FROM, _DATASET_VERSION, earlier, ""))
    return (things, edges)


def _model_made(made: ModelVersionRegistered, envelope: Envelope, _: ProjectOf) -> Facts:
    name = f"{MODEL}{made.model}/{made.version}"
    version: Thing = (_MODEL_VERSION, version_id(name, made.project), name, _of_version(made))
    things, edges = _members(version, made.files)
    _made_by(version, made.origin, envelope, things, edges)
    return (things, edges)


def _of_version(made: DatasetVersionCreated | ModelVersionRegistered) -> Properties:
    return (("file_count", str(len(made.files))), ("project", made.project))


def _members(version: Thing, files: Iterable[VersionFile]) -> tuple[list[Thing], list[EdgeKey]]:
    kind, version_name, _, _ = version
    things: list[Thing] = [version]
    edges: list[EdgeKey] = []
    for file in files:
        artifact = _artifact(file.sha256, "", file.size_bytes)
        things.append(artifact)
        edges.append((kind, version_name, _HAD_MEMBER, _ARTIFACT, artifact[1], key_text(file.path)))
    return things, edges


def _made_by(
    version: Thing, origin: Origin, envelope: Envelope, things: list[Thing], edges: list[EdgeKey]
) -> None:
    kind, version_name, _, _ = version
    if origin.run_id:
        edges.append((kind, version_name, _WAS_GENERATED_BY, _RUN, key_text(origin.run_id), ""))
        return
    actor = _actor(envelope)
    things.append(actor)
    edges.append((kind, version_name, _WAS_ATTRIBUTED_TO, _ACTOR, actor[1], ""))


def _finished(finished: RunFinished, _envelope: Envelope, _: ProjectOf) -> Facts:
    run_id, cause = key_text(finished.run_id), finished.cause.code
    properties: Properties = (("outcome", _OUTCOMES[finished.outcome]),)
    if cause:
        properties = (*properties, ("cause", _CAUSES[cause]))
    # Every output was told when it was written, once for each run that made it.
    return ([(_RUN, run_id, "", properties)], ())


_SAYS: Mapping[type[Message], Callable[[Any, Envelope, ProjectOf], Facts]] = {
    RunQueued: _queued,
    RunLeaseGranted: _leased,
    RunStarted: _started,
    RunInputFetched: _fetched,
    EnvironmentCaptured: _captured,
    ArtifactWritten: _written,
    CodeSnapshotRecorded: _recorded,
    DatasetVersionCreated: _dataset_made,
    ModelVersionRegistered: _model_made,
    RunFinished: _finished,
}

EVENTS: Sequence[type[Message]] = tuple(_SAYS)
"""Every event that says something about the graph."""


@lru_cache(maxsize=256)
def _machines(serialised: bytes) -> Sequence[Thing]:
    """Describe a node and its GPUs: few of them run many things."""
    hardware = Hardware.FromString(serialised)
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
    node: Thing = (_NODE, key_text(hardware.node_id), _shortened(label), _filled(properties))
    return (node, *(_gpu(gpu, hardware.node_id) for gpu in hardware.gpus))


def _gpu(gpu: GpuDevice, node_id: str) -> Thing:
    properties = (("model", gpu.model), ("memory_bytes", str(gpu.memory_bytes)), ("node_id", node_id))
    return (_GPU, key_text(gpu.uuid), _shortened(gpu.model), properties)


def _actor(envelope: Envelope) -> Thing:
    return _actor_named(actor_name(envelope.actor))


@lru_cache(maxsize=256)
def _actor_named(name: str) -> Thing:
    return (_ACTOR, key_text(name), _shortened(name), ())


def _artifact(sha256: str, path: str, size_bytes: int) -> Thing:
    label = _file_name(path) if path else ""
    return (_ARTIFACT, key_text(sha256), label, (("size_bytes", str(size_bytes)),))


@lru_cache(maxsize=256)
def _code(serialised: bytes) -> Thing:
    code = CodeRef.FromString(serialised)
    commit = code.git_commit[:12] or code.tree_sha256[:12]
    properties = {
        "git_commit": code.git_commit,
        "git_branch": code.git_branch,
        "git_remote_url": external_id(code.git_remote_url) if code.git_remote_url else "",
        "patch_sha256": code.patch_sha256,
        "dirty": "true" if code.dirty else "",
    }
    label = f"{commit} (dirty)" if code.dirty else commit
    return (_CODE, key_text(code.tree_sha256), label, _filled(properties))


@lru_cache(maxsize=256)
def _environment(serialised: bytes) -> Thing:
    """Many runs share few environments, and naming one takes a hundred times as long as looking it up."""
    environment = Environment.FromString(serialised)
    package_count = len(environment.packages) + environment.system_package_count
    if environment.executor == Executor.EXECUTOR_DOCKER:
        label = environment.image
    else:
        label = f"{environment.interpreter}, {package_count} packages"
    properties = {
        "image": environment.image,
        "image_id": environment.image_id,
        "interpreter": environment.interpreter,
        "os": environment.os,
        "kernel": environment.kernel,
        "package_count": str(package_count),
        "system_packages_sha256": environment.system_packages_sha256,
        "requirements_sha256": environment.requirements_sha256,
        "cuda_version": environment.cuda_version,
    }
    return (_ENVIRONMENT, environment_id(environment), _shortened(label), _filled(properties))


def _filled(properties: Mapping[str, str]) -> Properties:
    return tuple((name, value) for name, value in properties.items() if value)


def _shortened(text: str) -> str:
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if len(text) <= LABEL_CHARACTERS_MAX else f"{text[: LABEL_CHARACTERS_MAX - 1]}…"


@lru_cache(maxsize=1_024)
def _file_name(path: str) -> str:
    return _shortened(PurePosixPath(path).name)
