"""Which events changed a field of a run, and why they happened."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from google.protobuf.field_mask_pb2 import FieldMask

from runyard.history.v1.history_service_pb2 import (
    ExplainRunRequest,
    ExplainRunResponse,
    Explanation,
    FieldChange,
)
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.answer_size import Fitting
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventLog
from runyard_replay.folding.fields import changes_between, flat, has_field, is_within
from runyard_replay.folding.runs import apply_to_run
from runyard_replay.folding.sentences import sentence_of
from runyard_replay.reading.causes import Causes
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.pages import read_stream
from runyard_replay.reading.subjects import find_run
from runyard_replay.views import cause_link, event_view, readable

EXPLANATIONS_DEFAULT = 1_000
EXPLANATIONS_MAX = 10_000


async def explain_run(event_log: EventLog, request: ExplainRunRequest, clock: Clock) -> ExplainRunResponse:
    """Give the events that changed a field, oldest first, each with its chain of causes.

    Raises:
        InvalidInput: runs have no such field (NO_SUCH_FIELD); fewer explanations than 0, or too many at
            once (BAD_PAGE_SIZE); and as ``find_run``.
        NotFound, Ambiguous: as ``find_run``.
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    _check(request)
    moment = await moment_of(event_log, request.as_of, clock)
    run_id = await find_run(event_log, request.name, moment.position)
    listed = Fitting[Explanation](request.explanations_max or EXPLANATIONS_DEFAULT)
    causes = Causes(event_log)
    async with aclosing(_changes(event_log, run_id, moment.position, request, causes)) as found:
        async for event, changes in found:
            if not listed.add(await _explanation(event, changes, causes)):
                break
    return ExplainRunResponse(
        run_id=run_id,
        position=moment.position,
        explanations=listed.items,
        has_more_explanations=listed.has_more,
    )


def _check(request: ExplainRunRequest) -> None:
    if request.explanations_skipped < 0 or not 0 <= request.explanations_max <= EXPLANATIONS_MAX:
        raise InvalidInput(
            f"explanations_skipped is 0 or more, explanations_max at most {EXPLANATIONS_MAX}",
            code="BAD_PAGE_SIZE",
        )
    if request.field and not has_field(Run, request.field):
        known = ", ".join(field.name for field in Run.DESCRIPTOR.fields)
        raise InvalidInput(
            f"a run has no field {request.field!r}; it has {known}",
            code="NO_SUCH_FIELD",
            field_violations={"field": "not a field of a run"},
        )


async def _changes(
    event_log: EventLog, run_id: str, to: int, request: ExplainRunRequest, causes: Causes
) -> AsyncGenerator[tuple[RecordedEvent, list[FieldChange]], None]:
    """Give the events of a run that changed a field, and how, behind those that are skipped.

    A run of many files takes milliseconds to write as fields, and has an event for each file. So that is only
    done where the field may have changed, and not of events that are skipped if it need not tell which part.
    """
    field, to_skip = request.field, request.explanations_skipped
    is_part = "." in field or "[" in field
    run, before = Run(), Run()
    fields_before: Mapping[str, str] | None = {}
    async for event in read_stream(event_log, stream_name("run", run_id), to=to):
        causes.remember(event)
        if readable(event) is None:
            continue
        # Others have their turn between.
        await asyncio.sleep(0)
        apply_to_run(run, event)
        after = _what_may_change(run, field)
        if after == before:
            continue
        if to_skip and not is_part:
            to_skip, before, fields_before = to_skip - 1, after, None
            continue
        fields = flat(after)
        found = changes_between(flat(before) if fields_before is None else fields_before, fields)
        changes = [change for change in found if is_within(change.path, field)]
        before, fields_before = after, fields
        if changes and to_skip:
            to_skip -= 1
        elif changes:
            yield event, changes


def _what_may_change(run: Run, field: str) -> Run:
    """Give a copy of what a path begins with, or of all of a run, without what differs after every event."""
    part = Run()
    if field:
        FieldMask(paths=[re.split(r"[.\[]", field)[0]]).MergeMessage(run, part)
    else:
        part.CopyFrom(run)
    part.ClearField("position")
    part.DiscardUnknownFields()
    return part


async def _explanation(event: RecordedEvent, changes: list[FieldChange], causes: Causes) -> Explanation:
    chain = await causes.chain(event)
    root = (chain[-1] if chain else event).envelope
    return Explanation(
        event=event_view(event),
        sentence=sentence_of(event),
        changes=changes,
        causes=[cause_link(cause) for cause in chain],
        root_actor=actor_name(root.actor),
        root_command_id=root.command_id,
    )
