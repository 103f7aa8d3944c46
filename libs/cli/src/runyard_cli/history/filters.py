"""What people give ``history tail`` to choose by, brought into the form that events have it in."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    EventFilter,
    GetStateAsOfRequest,
    ListEventsRequest,
    Subject,
    SubjectKind,
)
from runyard_cli.history.source import Source
from runyard_cli.names import full_run_name, looks_like_run, may_be_id
from runyard_client.errors import ClientError

_ALL = "runyard."
_ID_LENGTH = 36
_KINDS = {"run": SubjectKind.SUBJECT_KIND_RUN, "artifact": SubjectKind.SUBJECT_KIND_FILE}


async def check_span(
    source: Source, begin: AsOf | None, end: AsOf | None, lane: Lane.ValueType = Lane.LANE_DOMAIN
) -> None:
    """Refuse moments that the log does not have, and a first one behind the second.

    Positions are of the lane that is shown. From before the first event on is from the first on.

    Raises:
        ClientError: POSITION_AHEAD, TIME_AHEAD, BEFORE_FIRST_EVENT, BAD_SPAN.
    """
    for at, may_be_before in ((begin, True), (end, False)):
        if at is None:
            continue
        try:
            if lane == Lane.LANE_TELEMETRY and at.WhichOneof("at") == "position":
                await _check_telemetry(source, at.position)
            else:
                prices = Subject(kind=SubjectKind.SUBJECT_KIND_PRICES)
                await source.state(GetStateAsOfRequest(as_of=at, subject=prices))
        except ClientError as error:
            if not may_be_before or error.reason != "BEFORE_FIRST_EVENT":
                raise
    if begin is not None and end is not None and _is_behind(begin, end):
        raise ClientError("INVALID_ARGUMENT", "BAD_SPAN", "the first moment is behind the second")


async def _check_telemetry(source: Source, position: int) -> None:
    newest = (await source.head()).telemetry_position
    if position > newest:
        problem = f"position {position} is ahead of the telemetry lane, whose newest is {newest}"
        raise ClientError("OUT_OF_RANGE", "POSITION_AHEAD", problem)
    if position == 0:
        raise ClientError("OUT_OF_RANGE", "BEFORE_FIRST_EVENT", "a lane begins at position 1")


def _is_behind(begin: AsOf, end: AsOf) -> bool:
    """Say whether the first of two moments is behind the second, where that can be seen without the log."""
    kinds = (begin.WhichOneof("at"), end.WhichOneof("at"))
    if kinds == ("position", "position"):
        return begin.position > end.position
    if kinds == ("time", "time"):
        return begin.time.ToNanoseconds() > end.time.ToNanoseconds()
    # Nothing set is now.
    return kinds[0] is None and kinds[1] is not None


async def whole_correlation(source: Source, text: str, project: str | None) -> str:
    """Give the id of the run that is meant; an id of something else stays as it is."""
    name = full_run_name(text, project)
    if not looks_like_run(text) and (not may_be_id(text) or len(text) >= _ID_LENGTH):
        return text
    subject = Subject(kind=SubjectKind.SUBJECT_KIND_RUN, name=name)
    return (await source.state(GetStateAsOfRequest(subject=subject))).run.run_id


def whole_types(names: Sequence[str]) -> list[str]:
    """Give the stored names of event types that are written as they are shown: "run.queued", "run.".

    Raises:
        click.UsageError: no event has such a type.
    """
    return [_whole_type(name) for name in names]


def _whole_type(name: str) -> str:
    from runyard_contracts.registry import BY_NAME

    whole = name if name.startswith(_ALL) else f"{_ALL}{name}"
    if whole in BY_NAME or (whole.endswith(".") and any(known.startswith(whole) for known in BY_NAME)):
        return whole
    below = f"{whole}."
    if any(known.startswith(below) for known in BY_NAME):
        return below
    shown = [known.removeprefix(_ALL) for known in BY_NAME]
    meant = " or ".join(get_close_matches(whole.removeprefix(_ALL), shown, n=3, cutoff=0.7))
    raise click.UsageError(
        f"--type {name!r}: no event has such a type" + (f"; is {meant} meant?" if meant else "")
    )


async def check_there(source: Source, node: str, stream: str) -> None:
    """Refuse a machine or stream that the log does not know.

    Raises:
        ClientError: NODE_NOT_FOUND, STREAM_NOT_FOUND.
    """
    if node:
        subject = Subject(kind=SubjectKind.SUBJECT_KIND_NODE, name=node)
        await source.state(GetStateAsOfRequest(subject=subject))
    if not stream:
        return
    for lane in (Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY):
        request = ListEventsRequest(lane=lane, filter=EventFilter(stream=stream), page_size=1)
        if (await source.list_events(request)).events:
            return
    raise ClientError("NOT_FOUND", "STREAM_NOT_FOUND", f"the log has no stream {stream!r}")


async def whole_stream(source: Source, text: str) -> str:
    """Give the stream that is meant by a name like "run-0198" or "artifact-5474"."""
    category, _, begin = text.partition("-")
    kind = _KINDS.get(category)
    if kind is None or not may_be_id(begin) or len(begin) >= _ID_LENGTH:
        return text
    shown = await source.state(GetStateAsOfRequest(subject=Subject(kind=kind, name=begin)))
    return f"{category}-{shown.run.run_id or shown.file.sha256}"
