"""The tokens and passwords of a yard: drawn once, kept in files that only their owner can read."""

from __future__ import annotations

import getpass
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from runyard_client import load_context
from runyard_client.errors import LocalError
from runyard_contracts.token_text import secret_sha256
from runyard_core.errors import Rejected
from runyard_embedded.home import Home, node_id_of_this_machine, write_private
from runyard_embedded.people import Entry, write_own_tokens
from runyard_engines.nats import METRICS, RELAY, SERVICES, agent_user_name
from runyard_eventlog.migrate import ROLES
from runyard_eventlog.personal.yard_key import create_yard_key

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything secret of a yard, and the names that go with it."""

    node_id: str
    client_token: str
    agent_token: str
    service_token: str
    postgres_password: str
    role_passwords: Mapping[str, str]
    """Database role -> password."""
    nats_passwords: Mapping[str, str]
    """NATS user -> password."""
    s3_access_key: str
    s3_secret_key: str


def load_or_create(home: Home) -> Credentials:
    """Read a yard's credentials, or draw them at its first start. Writes the services' tokens and key.

    Raises:
        Rejected: the folder is somebody's who entered another yard (ENTERED_ANOTHER_YARD), or a yard's that
            was put back without its secrets (CREDENTIALS_MISSING, YARD_KEY_MISSING).
    """
    try:
        credentials = Credentials(**json.loads(home.credentials_file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        _require_no_other_yard(home)
        if (home.data / "postgres").exists():
            raise _missing(home.credentials_file, "CREDENTIALS_MISSING", "opens the database here") from None
        # First, so that who has credentials has had a key.
        create_yard_key(home.yard_key_file)
        credentials = _draw()
        write_private(home.credentials_file, asdict(credentials))
    if not home.yard_key_file.exists():
        raise _missing(home.yard_key_file, "YARD_KEY_MISSING", "opens the names and secrets of this yard")
    write_own_tokens(home, _tokens(credentials))
    return credentials


def _missing(path: Path, code: str, what: str) -> Rejected:
    return Rejected(f"{path} is missing, and no other {what}: put it back from a backup", code=code)


def _require_no_other_yard(home: Home) -> None:
    try:
        context = load_context(home.folder)
    except LocalError:
        return
    if context.authority_pem:
        raise Rejected(
            f"{home.folder} knows the yard at {context.addresses['scheduler']}, and its token would be lost: "
            "choose another RUNYARD_HOME for a yard here, or remove context.json",
            code="ENTERED_ANOTHER_YARD",
        )


def _draw() -> Credentials:
    node_id = node_id_of_this_machine()
    return Credentials(
        node_id=node_id,
        client_token=secrets.token_urlsafe(TOKEN_BYTES),
        agent_token=secrets.token_urlsafe(TOKEN_BYTES),
        service_token=secrets.token_urlsafe(TOKEN_BYTES),
        postgres_password=secrets.token_urlsafe(TOKEN_BYTES),
        role_passwords={role: secrets.token_urlsafe(TOKEN_BYTES) for role in ROLES},
        nats_passwords={
            user: secrets.token_urlsafe(TOKEN_BYTES)
            for user in (RELAY, METRICS, *SERVICES, agent_user_name(node_id))
        },
        s3_access_key=secrets.token_hex(10),
        s3_secret_key=secrets.token_urlsafe(TOKEN_BYTES),
    )


def _tokens(credentials: Credentials) -> list[Entry]:
    holders = (
        (credentials.client_token, f"user:{_login_name()}", "client"),
        (credentials.agent_token, f"agent:{credentials.node_id}", "agent"),
        (credentials.service_token, "service:yard", "service"),
    )
    return [
        {"sha256": secret_sha256(token), "actor": actor, "roles": [role]} for token, actor, role in holders
    ]


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return "owner"
