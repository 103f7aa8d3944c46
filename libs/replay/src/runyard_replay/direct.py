"""Opens the log of a yard read-only and without any of its services: for when they are down."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import asyncpg

from runyard_core.errors import Rejected, Unavailable
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.collector import set_collector
from runyard_eventlog.connections import AWAY, kept_open, leave_as_it_is
from runyard_eventlog.personal.edge import PersonalEdge, edge_of_service
from runyard_eventlog.port import EventLog
from runyard_eventlog.postgres import READ_SECONDS_MAX

DATABASE_URL_VARIABLE = "RUNYARD_READER_DATABASE_URL"
"""Names a database that is not the embedded one: postgresql://runyard_reader:...@host:port/database."""
ARCHIVE_URL_VARIABLE = "RUNYARD_ARCHIVE_URL"
"""Names the archive of that log's sealed segments, as ``archive_store.open_store`` takes it."""
ADMIN_URL_VARIABLE = "RUNYARD_ADMIN_DATABASE_URL"
"""Names the database for an administrator, who alone may detach partitions."""
KEY_FILE_VARIABLE = "RUNYARD_YARD_KEY_FILE"
"""Names the key file of a yard that is not the embedded one."""
KEY_FILE = "yard.key"
ROLE = "runyard_reader"
_DATABASE = "runyard"


def reader_database_url(home: Path, environment: Mapping[str, str]) -> str:
    """Give the address of a yard's log for its read-only role.

    Raises:
        Rejected: this machine does not know one (LOG_UNKNOWN).
    """
    named = environment.get(DATABASE_URL_VARIABLE, "")
    if named:
        return named
    try:
        password = json.loads((home / "credentials.json").read_bytes())["role_passwords"][ROLE]
        port = int(json.loads((home / "ports.json").read_bytes())["postgres"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(
            f"the services do not answer, and {home} is not the home of a yard on this machine ({error!r}): "
            f"set {DATABASE_URL_VARIABLE} to read another yard's log",
            code="LOG_UNKNOWN",
        ) from None
    return f"postgresql://{ROLE}:{quote(password, safe='')}@127.0.0.1:{port}/{_DATABASE}"


def archive_url(home: Path, environment: Mapping[str, str]) -> str:
    """Give the address of the archive of a yard's log; "" when this machine does not know one."""
    return environment.get(ARCHIVE_URL_VARIABLE, "") or _sighted(home, "archive_url")


def admin_database_url(home: Path, environment: Mapping[str, str]) -> str:
    """Give the address of a yard's log for an administrator.

    Raises:
        Rejected: this machine does not know one (LOG_UNKNOWN).
    """
    url = environment.get(ADMIN_URL_VARIABLE, "") or _sighted(home, "admin_database_url")
    if not url:
        raise Rejected(
            f"{home} is not the home of a yard on this machine: set {ADMIN_URL_VARIABLE}", code="LOG_UNKNOWN"
        )
    return url


def _sighted(home: Path, name: str) -> str:
    """Look up what the yard's supervisor wrote down at its last start."""
    try:
        return str(json.loads((home / "sightings.json").read_bytes())[name])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@asynccontextmanager
async def open_pool(database_url: str, *, is_read_only: bool = True) -> AsyncIterator[asyncpg.Pool]:
    """Open connections to a log while the block runs; read-only ones refuse every write, whoever the role is.

    Raises:
        Unavailable: the database does not answer, or does not let this role in (LOG_UNREACHABLE).
    """
    try:
        pool = await asyncpg.create_pool(
            database_url,
            min_size=1,
            max_size=4,
            timeout=10.0,
            command_timeout=READ_SECONDS_MAX,
            server_settings={"default_transaction_read_only": "on" if is_read_only else "off"},
            reset=leave_as_it_is,
        )
    except (*AWAY, asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise Unavailable(
            f"the log's database does not answer either: {error}; `runyard up` starts it",
            code="LOG_UNREACHABLE",
        ) from error
    async with kept_open(pool):
        yield pool


@asynccontextmanager
async def open_log(database_url: str, archive: str = "") -> AsyncIterator[EventLog]:
    """Open a log for reading while the block runs.

    Args:
        database_url: for any role that may read.
        archive: address of its archive; without it reads of detached partitions are refused.

    Raises:
        InvalidInput: the archive's address is none.
        Unavailable: the database does not answer, or does not let this role in (LOG_UNREACHABLE).
    """
    # Looking through all modules for garbage takes longer than most questions.
    set_collector()
    async with open_pool(database_url) as pool, open_event_log(pool, archive) as event_log:
        yield event_log


@asynccontextmanager
async def open_edge(
    database_url: str, home: Path, environment: Mapping[str, str]
) -> AsyncIterator[PersonalEdge]:
    """Give what opens names in answers made here; with no key file on this machine they stay sealed.

    Raises:
        InvalidInput: there is a key file that cannot be used.
    """
    named = environment.get(KEY_FILE_VARIABLE, "")
    key_file = Path(named) if named else home / KEY_FILE
    if not named and not key_file.exists():
        yield PersonalEdge(None)
        return
    async with kept_open(asyncpg.create_pool(database_url, min_size=0, max_size=1, timeout=10.0)) as pool:
        yield edge_of_service(pool, key_file) or PersonalEdge(None)
