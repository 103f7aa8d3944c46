"""From what a person calls a thing to the one thing that is meant, by the log alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from runyard.artifact.v1.registry_events_pb2 import ArtifactAliasMoved
from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import Subject, SubjectKind
from runyard.run.v1.events_pb2 import ProjectRunNumbered
from runyard_contracts.ids import Position, is_name, is_sha256, stream_id, stream_name
from runyard_core.errors import Ambiguous, InvalidInput, NotFound
from runyard_eventlog.port import EventFilter, EventLog
from runyard_replay.reading.naming import (
    ALIAS,
    CATEGORIES,
    SCHEMES,
    Named,
    find_stream,
    is_label,
    parse_version,
)
from runyard_replay.reading.pages import read_lane, read_stream
from runyard_replay.views import readable

DATUM = "datum://"
PREFIX_CHARACTERS_MIN = 4
CANDIDATES_SHOWN = 5

_PREFIX = re.compile(r"[0-9a-f][0-9a-f-]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBERED = re.compile(r"(?P<project>[a-z0-9][a-z0-9-]*)#(?P<number>[0-9]{1,18}|latest)")
_RUN = SubjectKind.SUBJECT_KIND_RUN
_NODE = SubjectKind.SUBJECT_KIND_NODE
_FILE = SubjectKind.SUBJECT_KIND_FILE
_FIRST_EVENTS = {_RUN: ("run", "runyard.run.queued"), _FILE: ("artifact", "runyard.artifact.written")}
_NAMELESS = (
    SubjectKind.SUBJECT_KIND_GPUS,
    SubjectKind.SUBJECT_KIND_PRICES,
    SubjectKind.SUBJECT_KIND_YARD,
)
_OF_PROJECT = (
    SubjectKind.SUBJECT_KIND_QUEUE,
    SubjectKind.SUBJECT_KIND_COST,
    SubjectKind.SUBJECT_KIND_PROJECT,
)
_WANTED: Mapping[SubjectKind.ValueType, str] = {
    _RUN: 'a run id, the beginning of one, or "project#12"',
    _FILE: "a SHA-256, the beginning of one, datum://SHA-256 or datum://ALIAS",
}
_WANTED_ANY = (
    'a run id, "project#12", a node, a SHA-256, the beginning of an id, '
    "model://NAME, dataset://NAME or datum://ALIAS"
)


@dataclass(frozen=True, slots=True)
class Thing:
    """The one thing that a question is about."""

    kind: SubjectKind.ValueType
    id: str
    """Run id, node id or SHA-256; "project.name" of a model or dataset; a project, or nothing, for others."""
    version: str = ""
    """Of a model or dataset, as it was named; empty for all of them."""


async def find_thing(event_log: EventLog, subject: Subject, position: int) -> Thing:
    """Find what a subject means as of a position.

    Raises:
        InvalidInput: it can name nothing (BAD_NAME).
        NotFound: there was no such thing (RUN_NOT_FOUND, NODE_NOT_FOUND, FILE_NOT_FOUND, PROJECT_NOT_FOUND,
            MODEL_NOT_FOUND, DATASET_NOT_FOUND, ALIAS_NOT_FOUND, NOT_FOUND).
        Ambiguous: it begins several names; the message has them.
        Unavailable: the log did not answer in time.
    """
    kind, name = subject.kind, subject.name
    if kind not in SubjectKind.values():
        raise InvalidInput(f"there is no subject kind {kind}", code="BAD_NAME")
    if kind in _NAMELESS or (kind == SubjectKind.SUBJECT_KIND_QUEUE and not name):
        if name:
            raise _bad_name(name, "nothing to name here")
        return Thing(kind, "")
    if kind in _OF_PROJECT:
        if not is_name(name):
            raise _bad_name(name, "want a project's name")
        await check_project(event_log, name, position)
        return Thing(kind, name)
    if kind == _NODE:
        return await _node(event_log, name, position)
    kind = next((found for scheme, found in SCHEMES.items() if not kind and name.startswith(scheme)), kind)
    if kind in CATEGORIES:
        named = parse_version(kind, name, subject.project)
        return Thing(kind, stream_id(await find_stream(event_log, named, position)), named.version)
    return await _run_or_file(event_log, kind, name, subject.project, position)


def run_of_id(subject: Subject) -> Thing | None:
    """Give the run that a subject names by its whole id, without looking whether it is there."""
    is_whole = subject.kind == _RUN and _UUID.fullmatch(subject.name)
    return Thing(_RUN, subject.name) if is_whole else None


def or_yard(subject: Subject) -> Subject:
    """Give the subject of a question; a question about nothing in particular is about the whole yard."""
    nothing = not subject.kind and not subject.name
    return Subject(kind=SubjectKind.SUBJECT_KIND_YARD) if nothing else subject


async def find_run(event_log: EventLog, name: str, position: int) -> str:
    """Find a run by id, prefix, "project#12" or "project#latest".

    Raises:
        InvalidInput, NotFound, Ambiguous, Unavailable: as ``find_thing``.
    """
    return (await find_thing(event_log, Subject(kind=_RUN, name=name), position)).id


async def check_project(event_log: EventLog, project: str, position: int) -> None:
    """Refuse a project that has no run yet.

    Raises:
        NotFound: PROJECT_NOT_FOUND.
        Unavailable: the log did not answer in time.
    """
    if not await _exists(event_log, "project", project, position):
        raise NotFound(f"there is no project {project!r} at position {position}", code="PROJECT_NOT_FOUND")


async def _run_or_file(
    event_log: EventLog, kind: SubjectKind.ValueType, name: str, project: str, position: int
) -> Thing:
    numbered = _NUMBERED.fullmatch(name)
    if numbered is not None and kind != _FILE:
        return await _numbered(event_log, numbered["project"], numbered["number"], position)
    text = name.removeprefix(DATUM)
    if text != name:
        kind = _FILE
    if not _PREFIX.fullmatch(text) or len(text) < PREFIX_CHARACTERS_MIN:
        if kind == SubjectKind.SUBJECT_KIND_UNSPECIFIED and is_name(name):
            return await _node(event_log, name, position)
        if text != name and is_label(text):
            return await _file_of_alias(event_log, Named(ALIAS, text, project=project), position)
        raise _bad_name(name, f"want {_WANTED.get(kind, _WANTED_ANY)}")
    kinds = (kind,) if kind else (_RUN, _FILE)
    found = [thing for each in kinds for thing in await _beginning_with(event_log, each, text, position)]
    if not found and text != name:
        # An alias may look like the beginning of a hash.
        with suppress(NotFound):
            return await _file_of_alias(event_log, Named(ALIAS, text, project=project), position)
    if not found and not kind and is_name(name) and await _exists(event_log, "node", name, position):
        return Thing(_NODE, name)
    if not found:
        what = {_RUN: "run", _FILE: "file"}.get(kind, "run, file or node")
        code = {_RUN: "RUN_NOT_FOUND", _FILE: "FILE_NOT_FOUND"}.get(kind, "NOT_FOUND")
        raise NotFound(f"there is no {what} {name!r} at position {position}", code=code)
    if len(found) > 1:
        shown = ", ".join(thing.id for thing in found[:CANDIDATES_SHOWN])
        more = ", ..." if len(found) > CANDIDATES_SHOWN else ""
        raise Ambiguous(f"{name!r} may mean several: {shown}{more}; give more of the id")
    return found[0]


async def _numbered(event_log: EventLog, project: str, number: str, position: int) -> Thing:
    last = ""
    async for event in read_stream(event_log, stream_name("project", project), to=position):
        numbered = readable(event)
        if isinstance(numbered, ProjectRunNumbered):
            last = numbered.run_id
            if number == str(numbered.number):
                return Thing(_RUN, last)
    if number != "latest" or not last:
        raise NotFound(f"there is no run {project}#{number} at position {position}", code="RUN_NOT_FOUND")
    return Thing(_RUN, last)


async def _file_of_alias(event_log: EventLog, alias: Named, position: int) -> Thing:
    stream = await find_stream(event_log, alias, position)
    sha256 = ""
    async for event in read_stream(event_log, stream, to=position):
        moved = readable(event)
        if isinstance(moved, ArtifactAliasMoved):
            sha256 = moved.sha256
    return Thing(_FILE, sha256)


async def _node(event_log: EventLog, name: str, position: int) -> Thing:
    if not is_name(name):
        raise _bad_name(name, "want a node's name")
    if not await _exists(event_log, "node", name, position):
        raise NotFound(f"there is no node {name!r} at position {position}", code="NODE_NOT_FOUND")
    return Thing(_NODE, name)


async def _beginning_with(
    event_log: EventLog, kind: SubjectKind.ValueType, text: str, position: int
) -> list[Thing]:
    category, first_event = _FIRST_EVENTS[kind]
    if _UUID.fullmatch(text) if kind == _RUN else is_sha256(text):
        return [Thing(kind, text)] if await _exists(event_log, category, text, position) else []
    found: dict[str, None] = {}
    wanted = EventFilter(types=(first_event,))
    async for event in read_lane(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=wanted):
        found_id = stream_id(event.envelope.stream)
        if found_id.startswith(text):
            found[found_id] = None
            if len(found) > CANDIDATES_SHOWN:
                break
    return [Thing(kind, found_id) for found_id in found]


async def _exists(event_log: EventLog, category: str, text: str, position: int) -> bool:
    stream = stream_name(category, text)
    return bool(await event_log.read_stream(stream, to_position=Position(position), limit=1))


def _bad_name(name: str, want: str) -> InvalidInput:
    return InvalidInput(
        f"{name!r} cannot be shown: {want}", code="BAD_NAME", field_violations={"subject.name": want}
    )
