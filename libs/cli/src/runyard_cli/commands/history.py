"""``runyard history``: the event log, and what it says about any moment."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    EventFilter,
    EventView,
    ListEventsRequest,
    WatchEventsRequest,
)
from runyard_cli.examples import examples
from runyard_cli.history.dead_letters import dead_letters
from runyard_cli.history.detaching import detach
from runyard_cli.history.disputing import dispute
from runyard_cli.history.erasing import erase
from runyard_cli.history.exchange import export, import_
from runyard_cli.history.filters import (
    check_span,
    check_there,
    whole_correlation,
    whole_stream,
    whole_types,
)
from runyard_cli.history.lines import KIND_WIDTH, actor, short_type
from runyard_cli.history.moments import MOMENT
from runyard_cli.history.questions import as_of, diff, effects, explain, timeline
from runyard_cli.history.rebuilding import projections, rebuild
from runyard_cli.history.source import PAGE_SIZE, Source, ask, direct_option
from runyard_cli.history.verifying import check_proof, proof, verify
from runyard_cli.history.whatif import what_if
from runyard_cli.names import project_option
from runyard_cli.output import is_json, is_terminal, note, output_option, safe, say, say_json_line
from runyard_cli.table import cut
from runyard_cli.words import moment
from runyard_client.errors import Unreachable
from runyard_core.retry import Backoff, Retries, Telling

LISTED_MAX = 100_000
"""Most events that are shown at once; `runyard history export` has no such bound."""
_BACKOFF = Backoff(first_seconds=0.5, seconds_max=5.0)
# Payloads can be long; --output json has them whole.
_DATA_COLUMNS = 200
# On a terminal: the category, and of an id the part that tells it from others.
_STREAM_COLUMNS = 18


@click.group("history")
def command() -> None:
    """The event log: every change, in order, for ever."""


@command.command(
    "tail",
    epilog=examples(
        "history tail -f --type run. --node gpu-a",
        "history tail --correlation digits#2 -n 200",
        "history tail --from '2026-11-02 14:00' --to '2026-11-02 14:05' -n 10000",
        "history tail --actor user:alice --type price.set --output json",
    ),
)
@click.option(
    "-n", "--limit", type=click.IntRange(0, LISTED_MAX), default=20, show_default=True, help="How many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new events.")
@click.option(
    "--type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only this type (run.finished), or those below it (run.); repeat for more.",
)
@click.option("--stream", default="", metavar="STREAM", help="Only this stream (run-0198..., node-n1).")
@click.option("--node", default="", metavar="NODE", help="Only events of this machine and its agent.")
@click.option(
    "--actor", "actor_name", default="", metavar="ACTOR", help="Only what this actor did (user:alice)."
)
@click.option(
    "--correlation", default="", metavar="ID", help="Only what one request set off (a run: its name or id)."
)
@click.option(
    "--from",
    "begin",
    type=MOMENT,
    metavar="MOMENT",
    help="Recorded from this position (of the lane shown) or time on.",
)
@click.option("--to", "end", type=MOMENT, metavar="MOMENT", help="Recorded up to this position or time.")
@click.option("--telemetry", is_flag=True, help="The telemetry lane instead of the domain lane.")
@project_option
@direct_option
@output_option
def tail(
    limit: int,
    follow: bool,
    types: Sequence[str],
    stream: str,
    node: str,
    actor_name: str,
    correlation: str,
    begin: AsOf | None,
    end: AsOf | None,
    telemetry: bool,
    project: str | None,
    direct: bool,
) -> None:
    """Show the newest events, oldest first. With --output json: a JSON object a line, with whole payloads."""
    if follow and end is not None:
        raise click.UsageError("--follow and --to do not go together")
    lane = Lane.LANE_TELEMETRY if telemetry else Lane.LANE_DOMAIN
    wanted = EventFilter(types=whole_types(types), node_id=node, actor=actor_name)
    request = ListEventsRequest(lane=lane, filter=wanted, descending=True)
    _bound(request, begin, end)

    async def show(source: Source) -> None:
        await check_span(source, begin, end, lane)
        wanted.correlation_id = await whole_correlation(source, correlation, project)
        wanted.stream = await whole_stream(source, stream)
        request.filter.correlation_id, request.filter.stream = wanted.correlation_id, wanted.stream
        head = await source.head()
        # What comes between the list and the watch belongs to the watch.
        last = head.telemetry_position if telemetry else head.domain_position
        request.to_position = request.to_position or last
        if begin is not None and begin.WhichOneof("at") is None:
            request.after_position = last
        # One more, to know whether it was all.
        found = await newest(source, request, limit + 1) if limit and last else []
        for view in reversed(found[:limit]):
            say_event(view)
        if not found and not follow:
            await check_there(source, node, wanted.stream)
            note("no event matches")
        if len(found) > limit and begin is not None:
            note(f"only the newest {limit:,} of that time: -n shows more")
        if follow:
            watch = WatchEventsRequest(lane=lane, after_position=last, filter=wanted)
            async for view in followed(source, watch):
                say_event(view)

    ask(show, direct=direct)


async def followed(source: Source, watch: WatchEventsRequest) -> AsyncIterator[EventView]:
    """Give events as they come; a service that goes away is asked until it answers, from the last one on."""
    retries = Retries("following the log", _BACKOFF, Telling(note))
    while True:
        try:
            async for view in source.watch_events(watch):
                retries.succeeded()
                watch.after_position = view.envelope.position
                yield view
        except Unreachable as error:
            await retries.pause(error)
        else:
            return


async def newest(source: Source, request: ListEventsRequest, limit: int) -> list[EventView]:
    """Give events, newest first, at most so many."""
    found: list[EventView] = []
    while True:
        request.page_size = min(limit - len(found), PAGE_SIZE)
        page = (await source.list_events(request)).events
        found += page
        # A page of large events is short, and others come after it.
        if not page or len(found) == limit:
            return found
        before = page[-1].envelope.position - 1
        if before <= request.after_position:
            return found
        request.to_position = before


for _question in (timeline, as_of, explain, diff, effects, what_if, export, import_):
    command.add_command(_question)
for _deed in (verify, proof, check_proof, detach, projections, rebuild, dead_letters, dispute):
    command.add_command(_deed)

command.add_command(erase)


def _bound(request: ListEventsRequest, begin: AsOf | None, end: AsOf | None) -> None:
    if begin is not None and begin.WhichOneof("at") == "time":
        request.filter.recorded_from.CopyFrom(begin.time)
    elif begin is not None:
        request.after_position = max(0, begin.position - 1)
    if end is not None and end.WhichOneof("at") == "time":
        request.filter.recorded_to.CopyFrom(end.time)
    elif end is not None:
        request.to_position = end.position


def say_event(view: EventView) -> None:
    """Write an event as a line."""
    if is_json():
        say_json_line(view)
        return
    if is_terminal():
        say(cut(event_line(view, stream_columns=_STREAM_COLUMNS), shutil.get_terminal_size().columns))
    else:
        say(event_line(view))


def event_line(view: EventView, *, stream_columns: int = _DATA_COLUMNS) -> str:
    """Give position, time, type, stream, actor and payload of an event."""
    envelope = view.envelope
    stream = cut(envelope.stream, stream_columns)
    kind = short_type(envelope.type)
    time = moment(envelope.recorded_at)
    data = cut(view.data_json or "(cannot be read here)", _DATA_COLUMNS)
    return safe(
        f"{envelope.position:>7} {time:%m-%d %H:%M:%S} {kind:<{KIND_WIDTH}} {stream} {actor(envelope)} {data}"
    )
