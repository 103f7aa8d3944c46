"""``history dispute``: an event that should not count."""

from __future__ import annotations

import click

from runyard.history.v1 import history_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.output import is_json, output_option, safe, say, say_json
from runyard_cli.session import converse
from runyard_client import Client
from runyard_contracts.ids import uuid7


@click.command(
    "dispute",
    epilog=examples(
        "history dispute 4711 --reason 'set by a broken script'",
    ),
)
@click.argument("event_id", metavar="EVENT")
@click.option("--reason", required=True, metavar="TEXT", help="Why it should not count; kept with your name.")
@click.option("--withdraw", is_flag=True, help="Take the dispute back.")
@output_option
def dispute(event_id: str, reason: str, withdraw: bool) -> None:
    """Say that EVENT should not count. It stays in the log; read models that are rebuilt leave it out.

    EVENT is the id of an event, its first 8 digits or more, or its position.

    Live read models show it until then: `runyard history rebuild SERVICE --accept-differences`.
    """
    request = pb.DisputeEventRequest(event_id=event_id, reason=reason, withdraw=withdraw, request_id=uuid7())

    async def ask(client: Client) -> pb.DisputeEventResponse:
        return await client.history.DisputeEvent(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    envelope = answer.event.envelope
    done = "counts again" if withdraw else "is disputed"
    event = f"{envelope.type} of {envelope.stream} at position {envelope.position}"
    say(safe(f"{event} {done} (event {answer.position})"))
    say("Read models show it so once they are rebuilt.")
