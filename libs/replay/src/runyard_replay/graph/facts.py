"""What one event says about the graph: things, and how they came from one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from runyard.artifact.v1.events_pb2 import ArtifactWritten, CodeSnapshotRecorded
from runyard.artifact.v1.registry_events_pb2 import DatasetVersionCreated, ModelVersionRegistered
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.lineage.v1.lineage_service_pb2 import EdgeRelation
from runyard.run.v1.events_pb2 import (
    EnvironmentCaptured,
    RunFinished,
    RunInputFetched,
    RunLeaseGranted,
    RunQueued,
    RunStarted,
)
from runyard.run.v1.glances_pb2 import (
    EnvironmentCapturedGlance,
    RunFinishedGlance,
    RunQueuedGlance,
    RunStartedGlance,
)
from runyard_contracts.envelope import undecodable
from runyard_contracts.glance import Glance
from runyard_replay.graph.identities import canonical_texts, key_text, quoted
from runyard_replay.graph.names import DATASET, MODEL, is_version, version_id
from runyard_replay.graph.things import (
    ACTOR,
    ARTIFACT,
    CODE,
    DATASET_VERSION,
    ENVIRONMENT,
    GPU,
    MODEL_VERSION,
    NODE,
    PARAMETERS,
    RUN,
    Thing,
    actor_thing,
    artifact_thing,
    code_thing,
    environment_thing,
    input_things,
    machine_things,
    outcome_properties,
    parameters_thing,
    shortened,
)

# Looked up once: the class looks names up in its descriptor.
_HAD_MEMBER = EdgeRelation.EDGE_RELATION_HAD_MEMBER
_USED = EdgeRelation.EDGE_RELATION_USED
_WAS_ASSOCIATED_WITH = EdgeRelation.EDGE_RELATION_WAS_ASSOCIATED_WITH
_WAS_ATTRIBUTED_TO = EdgeRelation.EDGE_RELATION_WAS_ATTRIBUTED_TO
_WAS_DERIVED_FROM = EdgeRelation.EDGE_RELATION_WAS_DERIVED_FROM
_WAS_GENERATED_BY = EdgeRelation.EDGE_RELATION_WAS_GENERATED_BY

EdgeKey = tuple[int, str, int, int, str, str]
"""Kind and id of the source, relation, kind and id of the target, role."""
Numbered = tuple[str, int, str]
"""A project, the number of one of its runs, and the run's id."""
Facts = tuple[Sequence[Thing], Sequence[EdgeKey], Numbered | None]
"""Things, how they came from one another, each way once, and the number of a run that is queued.

A run is named when it is queued and finished."""


class Described(Protocol):
    """What is known of a thing so far."""

    @property
    def properties(self) -> str:
        """Canonical JSON object, text to text."""
        ...


Known = Callable[[tuple[int, str]], Described | None]
"""A thing by kind and id, if it is among those of the event; None when it was not met before."""


def facts(envelope: Envelope, known: Known) -> Facts:
    """Give what an event says; nothing for an event that says nothing about the graph.

    The things are the same whatever is ``known``: only edges to versions need the project of their run.

    Raises:
        UndecodableEventError: the payload, or a part of it, does not parse.
        NoUpcasterError: no step leads from its schema version to the newest.
    """
    said = _SAYS.get(envelope.type)
    if said is None:
        return _NOTHING
    glance, say = said
    try:
        return say(glance.at(envelope), envelope, known)
    except DecodeError as error:
        raise undecodable(envelope, error) from error


_NOTHING: Facts = ((), (), None)


