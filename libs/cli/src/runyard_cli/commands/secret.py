"""``runyard secret``: the secrets of a project. A value goes in and never comes out again."""

from __future__ import annotations

import sys

import click

from runyard.run.v1 import secret_service_pb2 as pb
from runyard_cli.examples import examples
from runyard_cli.names import default_project, project_option
from runyard_cli.output import is_json, output_option, safe, say, say_json
from runyard_cli.session import converse
from runyard_cli.table import say_table
from runyard_cli.words import time_words
from runyard_client import Client
from runyard_contracts.ids import uuid7

_VALUE_BYTES_MAX = 64 * 1024


@click.group("secret", epilog=examples("secret set HF_TOKEN", "secret list"))
def command() -> None:
    """Secrets of a project: its runs get them as environment variables, and logs show *** instead."""


@command.command(
    "set",
    epilog=examples(
        "secret set HF_TOKEN", "secret set HF_TOKEN --project digits < token", "secret set registry:ghcr.io"
    ),
)
@click.argument("name")
@project_option
@output_option
def set_secret(name: str, project: str | None) -> None:
    """Keep the secret NAME: asked for at a terminal, otherwise read from standard input.

    Runs that start from now on get it. Of what is read a line end at its end is left out.

    The name registry:HOST keeps a login for the images of a registry, as user:password: nodes pull with it,
    and programs do not get it.
    """
    request = pb.SetSecretRequest(
        request_id=uuid7(), project=default_project(project), name=name, value=_read_value(name)
    )

    async def ask(client: Client) -> pb.SetSecretResponse:
        return await client.secrets.SetSecret(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say(safe(f"{answer.secret.name} is set for runs of {answer.secret.project} that start from now on"))


@command.command("list", epilog=examples("secret list", "secret list --project digits"))
@project_option
@output_option
def list_secrets(project: str | None) -> None:
    """Name the secrets of the project."""
    named = default_project(project)

    async def ask(client: Client) -> pb.ListSecretsResponse:
        return await client.secrets.ListSecrets(pb.ListSecretsRequest(project=named))

    answer = converse(ask)
    if is_json():
        say_json(answer)
    elif not answer.secrets:
        say(f"no secrets in {named}: `runyard secret set NAME` keeps one")
    else:
        rows = [(each.name, time_words(each.changed_at), each.changed_by) for each in answer.secrets]
        say_table(("NAME", "SET", "BY"), rows)


@command.command("rm", epilog=examples("secret rm HF_TOKEN"))
@click.argument("name")
@project_option
@output_option
def remove_secret(name: str, project: str | None) -> None:
    """Forget the secret NAME; attempts that have it keep it to their end."""
    request = pb.RemoveSecretRequest(request_id=uuid7(), project=default_project(project), name=name)

    async def ask(client: Client) -> pb.RemoveSecretResponse:
        return await client.secrets.RemoveSecret(request)

    answer = converse(ask)
    if is_json():
        say_json(answer)
    else:
        say(safe(f"{name} is forgotten" if answer.removed else f"{request.project} has no secret {name}"))


def _read_value(name: str) -> str:
    # Never from the command line: other users of this machine can read that.
    if sys.stdin.isatty():
        value: str = click.prompt(f"Value of {safe(name)}", hide_input=True, err=True)
        return value
    try:
        value = sys.stdin.buffer.read(_VALUE_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise click.UsageError("the value is not UTF-8 text; encode it, for example with base64") from None
    return value.removesuffix("\n").removesuffix("\r")
