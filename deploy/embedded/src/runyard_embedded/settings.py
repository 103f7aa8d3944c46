"""What a person may set before ``runyard up``, all from the environment.

RUNYARD_EXTERNAL_DATABASE_URL    any PostgreSQL >= 15; a user that may create roles and schemas in it
RUNYARD_EXTERNAL_NATS_URL        any NATS >= 2.12 with JetStream; its users as in deploy/nats
RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE   JSON, user -> password (relay, metrics, ..., agent-<node>)
RUNYARD_EXTERNAL_S3_ENDPOINT, _REGION, _BUCKET, _ACCESS_KEY, _SECRET_KEY   any S3 store
RUNYARD_EXTERNAL_ARCHIVE_URL     where sealed segments of the log go, when not below log/ in that bucket:
                                 a folder, or s3+https://ACCESS_KEY:SECRET_KEY@host:port/bucket/prefix
RUNYARD_GATE_LISTEN              ADDRESS or ADDRESS:PORT at which other machines reach the yard: `up --listen`
RUNYARD_GATE_ADDRESS             the same as they name it, when that differs: HOST or HOST:PORT
RUNYARD_LOG_RESTORED=1           this start follows a restore of the database: set by `up --restored`
RUNYARD_PORT_<PROCESS>           fix the port of a process: RUNYARD_PORT_SCHEDULER=7001
RUNYARD_LOG_LEVEL, RUNYARD_OTLP_ENDPOINT, RUNYARD_SLOT_COUNT, RUNYARD_SEALING_EVENTS_MAX,
RUNYARD_SEALING_AGE_SECONDS_MAX, RUNYARD_SEALING_LOOK_SECONDS   handed on
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_core.errors import InvalidInput

HANDED_ON = (
    "RUNYARD_LOG_LEVEL",
    "RUNYARD_OTLP_ENDPOINT",
    "RUNYARD_SLOT_COUNT",
    "RUNYARD_SEALING_EVENTS_MAX",
    "RUNYARD_SEALING_AGE_SECONDS_MAX",
    "RUNYARD_SEALING_LOOK_SECONDS",
)
PORT_PREFIX = "RUNYARD_PORT_"
EXTERNAL_PREFIX = "RUNYARD_EXTERNAL_"
LOG_RESTORED = "RUNYARD_LOG_RESTORED"
GATE_LISTEN = "RUNYARD_GATE_LISTEN"
GATE_ADDRESS = "RUNYARD_GATE_ADDRESS"
BUCKET = "artifacts"
REGION = "us-east-1"
EVERY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - a person asked for it


@dataclass(frozen=True, slots=True)
class ExternalStore:
    """An S3 store that somebody else runs."""

    endpoint: str
    region: str
    bucket: str
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ExternalNats:
    """A NATS that somebody else runs."""

    url: str
    passwords: Mapping[str, str] = field(repr=False)
    """User -> password."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Where other machines reach the yard."""

    listen: str
    """Address of this machine, without a port."""
    known_as: str = ""
    """What other machines call it, with or without a port; empty means the address."""
    known_port: int | None = None

    def address(self, port: int) -> str:
        """Give host:port for other machines; ``port`` is where the gate listens."""
        host = self.known_as or (_own_address() if self.listen in EVERY_ADDRESS else self.listen)
        return f"{_bracketed(host)}:{self.known_port or port}"