def _queued(queued: RunQueuedGlance, envelope: Envelope, _: Known) -> Facts:
    spec = queued.spec
    run_id, project, number, step = key_text(queued.run_id), queued.project, queued.number, spec.step
    properties = f'{{"number":"{number}","project":{quoted(project)},"step":{quoted(step)}'
    if title := queued.title:
        properties = f'{properties},"title":{quoted(title)}'
    actor = actor_thing(envelope)
    parameters = parameters_thing(tuple(spec.parameters))
    things: list[Thing] = [
        (RUN, run_id, shortened(f"{project}#{number} {step}".rstrip()), properties + "}"),
        actor,
        parameters,
    ]
    edges: list[EdgeKey] = [
        (RUN, run_id, _WAS_ASSOCIATED_WITH, ACTOR, actor[1], "submitter"),
        (RUN, run_id, _USED, PARAMETERS, parameters[1], ""),
    ]
    if (code := code_thing(spec.code)) is not None:
        things.append(code)
        edges.append((RUN, run_id, _USED, CODE, code[1], ""))
    return (things, edges, (key_text(project), number, run_id))


def _leased(leased: RunLeaseGranted, _envelope: Envelope, _: Known) -> Facts:
    run_id, node_id = key_text(leased.run_id), key_text(leased.node_id)
    gpus = [key_text(uuid) for uuid in leased.gpu_uuids]
    return (
        [(NODE, node_id, "", ""), *[(GPU, gpu, "", "") for gpu in gpus]],
        [
            (RUN, run_id, _WAS_ASSOCIATED_WITH, NODE, node_id, ""),
            *[(RUN, run_id, _WAS_ASSOCIATED_WITH, GPU, gpu, "") for gpu in gpus],
        ],
        None,
    )


def _started(started: RunStartedGlance, _: Envelope, known: Known) -> Facts:
    run_id = key_text(started.run_id)
    things: list[Thing] = [*machine_things(started.hardware)]
    edges: list[EdgeKey] = []
    for serialised in started.inputs:
        role, used, versions = input_things(serialised)
        things += used
        edges += [(RUN, run_id, _USED, kind, thing_id, role) for kind, thing_id, _, _ in used]
        if versions:
            things.append((RUN, run_id, "", ""))
            edges += _used_versions(run_id, versions, role, known)
    return (things, _each_once(edges), None)


def _fetched(fetched: RunInputFetched, _: Envelope, known: Known) -> Facts:
    run_id, file, role = key_text(fetched.run_id), fetched.file, key_text(fetched.input)
    artifact = artifact_thing(file.sha256, "", file.size_bytes)
    edges: list[EdgeKey] = [(RUN, run_id, _USED, ARTIFACT, artifact[1], role)]
    if not is_version(uri := file.resolved_uri or file.uri):
        return ([artifact], edges, None)
    edges += _used_versions(run_id, [uri], role, known)
    return ([artifact, (RUN, run_id, "", "")], edges, None)


def _used_versions(run_id: str, uris: Iterable[str], role: str, known: Known) -> Iterator[EdgeKey]:
    """Say which versions a run used; what they are was told when they were made."""
    run = known((RUN, run_id))
    if run is not None and (project := json.loads(run.properties).get("project")):
        for uri in uris:
            kind = DATASET_VERSION if uri.startswith(DATASET) else MODEL_VERSION
            yield (RUN, run_id, _USED, kind, version_id(uri, project), role)


def _captured(captured: EnvironmentCapturedGlance, _envelope: Envelope, _: Known) -> Facts:
    environment = environment_thing(captured.environment)
    edge = (RUN, key_text(captured.run_id), _USED, ENVIRONMENT, environment[1], "")
    return ([environment], [edge], None)


def _written(written: ArtifactWritten, envelope: Envelope, _: Known) -> Facts:
    origin = written.origin
    path = origin.path
    artifact = artifact_thing(written.sha256, path, written.size_bytes)
    if origin.run_id:
        run_id = key_text(origin.run_id)
        edge = (ARTIFACT, artifact[1], _WAS_GENERATED_BY, RUN, run_id, key_text(path))
        return ([artifact], [edge], None)
    actor = actor_thing(envelope)
    edge = (ARTIFACT, artifact[1], _WAS_ATTRIBUTED_TO, ACTOR, actor[1], key_text(path))
    return ([artifact, actor], [edge], None)


