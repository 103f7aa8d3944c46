"""Kill processes of a yard, wait until they are back, and look into its database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import asyncpg

from tests.e2e.yard import Yard


def process_of(yard: Yard, name: str) -> dict[str, Any]:
    """Give what the supervisor says of a process."""
    state = json.loads((yard.home / "yard.json").read_text())
    found: dict[str, Any] = state["processes"][name]
    return found


def kill_process(yard: Yard, name: str) -> int:
    """Kill a process with -9; give its pid."""
    pid = int(process_of(yard, name)["pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


async def restarted(yard: Yard, name: str, former_pid: int, timeout_seconds: float = 40) -> None:
    """Wait until the supervisor says that a killed process is up again."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            now = process_of(yard, name)
            if now["phase"] == "up" and now["pid"] != former_pid:
                return
            # The state file is the supervisor's only word to others; it has no event to wait for.
            await asyncio.sleep(0.05)


async def kill_and_await(yard: Yard, name: str) -> None:
    """Kill a process with -9 and wait until it is up again."""
    await restarted(yard, name, kill_process(yard, name))


async def database(yard: Yard) -> asyncpg.Connection:
    """Connect to the yard's database as its administrator."""
    password = json.loads((yard.home / "credentials.json").read_text())["postgres_password"]
    port = process_of(yard, "postgres")["port"]
    return await asyncpg.connect(
        host="127.0.0.1", port=port, user="postgres", password=password, database="runyard"
    )


async def domain_head(yard: Yard) -> int:
    """Give the newest position of the domain lane."""
    connection = await database(yard)
    try:
        return int(await connection.fetchval("select coalesce(max(position), 0) from log.domain_event"))
    finally:
        await connection.close()


async def read_model_dump(yard: Yard, service: str, to_position: int) -> dict[str, list[str]]:
    """Give every row up to a position of every read-model table of a service, as text."""
    connection = await database(yard)
    try:
        return {
            table: [
                record["line"]
                for record in await connection.fetch(
                    f"select t::text as line from {service}.{table} t where position <= $1 order by 1",
                    to_position,
                )
            ]
            for table in await _row_tables(connection, service)
        }
    finally:
        await connection.close()


async def drop_read_model(yard: Yard, service: str) -> None:
    """Drop everything in a service's schema: tables, views, checkpoints."""
    connection = await database(yard)
    try:
        async with connection.transaction():
            kinds = {"BASE TABLE": "table", "VIEW": "view"}
            for record in await connection.fetch(
                "select table_name, table_type from information_schema.tables where table_schema = $1",
                service,
            ):
                kind = kinds[record["table_type"]]
                await connection.execute(f'drop {kind} if exists {service}."{record["table_name"]}" cascade')
    finally:
        await connection.close()


async def _row_tables(connection: asyncpg.Connection, service: str) -> list[str]:
    rows = await connection.fetch(
        """select c.table_name from information_schema.columns c join information_schema.tables t
           using (table_schema, table_name)
           where c.table_schema = $1 and c.column_name = 'position' and t.table_type = 'BASE TABLE'
             and c.table_name ~ '_v[0-9]+$' order by 1""",
        service,
    )
    return [row["table_name"] for row in rows]
