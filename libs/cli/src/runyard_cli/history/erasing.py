"""``history erase``: a person's name out of everything that was ever recorded."""

from __future__ import annotations

import shlex

import click

from runyard.history.v1 import history_service_pb2 as pb
from runyard_cli.asking import ask_first
from runyard_cli.examples import examples
from runyard_cli.output import is_json, output_option, safe, say, say_json
from runyard_cli.session import converse
from runyard_client import Client
from runyard_contracts.ids import uuid7


@click.command(
    "erase",
    epilog=examples(
        "history erase user:alice",
        "history erase alice@example.com --yes",
    ),
)
@click.argument("person")
@click.option("--yes", is_flag=True, help="Do not ask; it cannot be undone.")
@output_option
def erase(person: str, yes: bool) -> None:
    """Shred the key of PERSON ("user:alice", or a mail address): the name reads [erased] from then on.

    The log stays as it is, every hash of it too; nobody can open the name any more, here or in a copy.
    Take away the person's token first: its next use would begin a new key. After a restore of the database
    name again who was erased before, as ~ID where the name is not known any more.
    """
    if not yes:
        same = shlex.join(("runyard", "history", "erase", person, "--yes"))
        ask_first(
            f"Erase {safe(person)} for ever?",
            reason="NOT_CONFIRMED",
            message=f"{person} would be erased for ever, and there is no terminal to ask on",
            advice=f"`{same}` does it without asking.",
        )
    request = pb.ErasePersonRequest(request_id=uuid7(), person=person)

    async def ask(client: Client) -> pb.ErasePersonResponse:
        return await client.history.ErasePerson(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    elif answer.person_id:
        say(f"erased; ~{answer.person_id} stands for the person in the log (event {answer.position} says so)")
    else:
        say("nothing is recorded under this name, or no more")
