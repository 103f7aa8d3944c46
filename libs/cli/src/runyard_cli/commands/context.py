"""``runyard context``: which yard this machine talks to."""

from __future__ import annotations

import sys

import click

from runyard_cli.output import is_json, output_option, say, say_json_object
from runyard_cli.table import say_table
from runyard_client.context import SERVICES, Context, load_context, runyard_home, save_context


@click.group("context", invoke_without_command=True)
@output_option
@click.pass_context
def command(context: click.Context) -> None:
    """Show the yard that commands talk to. The token itself is never shown."""
    if context.invoked_subcommand is not None:
        return
    known = load_context()
    path = str(runyard_home() / "context.json")
    if is_json():
        say_json_object({"path": path, "addresses": dict(known.addresses)})
        return
    say(path)
    say_table(("SERVICE", "ADDRESS"), list(known.addresses.items()))


@command.command("set")
@click.argument("addresses", nargs=-1, metavar="[ADDRESS | SERVICE=ADDRESS ...]", required=True)
@output_option
def set_context(addresses: tuple[str, ...]) -> None:
    """Talk to another yard: one HOST:PORT for all services, or SERVICE=HOST:PORT for each.

    The token is read from standard input, so that it is in no command line.
    """
    chosen: dict[str, str] = {}
    for text in addresses:
        service, separator, address = text.partition("=")
        if not separator:
            chosen.update({name: _checked(text) for name in SERVICES})
        elif service in SERVICES:
            chosen[service] = _checked(address)
        else:
            raise click.BadParameter(f"{service!r} is no service: want one of {', '.join(SERVICES)}")
    missing = [name for name in SERVICES if name not in chosen]
    if missing:
        raise click.BadParameter(f"no address for {', '.join(missing)}")
    token = _read_token()
    path = save_context(Context(addresses=chosen, token=token))
    if is_json():
        say_json_object({"path": str(path), "addresses": chosen})
    else:
        say(str(path))


def _checked(address: str) -> str:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit():
        raise click.BadParameter(f"{address!r}: want HOST:PORT")
    return address


def _read_token() -> str:
    typed = sys.stdin.isatty()
    text = click.prompt("Token", hide_input=True, err=True) if typed else sys.stdin.readline()
    token = str(text).strip()
    if not token:
        raise click.UsageError("no token: give it on standard input (runyard context set ADDRESS < token)")
    return token
