"""``runyard people``: who else may use the yard of this machine."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from ssl import PEM_cert_to_DER_cert

import click

from runyard.access.v1.access_token_pb2 import AccessToken
from runyard_cli.durations import Duration
from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode, fail
from runyard_cli.output import Style, is_json, note, output_option, safe, say, say_json_object
from runyard_cli.table import Cell, say_table
from runyard_contracts.access_token import format_access_token
from runyard_contracts.token_text import is_address
from runyard_core.errors import InvalidInput, NotFound
from runyard_embedded import people
from runyard_embedded.home import Home
from runyard_embedded.people import PersonToken
from runyard_embedded.sightings import read_sightings


@click.group(
    "people",
    epilog=examples("people", "people invite alice", "people revoke alice"),
    invoke_without_command=True,
)
@output_option
@click.pass_context
def command(context: click.Context) -> None:
    """Persons with a token for the yard of this machine: `invite` gives one, `revoke` takes it away."""
    if context.invoked_subcommand is not None:
        return
    found = people.tokens_of_people(_home())
    if is_json():
        say_json_object({"tokens": [_shown(each) for each in found]})
    elif not found:
        say("nobody yet: `runyard people invite NAME` lets somebody in")
    else:
        now = datetime.now(UTC)
        rows = [(each.person, each.id, _local(each.invited_at), _state(each, now)) for each in found]
        say_table(("PERSON", "TOKEN", "INVITED", "STATE"), rows)


@command.command(
    "invite",
    epilog=examples(
        "people invite alice > token", "people invite build-server --valid 365d --server yard.example:7443"
    ),
)
@click.argument("person")
@click.option(
    "--valid", type=Duration(), default="90d", show_default=True, metavar="TIME", help="8h, 30d, 365d."
)
@click.option("--server", metavar="HOST:PORT", default="", help="How they reach this yard, if otherwise.")
@output_option
def invite(person: str, valid: int, server: str) -> None:
    """Make a token with which PERSON, or a program of theirs, uses this yard from elsewhere.

    The token is printed and kept nowhere: only its hash is. A person may have several.
    """
    home = _home()
    address, authority_sha256 = _gate(home)
    if server and not is_address(server):
        raise click.BadParameter(f"{server!r}: want HOST:PORT", param_hint="--server")
    now = datetime.now(UTC)
    expires_at = now + timedelta(seconds=valid)
    try:
        secret = people.invite(home, person, now, expires_at)
    except InvalidInput as error:
        fail(ExitCode.USAGE, error.code, error.message)
    token = AccessToken(address=server or address, certificate_sha256=authority_sha256, secret=secret)
    text = format_access_token(token)
    if is_json():
        say_json_object({"token": text, "address": token.address, "expires_at": expires_at.isoformat()})
        return
    until = f"{expires_at.astimezone():%Y-%m-%d %H:%M:%S}"
    note(
        f"For {person}, until {until}. `runyard context enter` asks for it; programs get it as RUNYARD_TOKEN."
    )
    say(text)


@command.command(
    "revoke",
    epilog=examples(
        "people revoke alice", "people revoke alice --token 5a1c189e", "people revoke alice --forget"
    ),
)
@click.argument("person")
@click.option("--token", "token_id", default="", metavar="ID", help="One token of `runyard people`, not all.")
@click.option("--forget", is_flag=True, help="Forget that there was one, too.")
@output_option
def revoke(person: str, token_id: str, forget: bool) -> None:
    """Take the tokens of PERSON away: the next call with one is refused, and what is open ends.

    Runs that PERSON submitted go on.
    """
    try:
        count = people.revoke(_home(), person, datetime.now(UTC), token_id=token_id, forget=forget)
    except NotFound as error:
        fail(ExitCode.REFUSED, error.code, error.message, "`runyard people` lists them.")
    if is_json():
        say_json_object({"person": person, "revoked_count": count})
    else:
        done = "forgotten" if forget else "revoked"
        say(safe(f"{person}: {count} good token{'s' * (count != 1)} {done}"))


def _home() -> Home:
    home = Home.from_environment()
    if not home.credentials_file.exists():
        fail(
            ExitCode.UNREACHABLE,
            "NO_YARD_HERE",
            f"no yard was ever started under {home.folder}",
            "Tokens are made on the machine of the yard, by whoever runs it: see RUNYARD_HOME.",
        )
    return home


def _gate(home: Home) -> tuple[str, bytes]:
    """Give the gate's address and the SHA-256 of its authority."""
    try:
        address = read_sightings(home).gate_address
        authority = PEM_cert_to_DER_cert(home.gate_authority_file.read_text(encoding="ascii"))
    except FileNotFoundError:
        address = ""
    if not address:
        fail(
            ExitCode.REFUSED,
            "NO_GATE",
            "the yard listens on loopback only, where nobody else can come in",
            "Start it with `runyard up --listen ADDRESS`.",
        )
    return address, hashlib.sha256(authority).digest()


def _shown(token: PersonToken) -> dict[str, object]:
    shown = asdict(token)
    return {"id": token.id, "person": token.person, **{name: shown[name] for name in _TIMES}}


_TIMES = ("invited_at", "expires_at", "revoked_at")


def _state(token: PersonToken, now: datetime) -> Cell | str:
    if token.revoked_at:
        return Cell(f"revoked {_local(token.revoked_at)}", Style.FAINT)
    if not token.is_good(now):
        return Cell(f"expired {_local(token.expires_at)}", Style.FAINT)
    return Cell(f"good until {_local(token.expires_at)}", Style.GOOD)


def _local(time: str) -> str:
    return f"{datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"
