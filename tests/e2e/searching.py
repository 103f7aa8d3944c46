"""Looks through everything that a yard keeps for words that it never should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runyard_replay.direct import admin_database_url
from runyard_testkit import connected
from tests.e2e.yard import Yard


async def places_with(words: Sequence[str], yard: Yard, *folders: Path) -> list[str]:
    """Name every table, and every file of the yard and of other folders, that holds one of these words."""
    found = await _tables_with(words, admin_database_url(yard.home, {}))
    for folder in (yard.home, *folders):
        for file in folder.rglob("*"):
            # The operator's list of who may come in is no part of what is recorded.
            if file.is_file() and file.name != "tokens.json":
                content = file.read_bytes()
                found += [f"{file}: {word}" for word in words if word.encode() in content]
    return found


async def _tables_with(words: Sequence[str], database_url: str) -> list[str]:
    # Payloads are bytes, which the database writes in hexadecimal.
    patterns = [form for word in words for form in (word, word.encode().hex())]
    async with connected(database_url) as connection:
        tables = await connection.fetch(
            "select format('%I.%I', schemaname, tablename) as name from pg_tables "
            "where schemaname not in ('pg_catalog', 'information_schema')"
        )
        names = {row["name"] for row in tables}
        assert {"personal.person", "secret.project_secret", "log.event_id", "log.command"} <= names
        found = []
        for name in sorted(names):
            held = f"select exists (select from {name} t where t::text ~ any($1))"
            if await connection.fetchval(held, patterns):
                found.append(name)
        return found
