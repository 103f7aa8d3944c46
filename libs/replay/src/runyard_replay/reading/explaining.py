"""Which events changed a field of a run, and why they happened."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from runyard.history.v1.history_service_pb2 import ExplainRunRequest, ExplainRunResponse, Explanation
from runyard.run.v1.types_pb2 import Run
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import stream_name
from runyard_core.clock import Clock
from runyard_core.errors import InvalidInput
from runyard_eventlog.port import EventLog
from runyard_replay.folding.fields import changes_between, flat, has_field, is_within
from runyard_replay.folding.runs import run_after
from runyard_replay.folding.sentences import sentence_of
from runyard_replay.reading.causes import Causes
from runyard_replay.reading.moments import moment_of
from runyard_replay.reading.pages import read_stream
from runyard_replay.reading.subjects import find_run
from runyard_replay.views import cause_link, event_view, readable


async def explain_run(event_log: EventLog, request: ExplainRunRequest, clock: Clock) -> ExplainRunResponse:
    """Give the events that changed a field, oldest first, each with its chain of causes.

    Raises:
        InvalidInput: runs have no such field (NO_SUCH_FIELD); and as ``find_run``.
        NotFound, Ambiguous: as ``find_run``.
        OutOfRange: as ``moment_of``.
        Unavailable: the log did not answer in time.
    """
    if request.field and not has_field(Run, request.field):
        known = ", ".join(field.name for field in Run.DESCRIPTOR.fields)
        raise InvalidInput(
            f"a run has no field {request.field!r}; it has {known}",
            code="NO_SUCH_FIELD",
            field_violations={"field": "not a field of a run"},
        )
    moment = await moment_of(event_log, request.as_of, clock)
    run_id = await find_run(event_log, request.name, moment.position)
    answer = ExplainRunResponse(run_id=run_id, position=moment.position)
    causes = Causes(event_log)
    run: Run | None = None
    before: Mapping[str, str] = {}
    async for event in read_stream(event_log, stream_name("run", run_id), to=moment.position):
        causes.remember(event)
        if readable(event) is None:
            continue
        # A run of many files takes milliseconds, and has an event for each: others have their turn between.
        await asyncio.sleep(0)
        run = run_after(run, event)
        after = flat(run)
        wanted = [
            change for change in changes_between(before, after) if is_within(change.path, request.field)
        ]
        before = after
        if not wanted:
            continue
        chain = await causes.chain(event)
        root = (chain[-1] if chain else event).envelope
        answer.explanations.append(
            Explanation(
                event=event_view(event),
                sentence=sentence_of(event),
                changes=wanted,
                causes=[cause_link(cause) for cause in chain],
                root_actor=actor_name(root.actor),
                root_command_id=root.command_id,
            )
        )
    return answer
