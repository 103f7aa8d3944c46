"""Brings the database to the newest form: roles, the schema ``log``, and one schema for each service.

``python -m runyard_eventlog.migrate`` with RUNYARD_ADMIN_DATABASE_URL and RUNYARD_ROLE_PASSWORDS_FILE (JSON,
role -> password). May run at any time and any number of times, also beside running services.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.connections import CLOSE_SECONDS_MAX

NEWEST_REVISION = "0004"
"""Last revision in ``migrations/versions``; known here so that a warm run need not load Alembic."""

SERVICE_ROLES: Mapping[str, str] = {
    "runyard_scheduler": "scheduler",
    "runyard_artifact": "artifact",
    "runyard_metrics": "metrics",
    "runyard_cost": "cost",
    "runyard_lineage": "lineage",
}
"""Role of each service -> the schema of read models that it owns."""

ROLES = (*SERVICE_ROLES, "runyard_relay", "runyard_reader")
"""Every role that logs in."""

_OWNER = "runyard_log_owner"
# Any two numbers that nobody else uses: one migration of a database at a time.
_MIGRATION_LOCK = 0x52554E59
_BACKOFF = Backoff(first_seconds=0.05, seconds_max=0.5, tries_max=10)

_log = logging.getLogger(__name__)


async def migrate(admin_url: str, role_passwords: Mapping[str, str]) -> None:
    """Bring a database to the newest form.

    Args:
        admin_url: a superuser, or a role that may create roles and schemas in the database.
        role_passwords: role -> password for each of ``ROLES``; roles left out keep theirs.
    """
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute("select pg_advisory_lock($1)", _MIGRATION_LOCK)
        if await _revision(connection) != NEWEST_REVISION:
            await _create_roles(connection)
            await _create_schemas(connection)
            await _upgrade(admin_url)
        await _set_passwords(connection, role_passwords)
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)


async def _revision(connection: asyncpg.Connection) -> str | None:
    if await connection.fetchval("select to_regclass('log.revision')") is None:
        return None
    found: str | None = await connection.fetchval("select version_num from log.revision")
    return found


async def _create_roles(connection: asyncpg.Connection) -> None:
    # Roles belong to the whole cluster, so another database's migration may be making them too.
    for role in (_OWNER, *ROLES):
        login = "nologin" if role == _OWNER else "login"
        await connection.execute(
            f"do $$ begin create role {role} {login}; "
            "exception when duplicate_object or unique_violation then null; end $$"
        )
    await _as_often_as_needed(connection, f"grant {_OWNER} to current_user")
    settings = {
        # Whoever stalls inside a transaction may hold the log's lock.
        "idle_in_transaction_session_timeout": "30s",
        "lock_timeout": "10s",
        "statement_timeout": "120s",
    }
    for role in ROLES:
        for name, value in settings.items():
            await _as_often_as_needed(connection, f"alter role {role} set {name} = '{value}'")
        if role == "runyard_reader":
            await _as_often_as_needed(connection, f"alter role {role} set default_transaction_read_only = on")


async def _create_schemas(connection: asyncpg.Connection) -> None:
    database = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"revoke all on database {database} from public")
    await connection.execute(f"grant connect, temporary on database {database} to {', '.join(ROLES)}")
    await connection.execute(f"create schema if not exists log authorization {_OWNER}")
    for role, schema in SERVICE_ROLES.items():
        await _as_often_as_needed(connection, f"grant {role} to current_user")
        await connection.execute(f"create schema if not exists {schema} authorization {role}")
        await connection.execute(f"grant usage on schema {schema} to runyard_reader")
        await connection.execute(
            f"alter default privileges for role {role} in schema {schema} "
            "grant select on tables to runyard_reader"
        )


async def _upgrade(admin_url: str) -> None:
    # Alembic and SQLAlchemy take a quarter of a second to load, and a warm start needs neither.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))

    def run(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(admin_url)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


async def _set_passwords(connection: asyncpg.Connection, role_passwords: Mapping[str, str]) -> None:
    for role, password in role_passwords.items():
        if role not in ROLES:
            raise ValueError(f"no such role: {role!r}, want one of {', '.join(ROLES)}")
        quoted = await connection.fetchval("select quote_literal($1::text)", password)
        await _as_often_as_needed(connection, f"alter role {role} password {quoted}")


async def _as_often_as_needed(connection: asyncpg.Connection, statement: str) -> None:
    """Run a statement on roles again when another database's migration changed the same role meanwhile."""
    retries = Retries("changing roles", _BACKOFF, _log)
    # "tuple concurrently updated"
    passing = (asyncpg.InternalServerError, asyncpg.UniqueViolationError)
    await retried(lambda: connection.execute(statement), passing, retries)


def main() -> None:
    """Migrate the database that the environment names."""
    try:
        admin_url = os.environ["RUNYARD_ADMIN_DATABASE_URL"]
        passwords_file = Path(os.environ["RUNYARD_ROLE_PASSWORDS_FILE"])
    except KeyError as error:
        sys.exit(f"migrate: {error.args[0]} is not set")
    passwords = json.loads(passwords_file.read_text(encoding="utf-8"))
    asyncio.run(migrate(admin_url, passwords))


if __name__ == "__main__":
    main()
