"""``runyard nodes invite`` and ``runyard nodes revoke``: who may be a node of the yard."""

from __future__ import annotations

import secrets

import click

from runyard.node.v1 import enrolment_service_pb2 as pb
from runyard_cli.durations import Duration
from runyard_cli.examples import examples
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json, styled
from runyard_cli.session import converse
from runyard_cli.words import time_words
from runyard_client import Client
from runyard_contracts.ids import uuid7
from runyard_contracts.token_text import SECRET_BYTES
from runyard_core.counted import count_words


@click.command(
    "invite",
    epilog=examples("nodes invite gpu-1", "nodes invite gpu-1 --valid 7d --server yard.example:7443"),
)
@click.argument("node")
@click.option(
    "--valid",
    type=Duration(),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="30m, 1h, 7d: at most 30d.",
)
@click.option(
    "--server", metavar="HOST:PORT", default="", help="How that machine reaches this yard, if otherwise."
)
@output_option
def invite(node: str, valid: int, server: str) -> None:
    """Make a token with which one machine becomes NODE, once.

    The token is printed and kept nowhere: only its hash is. An earlier one for NODE is void.
    """
    request = pb.InviteNodeRequest(
        request_id=uuid7(),
        node_id=node,
        token_secret=secrets.token_urlsafe(SECRET_BYTES),
        valid_seconds=valid,
        address=server,
    )

    async def ask(client: Client) -> pb.InviteNodeResponse:
        return await client.enrolment.InviteNode(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    note(f"On the machine, before {time_words(answer.expires_at)}:")
    say(styled(f"runyard-agent enroll --server {answer.address} --token {answer.token}", Style.BOLD))


@click.command("revoke", epilog=examples("nodes revoke gpu-1 --reason sold"))
@click.argument("node")
@click.option("--reason", default="", help="Goes into the history.")
@output_option
def revoke(node: str, reason: str) -> None:
    """Take the credential of NODE away: its agent is cut off at once, and no token for it is good any more.

    Its runs end as those of a lost machine do. What was recorded of it stays.
    """
    request = pb.RevokeNodeRequest(request_id=uuid7(), node_id=node, reason=reason)

    async def ask(client: Client) -> pb.RevokeNodeResponse:
        return await client.enrolment.RevokeNode(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
        return
    held = len(answer.node.reservations)
    attempts = f"; {count_words(held, 'attempt')} of it will be given up" if held else ""
    say(safe(f"{node} is revoked{attempts}"))
