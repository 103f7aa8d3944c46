"""``history dead-letters list, show, requeue``: events that a read model could not take."""

from __future__ import annotations

import json

import click

from runyard.projection.v1 import projection_service_pb2 as pb
from runyard.projection.v1 import types_pb2
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode
from runyard_cli.history.lines import actor
from runyard_cli.history.rebuilding import TARGET, Target
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json, say_json_line
from runyard_cli.session import converse
from runyard_cli.table import Cell, say_table
from runyard_cli.words import time_words
from runyard_client import Client
from runyard_client.context import SERVICES
from runyard_contracts.ids import uuid7
from runyard_core.counted import count_words

PAGE_SIZE = 200
LISTED_MAX = 10_000

stream_option = click.option("--stream", default="", metavar="STREAM", help="Only this stream (run-0198...).")


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that a read model could not take: they wait, and their stream behind them."""


@dead_letters.command("list", epilog=examples("history dead-letters list", "history dead-letters list cost"))
@click.argument("target", type=TARGET, required=False, metavar="[SERVICE[/READ-MODEL]]")
@stream_option
@click.option(
    "-n", "--limit", type=click.IntRange(1, LISTED_MAX), default=100, show_default=True, help="How many."
)
@output_option
def list_(target: Target | None, stream: str, limit: int) -> None:
    """List them in the order in which they wait, of one read model or of all."""

    async def ask(client: Client) -> list[tuple[str, types_pb2.DeadLetter]]:
        found: list[tuple[str, types_pb2.DeadLetter]] = []
        for service in [target.service] if target is not None else SERVICES:
            request = pb.ListDeadLettersRequest(
                projection=target.projection if target is not None else "", stream=stream
            )
            # One more, to know whether it was all.
            while len(found) <= limit:
                request.page_size = min(PAGE_SIZE, limit + 1 - len(found))
                answer = await client.projections(service).ListDeadLetters(request)
                found += [(service, letter) for letter in answer.dead_letters]
                request.page_token = answer.next_page_token
                if not answer.next_page_token:
                    break
        return found

    found = converse(ask)
    if len(found) > limit:
        del found[limit:]
        note(f"only the first {limit:,} are shown: -n shows more")
    if is_json():
        say_json(pb.ListDeadLettersResponse(dead_letters=[letter for _, letter in found]))
    elif found:
        headings = ("READ MODEL", "POSITION", "TYPE", "STREAM", "PARKED", "REASON", "ERROR")
        say_table(headings, [_row(service, letter) for service, letter in found], right=(1,))
    else:
        say("nothing is parked")


@dead_letters.command("show", epilog=examples("history dead-letters show cost 812"))
@click.argument("target", type=TARGET, metavar="SERVICE[/READ-MODEL]")
@click.argument("position", type=click.IntRange(1, 2**63 - 1), metavar="POSITION")
@output_option
def show(target: Target, position: int) -> None:
    """Show one with its event and the error."""
    request = pb.GetDeadLetterRequest(projection=target.projection, position=position)

    async def ask(client: Client) -> pb.GetDeadLetterResponse:
        return await client.projections(target.service).GetDeadLetter(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    letter = answer.dead_letter
    for name, value in (
        ("read model", f"{target.service}/{letter.projection}"),
        ("position", str(letter.position)),
        ("event", f"{letter.type} {letter.event_id}"),
        ("stream", f"{letter.stream}, version {answer.envelope.stream_version}"),
        ("actor", actor(answer.envelope)),
        ("parked", f"{time_words(letter.parked_at)}, {_reason(letter)}"),
        ("error", letter.error),
    ):
        say(safe(f"{name:<11} {value}"))
    say(safe(json.dumps(json.loads(answer.data_json), indent=2) if answer.data_json else "(cannot be read)"))


@dead_letters.command(
    "requeue",
    epilog=examples(
        "history dead-letters requeue cost", "history dead-letters requeue cost --stream run-0198aaaa"
    ),
)
@click.argument("target", type=TARGET, metavar="SERVICE[/READ-MODEL]")
@stream_option
@click.option("--limit", type=click.IntRange(1, 1_000), default=1_000, show_default=True, help="Most events.")
@output_option
def requeue(target: Target, stream: str, limit: int) -> None:
    """Apply parked events again, in order, once the reason is mended.

    A stream stops at its first event that fails again. Where later events were built on the rows that one
    would change, only a rebuild puts it into its place: this says REBUILD_NEEDED and changes nothing.
    Exit code 1 when an event failed again.
    """
    request = pb.RequeueDeadLettersRequest(
        projection=target.projection, stream=stream, limit=limit, request_id=uuid7()
    )

    async def ask(client: Client) -> pb.RequeueDeadLettersResponse:
        return await client.projections(target.service).RequeueDeadLetters(request, timeout=60.0)

    answer = converse(ask)
    if is_json():
        say_json_line(answer)
    else:
        say(f"{count_words(len(answer.requeued), 'event')} applied, {answer.remaining_count:,} still parked")
        for letter in answer.failed:
            say(
                safe(f"  failed again: {letter.type} of {letter.stream} at {letter.position}: {letter.error}")
            )
    if answer.failed:
        raise SystemExit(ExitCode.FAILED)


def _row(service: str, letter: types_pb2.DeadLetter) -> tuple[str | Cell, ...]:
    return (
        f"{service}/{letter.projection}",
        f"{letter.position:,}",
        letter.type.removeprefix("runyard."),
        letter.stream,
        time_words(letter.parked_at),
        Cell(_reason(letter), Style.BAD if "failed" in _reason(letter) else Style.PLAIN),
        letter.error,
    )


def _reason(letter: types_pb2.DeadLetter) -> str:
    name = types_pb2.DeadLetterReason.Name(letter.reason)
    return name.removeprefix("DEAD_LETTER_REASON_").lower().replace("_", " ")
