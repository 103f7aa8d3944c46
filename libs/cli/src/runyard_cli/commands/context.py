"""``runyard context``: which yard this machine talks to."""

from __future__ import annotations

import os
import sys

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.output import is_json, note, output_option, say, say_json_object
from runyard_cli.session import converse_with
from runyard_cli.table import say_table
from runyard_client import Client
from runyard_client.context import (
    SERVICES,
    TOKEN_VARIABLE,
    Context,
    load_context,
    runyard_home,
    save_context,
)


@click.group(
    "context",
    epilog=examples("context", "context enter", "context set 127.0.0.1:7001"),
    invoke_without_command=True,
)
@output_option
@click.pass_context
def command(context: click.Context) -> None:
    """Show the yard that commands talk to. The token itself is never shown."""
    if context.invoked_subcommand is not None:
        return
    known = load_context()
    path = TOKEN_VARIABLE if os.environ.get(TOKEN_VARIABLE) else str(runyard_home() / "context.json")
    if is_json():
        shown = {"path": path, "addresses": dict(known.addresses)}
        if known.authority_pem:
            shown["authority_sha256"] = _fingerprint(known)
        say_json_object(shown)
        return
    say(path)
    say_table(("SERVICE", "ADDRESS"), list(known.addresses.items()))
    if known.authority_pem:
        say(f"by TLS, signed by the authority with SHA-256 {_fingerprint(known)}")


@command.command(
    "enter", epilog=examples("context enter", "context enter --server yard.example:7443 < token")
)
@click.option("--server", metavar="HOST:PORT", default="", help="The yard's gate, if not as the token says.")
@output_option
def enter_yard(server: str) -> None:
    """Talk to a yard on another machine, with a token of `runyard people invite`.

    The token is read from standard input, so that it is in no command line. Programs that have no file for
    it set RUNYARD_TOKEN instead.
    """
    from runyard_client.entering import enter

    _require_no_yard_here()
    entered = enter(_read_token("runyard context enter"), server)
    # A token that the yard does not take must not replace one that it does.
    converse_with(entered, _ask_anything)
    path = save_context(entered)
    if is_json():
        say_json_object({"path": str(path), "addresses": dict(entered.addresses)})
    else:
        say(f"{path}: the yard at {entered.addresses['scheduler']}")


@command.command(
    "set",
    epilog=examples(
        "context set yard.example:7001", "context set scheduler=127.0.0.1:7001 artifact=127.0.0.1:7002"
    ),
)
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
    token = _read_token("runyard context set ADDRESS")
    elsewhere = sorted({address for address in chosen.values() if not _is_loopback(address)})
    if elsewhere:
        note(f"without TLS: {', '.join(elsewhere)}; `runyard context enter` goes through a yard's gate")
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


def _is_loopback(address: str) -> bool:
    from runyard_contracts.pinned_gate import host_and_port, is_loopback

    return is_loopback(host_and_port(address)[0])


def _fingerprint(context: Context) -> str:
    import hashlib
    import ssl

    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(context.authority_pem)).hexdigest()


async def _ask_anything(client: Client) -> None:
    from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest

    await client.scheduler.ListRuns(ListRunsRequest(page_size=1))


def _require_no_yard_here() -> None:
    """Refuse where `runyard up` made a yard, whose own context would be lost."""
    if (runyard_home() / "credentials.json").exists():
        fail(
            ExitCode.REFUSED,
            "YARD_OF_ITS_OWN",
            f"{runyard_home()} holds a yard of its own",
            "Choose another folder: RUNYARD_HOME=~/.runyard-elsewhere runyard context enter",
        )


def _read_token(command_line: str) -> str:
    typed = sys.stdin.isatty()
    text = click.prompt("Token", hide_input=True, err=True) if typed else sys.stdin.readline()
    token = str(text).strip()
    if not token:
        raise click.UsageError(f"no token: give it on standard input ({command_line} < token)")
    return token