def _recorded(recorded: CodeSnapshotRecorded, envelope: Envelope, _: Known) -> Facts:
    code, actor = code_thing(recorded.code.SerializeToString()), actor_thing(envelope)
    if code is None:
        return _NOTHING
    return ([code, actor], [(CODE, code[1], _WAS_ATTRIBUTED_TO, ACTOR, actor[1], "")], None)


def _dataset_made(made: DatasetVersionCreated, envelope: Envelope, _: Known) -> Facts:
    name = f"{DATASET}{made.dataset}/{made.version}"
    version: Thing = (DATASET_VERSION, version_id(name, made.project), name, _of_version(made))
    things, edges = _members(version, made.files)
    _made_by(version, made.origin, envelope, things, edges)
    if made.from_version:
        earlier = version_id(f"{DATASET}{made.dataset}/{made.from_version}", made.project)
        edges.append((DATASET_VERSION, version[1], _WAS_DERIVED_FROM, DATASET_VERSION, earlier, ""))
    return (things, edges, None)


def _model_made(made: ModelVersionRegistered, envelope: Envelope, _: Known) -> Facts:
    name = f"{MODEL}{made.model}/{made.version}"
    version: Thing = (MODEL_VERSION, version_id(name, made.project), name, _of_version(made))
    things, edges = _members(version, made.files)
    _made_by(version, made.origin, envelope, things, edges)
    return (things, edges, None)


def _of_version(made: DatasetVersionCreated | ModelVersionRegistered) -> str:
    return canonical_texts([("file_count", str(len(made.files))), ("project", made.project)])


def _members(version: Thing, files: Iterable[VersionFile]) -> tuple[list[Thing], list[EdgeKey]]:
    kind, version_name, _, _ = version
    things: list[Thing] = [version]
    edges: list[EdgeKey] = []
    for file in files:
        artifact = artifact_thing(file.sha256, "", file.size_bytes)
        things.append(artifact)
        edges.append((kind, version_name, _HAD_MEMBER, ARTIFACT, artifact[1], key_text(file.path)))
    return things, _each_once(edges)


def _made_by(
    version: Thing, origin: Origin, envelope: Envelope, things: list[Thing], edges: list[EdgeKey]
) -> None:
    kind, version_name, _, _ = version
    if origin.run_id:
        edges.append((kind, version_name, _WAS_GENERATED_BY, RUN, key_text(origin.run_id), ""))
        return
    actor = actor_thing(envelope)
    things.append(actor)
    edges.append((kind, version_name, _WAS_ATTRIBUTED_TO, ACTOR, actor[1], ""))


def _finished(finished: RunFinishedGlance, _envelope: Envelope, _: Known) -> Facts:
    # Every output was told when it was written, once for each run that made it.
    told = outcome_properties(finished.outcome, finished.cause.code)
    return ([(RUN, key_text(finished.run_id), "", told)], (), None)


_Say = Callable[[Any, Envelope, Known], Facts]
_SAID: Mapping[type[Message], tuple[type[Message], _Say]] = {
    RunQueued: (RunQueuedGlance, _queued),
    RunLeaseGranted: (RunLeaseGranted, _leased),
    RunStarted: (RunStartedGlance, _started),
    RunInputFetched: (RunInputFetched, _fetched),
    EnvironmentCaptured: (EnvironmentCapturedGlance, _captured),
    ArtifactWritten: (ArtifactWritten, _written),
    CodeSnapshotRecorded: (CodeSnapshotRecorded, _recorded),
    DatasetVersionCreated: (DatasetVersionCreated, _dataset_made),
    ModelVersionRegistered: (ModelVersionRegistered, _model_made),
    RunFinished: (RunFinishedGlance, _finished),
}
_GLANCES = [(Glance(event, seen), say) for event, (seen, say) in _SAID.items()]
_SAYS: Mapping[str, tuple[Glance[Any], _Say]] = {glance.event_type: (glance, say) for glance, say in _GLANCES}

EVENTS: Sequence[type[Message]] = tuple(_SAID)
"""Every event that says something about the graph."""


def _each_once(edges: list[EdgeKey]) -> list[EdgeKey]:
    return list(dict.fromkeys(edges)) if len(edges) > 1 else edges
