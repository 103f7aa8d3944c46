"""Which events belong to the timeline of a file, a model or a dataset."""

from __future__ import annotations

from collections.abc import Sequence, Set

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import (
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import DatasetVersion, ModelVersion
from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import SubjectKind
from runyard.run.v1.events_pb2 import RunInputFetched, RunStarted
from runyard_contracts.ids import stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.reading.naming import CATEGORIES
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.reading.registered import dataset_versions, model_versions
from runyard_replay.reading.run_scope import add_run
from runyard_replay.reading.scope import Scope, Span
from runyard_replay.reading.subjects import Thing
from runyard_replay.views import readable


async def add_file(event_log: EventLog, scope: Scope, sha256: str, span: Span) -> None:
    """Add how a file came to be, and the events of every run that used it.

    Raises:
        Unavailable: the log did not answer in time.
    """
    makers: dict[str, None] = {}
    first = 0
    async for event in read_stream(event_log, stream_name("artifact", sha256), to=span.to):
        scope.add(event)
        first = first or event.position
        written = readable(event)
        if isinstance(written, ArtifactWritten) and written.origin.run_id:
            makers[written.origin.run_id] = None
    for run_id in makers:
        await add_run(event_log, scope, run_id, span)
    await _add_users(event_log, scope, {sha256}, first, span.to)


async def add_versions(event_log: EventLog, scope: Scope, thing: Thing, span: Span) -> None:
    """Add how versions of a model or dataset came to be, and the events of every run that used their files.

    Of one version that is named everything that its run did; of all versions the events of their runs.

    Raises:
        NotFound: there is no such version (MODEL_VERSION_NOT_FOUND, DATASET_VERSION_NOT_FOUND).
        Unavailable: the log did not answer in time.
    """
    found: Sequence[ModelVersion | DatasetVersion]
    if thing.kind == SubjectKind.SUBJECT_KIND_MODEL:
        found = await model_versions(event_log, thing, span.to)
    else:
        found = await dataset_versions(event_log, thing, span.to)
    labels = {str(each.version) for each in found}
    async for event in read_stream(event_log, stream_name(CATEGORIES[thing.kind], thing.id), to=span.to):
        if not labels.isdisjoint(_versions_of(event)):
            scope.add(event)
    for run_id in dict.fromkeys(each.origin.run_id for each in found if each.origin.run_id):
        if thing.version:
            await add_run(event_log, scope, run_id, span)
        else:
            await _add_stream(event_log, scope, run_id, span.to)
    await _add_users(event_log, scope, {file.sha256 for each in found for file in each.files}, 0, span.to)


def _versions_of(event: RecordedEvent) -> set[str]:
    match readable(event):
        case ModelVersionRegistered() | DatasetVersionCreated() as made:
            return {str(made.version)}
        case DatasetAliasMoved() as moved:
            return {moved.version, moved.previous_version}
        case _:
            return set()


async def _add_users(event_log: EventLog, scope: Scope, files: Set[str], first: int, to: int) -> None:
    """Add the events of every run that got one of these files."""
    users: dict[str, None] = {}
    wanted = EventFilter(types=("runyard.run.started", "runyard.run.input_fetched"))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=first, to=to, wanted=wanted):
        match readable(event):
            case RunStarted() as started:
                got = [file.sha256 for given in started.inputs for file in given.files]
            case RunInputFetched() as fetched:
                got = [fetched.file.sha256]
            case _:
                continue
        if not files.isdisjoint(got):
            users[stream_id(event.envelope.stream)] = None
    for run_id in users:
        await _add_stream(event_log, scope, run_id, to)


async def _add_stream(event_log: EventLog, scope: Scope, run_id: str, to: int) -> None:
    async for event in read_stream(event_log, stream_name("run", run_id), to=to):
        scope.add(event)
