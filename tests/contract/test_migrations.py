"""What a migration brings the database to, and that it may run at any time."""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
import pytest

from runyard_eventlog.admission import CATEGORY_LANES, ROLE_CATEGORIES
from runyard_eventlog.migrate import NEWEST_REVISION, migrate
from runyard_testkit import Database

pytestmark = pytest.mark.engines


async def test_migration_may_run_again_and_beside_others(empty_database: Database) -> None:
    await asyncio.gather(
        *(migrate(empty_database.admin_url, empty_database.role_passwords) for _ in range(3))
    )
    started = time.monotonic()
    await migrate(empty_database.admin_url, empty_database.role_passwords)
    assert time.monotonic() - started < 2.0
    async with empty_database.connected() as connection:
        assert await connection.fetchval("select version_num from log.revision") == NEWEST_REVISION
        lanes = {tuple(row) for row in await connection.fetch("select category, lane from log.category")}
        assert lanes == {(category, int(lane)) for category, lane in CATEGORY_LANES.items()}
        writers = await connection.fetch("select role, category from log.writer")
        assert {tuple(row) for row in writers} == {
            (role, category) for role, categories in ROLE_CATEGORIES.items() for category in categories
        }


async def test_a_warm_migration_loads_no_alembic(database: Database) -> None:
    code = (
        "import asyncio, sys\n"
        "from runyard_eventlog.migrate import migrate\n"
        f"asyncio.run(migrate({database.admin_url!r}, {{}}))\n"
        "assert not [name for name in sys.modules if name.startswith(('alembic', 'sqlalchemy'))]\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_service_owns_its_schema_and_no_other(database: Database) -> None:
    async with database.connected("scheduler") as scheduler, database.connected("reader") as reader:
        await scheduler.execute("create table scheduler.mine (a int); insert into scheduler.mine values (1)")
        assert await reader.fetchval("select a from scheduler.mine") == 1
        for statement in ("create table cost.mine (a int)", "create table public.mine (a int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await scheduler.execute(statement)
