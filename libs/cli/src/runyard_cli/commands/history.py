"""``runyard history``: the event log as it is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import click

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import (
    EventFilter,
    EventView,
    ListEventsRequest,
    WatchEventsRequest,
)
from runyard_cli.output import is_json, is_terminal, output_option, safe, say, say_json_line
from runyard_cli.session import converse
from runyard_cli.table import cut
from runyard_cli.words import moment
from runyard_client import Client

# Payloads can be long; --output json has them whole.
_DATA_COLUMNS = 200
# On a terminal: the category, and of an id the part that tells it from others.
_STREAM_COLUMNS = 18
_ACTOR_KINDS = {1: "user", 2: "service", 3: "agent"}


@click.group("history")
def command() -> None:
    """The event log: every change, in order, for ever."""


@command.command("tail")
@click.option("-n", "--limit", type=click.IntRange(0, 1000), default=20, show_default=True, help="How many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events.")
@click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type, or those below it (runyard.run.)."
)
@click.option("--stream", default="", metavar="STREAM", help="Only this stream (run-0198...).")
@click.option("--actor", default="", metavar="ACTOR", help="Only what this actor did (user:alice).")
@click.option("--telemetry", is_flag=True, help="The telemetry lane instead of the domain lane.")
@output_option
def tail(limit: int, follow: bool, types: Sequence[str], stream: str, actor: str, telemetry: bool) -> None:
    """Show the newest events, oldest first. With --output json: one JSON object a line."""
    lane = Lane.LANE_TELEMETRY if telemetry else Lane.LANE_DOMAIN
    wanted = EventFilter(types=types, stream=stream, actor=actor)

    async def show(client: Client) -> None:
        after_position = -1
        if limit:
            request = ListEventsRequest(lane=lane, filter=wanted, page_size=limit, descending=True)
            for view in reversed((await client.history.ListEvents(request)).events):
                after_position = view.envelope.position
                say_event(view)
        if follow:
            watch = WatchEventsRequest(lane=lane, after_position=after_position, filter=wanted)
            async for response in client.history.WatchEvents(watch):
                if response.WhichOneof("item") == "event":
                    say_event(response.event)

    converse(show)


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
    actor = f"{_ACTOR_KINDS.get(envelope.actor.kind, 'unknown')}:{envelope.actor.id}"
    kind = envelope.type.removeprefix("runyard.")
    time = moment(envelope.recorded_at)
    data = cut(view.data_json, _DATA_COLUMNS)
    return safe(f"{envelope.position:>7} {time:%m-%d %H:%M:%S} {kind:<22} {stream} {actor} {data}")