@dataclass(frozen=True, slots=True)
class YardSettings:
    """What differs from a yard that runs everything itself."""

    database_url: str | None = field(default=None, repr=False)
    nats: ExternalNats | None = None
    store: ExternalStore | None = None
    archive_url: str | None = field(default=None, repr=False)
    gate: GateSettings | None = None
    """None: everything listens on loopback, and no other machine can be a node."""
    is_restored: bool = False
    """The database was put back to an earlier time: the log needs a new identity."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Process name -> port that it must have."""
    handed_on: Mapping[str, str] = field(default_factory=dict)
    """Environment of every service and the agent."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> YardSettings:
        """Read the settings.

        Raises:
            InvalidInput: one is missing or malformed; names the variable.
        """
        return cls(
            database_url=environment.get(f"{EXTERNAL_PREFIX}DATABASE_URL") or None,
            nats=_nats(environment),
            store=_store(environment),
            archive_url=environment.get(f"{EXTERNAL_PREFIX}ARCHIVE_URL") or None,
            gate=_gate(environment),
            is_restored=environment.get(LOG_RESTORED) == "1",
            ports=_ports(environment),
            handed_on={name: environment[name] for name in HANDED_ON if name in environment},
        )


def forget_secrets(environment: MutableMapping[str, str]) -> None:
    """Take the credentials of external engines out of the environment, which every child would inherit."""
    for name in [name for name in environment if name.startswith(EXTERNAL_PREFIX)]:
        del environment[name]


def _nats(environment: Mapping[str, str]) -> ExternalNats | None:
    url = environment.get(f"{EXTERNAL_PREFIX}NATS_URL")
    if not url:
        return None
    variable = f"{EXTERNAL_PREFIX}NATS_PASSWORDS_FILE"
    try:
        passwords = json.loads(Path(_needed(environment, variable)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{variable} cannot be read as JSON: {error}", code="BAD_SETTING") from None
    return ExternalNats(url, {str(user): str(password) for user, password in passwords.items()})


def _store(environment: Mapping[str, str]) -> ExternalStore | None:
    endpoint = environment.get(f"{EXTERNAL_PREFIX}S3_ENDPOINT")
    if not endpoint:
        return None
    return ExternalStore(
        endpoint=endpoint,
        region=environment.get(f"{EXTERNAL_PREFIX}S3_REGION", REGION),
        bucket=environment.get(f"{EXTERNAL_PREFIX}S3_BUCKET", BUCKET),
        access_key=_needed(environment, f"{EXTERNAL_PREFIX}S3_ACCESS_KEY"),
        secret_key=_needed(environment, f"{EXTERNAL_PREFIX}S3_SECRET_KEY"),
    )


def _gate(environment: Mapping[str, str]) -> GateSettings | None:
    listen = environment.get(GATE_LISTEN)
    if not listen:
        return None
    host, _ = _host_and_port(GATE_LISTEN, listen)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise InvalidInput(
            f"{GATE_LISTEN} is {listen!r}; want an address of this machine, or 0.0.0.0 for all of them",
            code="BAD_SETTING",
        ) from None
    known_as, known_port = _host_and_port(GATE_ADDRESS, environment.get(GATE_ADDRESS, ""))
    return GateSettings(host, known_as, known_port)


def _ports(environment: Mapping[str, str]) -> dict[str, int]:
    ports = {
        name.removeprefix(PORT_PREFIX).lower(): _port(name, value)
        for name, value in environment.items()
        if name.startswith(PORT_PREFIX)
    }
    _, gate_port = _host_and_port(GATE_LISTEN, environment.get(GATE_LISTEN, ""))
    return ports if gate_port is None else {**ports, "gate": gate_port}


def _host_and_port(variable: str, text: str) -> tuple[str, int | None]:
    """Take "10.0.0.5", "10.0.0.5:7443", "[fe80::1]:7443" or "fe80::1" apart."""
    host, separator, port = text.rpartition(":")
    if not separator or (":" in host.strip("[]") and not host.startswith("[")):
        return text.strip("[]"), None
    return host.strip("[]"), _port(variable, port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _own_address() -> str:
    """Give the address of this machine from which others are reached; asks nobody, and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # set aside for documentation: no machine has it
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _needed(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable)
    if not value:
        raise InvalidInput(f"{variable} is not set, and an external engine needs it", code="BAD_SETTING")
    return value


def _port(variable: str, value: str) -> int:
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise InvalidInput(f"{variable}={value!r} is not a port (1 to 65535)", code="BAD_SETTING")
    return int(value)
