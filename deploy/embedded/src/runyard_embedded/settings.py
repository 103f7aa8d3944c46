"""What a person may set before ``runyard up``, all from the environment.

RUNYARD_EXTERNAL_DATABASE_URL    any PostgreSQL >= 15; a user that may create roles and schemas in it
RUNYARD_EXTERNAL_NATS_URL        any NATS >= 2.12 with JetStream; its users as in deploy/nats
RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE   JSON, user -> password (relay, metrics, ..., agent-<node>)
RUNYARD_EXTERNAL_S3_ENDPOINT, _REGION, _BUCKET, _ACCESS_KEY, _SECRET_KEY   any S3 store
RUNYARD_EXTERNAL_ARCHIVE_URL     where sealed segments of the log go, when not below log/ in that bucket:
                                 a folder, or s3+https://ACCESS_KEY:SECRET_KEY@host:port/bucket/prefix
RUNYARD_LOG_RESTORED=1           this start follows a restore of the database: set by `up --restored`
RUNYARD_PORT_<PROCESS>           fix the port of a process: RUNYARD_PORT_SCHEDULER=7001
RUNYARD_LOG_LEVEL, RUNYARD_OTLP_ENDPOINT, RUNYARD_SLOT_COUNT, RUNYARD_SEALING_EVENTS_MAX,
RUNYARD_SEALING_AGE_SECONDS_MAX, RUNYARD_SEALING_LOOK_SECONDS   handed on
"""

from __future__ import annotations

import json
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
BUCKET = "artifacts"
REGION = "us-east-1"


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
class YardSettings:
    """What differs from a yard that runs everything itself."""

    database_url: str | None = field(default=None, repr=False)
    nats: ExternalNats | None = None
    store: ExternalStore | None = None
    archive_url: str | None = field(default=None, repr=False)
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
            is_restored=environment.get(LOG_RESTORED) == "1",
            ports={
                name.removeprefix(PORT_PREFIX).lower(): _port(name, value)
                for name, value in environment.items()
                if name.startswith(PORT_PREFIX)
            },
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


def _needed(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable)
    if not value:
        raise InvalidInput(f"{variable} is not set, and an external engine needs it", code="BAD_SETTING")
    return value


def _port(variable: str, value: str) -> int:
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise InvalidInput(f"{variable}={value!r} is not a port (1 to 65535)", code="BAD_SETTING")
    return int(value)
