"""The things of the graph as events speak of them: what each is called, and what is known of it.

What many runs share is described once and found again by the bytes that an event has of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.lineage.v1.lineage_service_pb2 import VertexKind
from runyard.node.v1.types_pb2 import GpuDevice
from runyard.run.v1.types_pb2 import (
    CauseCode,
    CodeRef,
    Environment,
    Executor,
    Hardware,
    Input,
    Outcome,
    ParameterValue,
)
from runyard_contracts.envelope import actor_name
from runyard_replay.graph.identities import (
    canonical_texts,
    environment_id,
    external_id,
    key_text,
    parameters_id,
    parameters_json,
)
from runyard_replay.graph.names import is_outside, is_version

LABEL_CHARACTERS_MAX = 120

_KEPT_BYTES = 4_096
"""Larger inputs are read anew each time: so many of them would fill the memory."""

# Looked up once: the class looks names up in its descriptor.
ACTOR = VertexKind.VERTEX_KIND_ACTOR
ARTIFACT = VertexKind.VERTEX_KIND_ARTIFACT
CODE = VertexKind.VERTEX_KIND_CODE
DATASET_VERSION = VertexKind.VERTEX_KIND_DATASET_VERSION
ENVIRONMENT = VertexKind.VERTEX_KIND_ENVIRONMENT
EXTERNAL = VertexKind.VERTEX_KIND_EXTERNAL
GPU = VertexKind.VERTEX_KIND_GPU
MODEL_VERSION = VertexKind.VERTEX_KIND_MODEL_VERSION
NODE = VertexKind.VERTEX_KIND_NODE
PARAMETERS = VertexKind.VERTEX_KIND_PARAMETERS
RUN = VertexKind.VERTEX_KIND_RUN

_OUTCOMES = {number: name.removeprefix("OUTCOME_") for name, number in Outcome.items()}
_CAUSES = {number: name.removeprefix("CAUSE_CODE_") for name, number in CauseCode.items()}

Thing = tuple[int, str, str, str]
"""A vertex with what one event knows of it: kind, id, label (empty: keep the one it has), and properties as a
canonical JSON object, text to text (empty: nothing new).

Plain tuples, as hundreds of thousands are made each second; those of few things are made once and kept.
"""
UsedInput = tuple[str, Sequence[Thing], Sequence[str]]
"""The role of an input, what a run used by it, and the URIs of the versions that this was found in."""


@lru_cache(maxsize=256)
def machine_things(serialised: bytes) -> Sequence[Thing]:
    """Describe a node and its GPUs by a Hardware: few of them run many things."""
    hardware = Hardware.FromString(serialised)
    if not hardware.node_id:
        return ()
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
    node: Thing = (NODE, key_text(hardware.node_id), shortened(label), _filled(properties))
    return (node, *(_gpu(gpu, hardware.node_id) for gpu in hardware.gpus))


@lru_cache(maxsize=256)
def parameters_thing(serialised: Sequence[bytes]) -> Thing:
    """Name several ParameterValue: a run that is started again has those of the first one."""
    text = parameters_json(map(ParameterValue.FromString, serialised))
    return (PARAMETERS, parameters_id(text), shortened(text), "")


def input_things(serialised: bytes) -> UsedInput:
    """Read an Input of a run, or remember it: many runs use few datasets."""
    return _kept_input(serialised) if len(serialised) <= _KEPT_BYTES else _read_input(serialised)


def actor_thing(envelope: Envelope) -> Thing:
    """Name who asked for an event."""
    return _actor_named(actor_name(envelope.actor))


def artifact_thing(sha256: str, path: str, size_bytes: int) -> Thing:
    """Describe a file; without a path it keeps the name that it has."""
    label = _file_name(path) if path else ""
    return (ARTIFACT, key_text(sha256), label, f'{{"size_bytes":"{size_bytes}"}}')


@lru_cache(maxsize=256)
def code_thing(serialised: bytes) -> Thing | None:
    """Describe a CodeRef; None where a run has no code."""
    code = CodeRef.FromString(serialised)
    if not code.tree_sha256:
        return None
    # The same tree from a folder without git says nothing new of its commit.
    commit = code.git_commit[:12]
    properties = {
        "git_commit": code.git_commit,
        "git_branch": code.git_branch,
        "git_remote_url": external_id(code.git_remote_url) if code.git_remote_url else "",
        "patch_sha256": code.patch_sha256,
        "dirty": "true" if code.dirty else "",
    }
    label = f"{commit} (dirty)" if commit and code.dirty else commit
    return (CODE, key_text(code.tree_sha256), label, _filled(properties))


@lru_cache(maxsize=256)
def environment_thing(serialised: bytes) -> Thing:
    """Describe an Environment: runs share few, and naming one takes much longer than looking it up."""
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
    return (ENVIRONMENT, environment_id(environment), shortened(label), _filled(properties))


@lru_cache(maxsize=256)
def outcome_properties(outcome: Outcome.ValueType, cause: CauseCode.ValueType) -> str:
    """Write what is known of a run that ended; what a later version says by its number."""
    return _filled(
        {
            "outcome": _OUTCOMES.get(outcome, str(outcome)),
            "cause": _CAUSES.get(cause, str(cause)) if cause else "",
        }
    )


def shortened(text: str) -> str:
    """Cut a label to what fits."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if len(text) <= LABEL_CHARACTERS_MAX else f"{text[: LABEL_CHARACTERS_MAX - 1]}…"


def _gpu(gpu: GpuDevice, node_id: str) -> Thing:
    properties = [("model", gpu.model), ("memory_bytes", str(gpu.memory_bytes)), ("node_id", node_id)]
    return (GPU, key_text(gpu.uuid), shortened(gpu.model), canonical_texts(properties))


def _read_input(serialised: bytes) -> UsedInput:
    used = Input.FromString(serialised)
    things: list[Thing] = []
    versions: dict[str, None] = {}
    for file in used.files:
        if file.sha256:
            things.append(artifact_thing(file.sha256, "", file.size_bytes))
        if is_version(uri := file.resolved_uri or file.uri):
            versions[uri] = None
    for uri in used.uris:
        if is_outside(uri):
            external = external_id(uri)
            things.append((EXTERNAL, external, shortened(external), ""))
    return key_text(used.name), tuple(things), tuple(versions)


_kept_input = lru_cache(maxsize=256)(_read_input)


@lru_cache(maxsize=256)
def _actor_named(name: str) -> Thing:
    return (ACTOR, key_text(name), shortened(name), "")


def _filled(properties: Mapping[str, str]) -> str:
    filled = [(name, value) for name, value in properties.items() if value]
    return canonical_texts(filled) if filled else ""


@lru_cache(maxsize=1_024)
def _file_name(path: str) -> str:
    return shortened(PurePosixPath(path).name)
