"""From names that are a project's own (aliases, models, datasets) to the streams that are meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import SubjectKind
from runyard_contracts.ids import Position, StreamName, is_name, stream_id, stream_name
from runyard_core.errors import Ambiguous, InvalidInput, NotFound
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.reading.pages import read_lane

SCHEMES: Mapping[str, SubjectKind.ValueType] = {
    "model://": SubjectKind.SUBJECT_KIND_MODEL,
    "dataset://": SubjectKind.SUBJECT_KIND_DATASET,
}
"""How a reference to a version begins."""
CATEGORIES: Mapping[SubjectKind.ValueType, str] = {
    SubjectKind.SUBJECT_KIND_MODEL: "model",
    SubjectKind.SUBJECT_KIND_DATASET: "dataset",
}
ALIAS = "alias"
_FIRST_EVENTS = {
    "model": "runyard.model.version_registered",
    "dataset": "runyard.dataset.version_created",
    ALIAS: "runyard.artifact.alias_moved",
}
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Named:
    """A name of a project's own, as somebody wrote it."""

    category: str
    label: str
    version: str = ""
    project: str = ""
    """Empty for whichever project has the name."""


def parse_version(kind: SubjectKind.ValueType, text: str, project: str) -> Named:
    """Read "model://resnet/2", "resnet/2", "resnet", or each with "@digits" behind it for the project.

    Raises:
        InvalidInput: it cannot name a model or dataset (BAD_NAME).
    """
    category = CATEGORIES[kind]
    name, _, owner = text.removeprefix(f"{category}://").partition("@")
    label, _, version = name.partition("/")
    if not is_label(label) or (version and not is_label(version)) or (owner and not is_name(owner)):
        raise InvalidInput(
            f"{text!r} cannot be shown: want {category}://NAME or {category}://NAME/VERSION",
            code="BAD_NAME",
            field_violations={"subject.name": f"not a {category}"},
        )
    return Named(category, label, version, owner or project)


def is_label(text: str) -> bool:
    """Say whether this may name an alias, a model, a dataset or a version."""
    return _LABEL.fullmatch(text) is not None


async def find_stream(event_log: EventLog, named: Named, position: int) -> StreamName:
    """Find the stream of what is named, as of a position.

    Raises:
        NotFound: no project has it (MODEL_NOT_FOUND, DATASET_NOT_FOUND, ALIAS_NOT_FOUND).
        Ambiguous: several projects do; the message has them.
        Unavailable: the log did not answer in time.
    """
    if named.project:
        stream = stream_name(named.category, f"{named.project}.{named.label}")
        if await event_log.read_stream(stream, to_position=Position(position), limit=1):
            return stream
        raise _not_found(named, position)
    projects = await _projects_with(event_log, named, position)
    if not projects:
        raise _not_found(named, position)
    if len(projects) > 1:
        raise Ambiguous(
            f"several projects have {named.category} {named.label!r}: {', '.join(projects)}; name the project"
        )
    return stream_name(named.category, f"{projects[0]}.{named.label}")


async def _projects_with(event_log: EventLog, named: Named, position: int) -> list[str]:
    found: dict[str, None] = {}
    wanted = EventFilter(types=(_FIRST_EVENTS[named.category],))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=wanted):
        project, _, label = stream_id(event.envelope.stream).partition(".")
        if label == named.label:
            found[project] = None
    return sorted(found)


def _not_found(named: Named, position: int) -> NotFound:
    where = f" in project {named.project!r}" if named.project else ""
    return NotFound(
        f"there is no {named.category} {named.label!r}{where} at position {position}",
        code=f"{named.category.upper()}_NOT_FOUND",
    )
