"""Models, datasets and projects, as they were at a position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from runyard.artifact.v1.registry_types_pb2 import DatasetVersion, ModelVersion
from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import DatasetState, ModelState
from runyard_contracts.ids import stream_name
from runyard_core.errors import NotFound
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.folding.projects import NAME_TYPES, ProjectFold
from runyard_replay.folding.registry import DatasetFold, ModelFold
from runyard_replay.reading.naming import CATEGORIES
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.reading.subjects import Thing
from runyard_replay.views import readable

Version = TypeVar("Version", ModelVersion, DatasetVersion)


async def model_as_of(event_log: EventLog, thing: Thing, position: int) -> ModelState:
    """Give a model: its versions, or the one that is named, with its files.

    Raises:
        NotFound: it has no such version (MODEL_VERSION_NOT_FOUND, DATASET_VERSION_NOT_FOUND).
        Unavailable: the log did not answer in time.
    """
    project, _, name = thing.id.partition(".")
    versions = await model_versions(event_log, thing, position)
    return ModelState(project=project, name=name, versions=_shown(thing, versions))


async def dataset_as_of(event_log: EventLog, thing: Thing, position: int) -> DatasetState:
    """Give a dataset: its versions, or the one that is named, with its files.

    Raises:
        NotFound, Unavailable: as ``model_as_of``.
    """
    project, _, name = thing.id.partition(".")
    versions = await dataset_versions(event_log, thing, position)
    return DatasetState(project=project, name=name, versions=_shown(thing, versions))


async def model_versions(event_log: EventLog, thing: Thing, position: int) -> Sequence[ModelVersion]:
    """Give the version of a model that is named, or all of them, newest first; each with its files.

    Raises:
        NotFound, Unavailable: as ``model_as_of``.
    """
    fold = ModelFold()
    await _fold(event_log, "model", thing, fold, position)
    return _chosen(thing, fold.named(thing.version), fold.newest_first(), position)


async def dataset_versions(event_log: EventLog, thing: Thing, position: int) -> Sequence[DatasetVersion]:
    """Give the version of a dataset that is named, or all of them, newest first; each with its files.

    Raises:
        NotFound, Unavailable: as ``model_as_of``.
    """
    fold = DatasetFold()
    await _fold(event_log, "dataset", thing, fold, position)
    return _chosen(thing, fold.named(thing.version), fold.newest_first(), position)


async def project_as_of(
    event_log: EventLog, project: str, position: int, *, with_names: bool = True
) -> ProjectFold:
    """Fold a project's own stream, and the names of all kinds that are in it.

    Raises:
        Unavailable: the log did not answer in time.
    """
    fold = ProjectFold(project)
    async for event in read_stream(event_log, stream_name("project", project), to=position):
        if readable(event) is not None:
            fold.apply(event)
    if not with_names:
        return fold
    wanted = EventFilter(types=NAME_TYPES)
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=wanted):
        if readable(event) is not None:
            fold.apply(event)
    return fold


async def _fold(
    event_log: EventLog, category: str, thing: Thing, fold: ModelFold | DatasetFold, position: int
) -> None:
    async for event in read_stream(event_log, stream_name(category, thing.id), to=position):
        if readable(event) is not None:
            fold.apply(event)


def _chosen(
    thing: Thing, named: Version | None, versions: Sequence[Version], position: int
) -> Sequence[Version]:
    if not thing.version:
        return versions
    if named is None:
        raise NotFound(
            f"{thing.id.partition('.')[2]} has no version {thing.version!r} at position {position}",
            code=f"{CATEGORIES[thing.kind].upper()}_VERSION_NOT_FOUND",
        )
    return [named]


def _shown(thing: Thing, versions: Sequence[Version]) -> Sequence[Version]:
    """Leave the files out where there may be many."""
    if not thing.version:
        for each in versions:
            each.ClearField("files")
    return versions
