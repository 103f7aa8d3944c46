"""PostgreSQL goes back to an earlier time: everybody notices, nobody shows what the log does not hold."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import asyncpg
import pytest

from runyard_engines import Postgres, start_ready
from runyard_eventlog.auditor import audit
from runyard_eventlog.failure_limit import ProjectionStopped
from runyard_eventlog.mirror import MirrorMismatch
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.restored import Restored, give_new_identity
from runyard_eventlog.same_log import LogReplaced
from runyard_eventlog.subscriber import follow
from runyard_testkit import Bus, Database
from tests.contract.events import DOMAIN, fill
from tests.contract.mirrors import SECONDS_MAX, mirrored, relaying
from tests.contract.stories import Stories, rows_of

pytestmark = [pytest.mark.engines, pytest.mark.faults, pytest.mark.timeout(180)]


async def copy_data(server: Postgres, copy: Path) -> None:
    """Take a backup: a copy of the folder of a server that was ended in order."""
    await server.stop()
    await asyncio.to_thread(_copy, server.spec.data_dir, copy)
    await start_ready(server)


async def go_back(server: Postgres, copy: Path) -> None:
    """Kill the server and let it run on the copy; whoever was connected finds it again at its address."""
    assert server.process is not None
    server.process.kill()
    await server.stop()
    await asyncio.to_thread(server.spec.data_dir.rename, copy.with_name("lost"))
    await asyncio.to_thread(_copy, copy, server.spec.data_dir)
    await start_ready(server)


def _copy(source: Path, target: Path) -> None:
    # With its owner, who is not us when we are root.
    subprocess.run(["cp", "-a", source, target], check=True)


async def test_after_a_restore_everybody_who_saw_more_stops_and_a_new_identity_starts_anew(
    own_postgres: Postgres, own_database: Database, bus: Bus, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    async with await PostgresEventLog.connect(own_database.url("scheduler")) as log:
        await fill(log, 10)
        await _project(own_database, 10)
    await copy_data(own_postgres, copy)
    async with await bus.connect("test") as client:
        await _lose_five_events(own_postgres, own_database, bus, copy)
        async with own_database.connected() as admin:
            assert (await audit(admin, client)).verdict == "DIFFERENT"
            restored = await give_new_identity(own_database.admin_url)
            assert (restored.domain_position, restored.read_models_ahead) == (10, [])
            async with await PostgresEventLog.connect(own_database.url("scheduler")) as log:
                assert (await log.head()).log_id == restored.log_id != restored.former_log_id
                await fill(log, 2)
                async with relaying(own_database, bus):
                    await mirrored(client, log, 12)
            assert (await audit(admin, client)).verdict == "SAME"
    await _project(own_database, 12)


async def _lose_five_events(server: Postgres, database: Database, bus: Bus, copy: Path) -> None:
    """Append five events that all see, go back to before them, and see all of them stop."""
    async with (
        asyncpg.create_pool(database.url("cost"), min_size=1, max_size=4) as pool,
        await PostgresEventLog.connect(database.url("scheduler")) as log,
        aclosing(follow(log, DOMAIN, after_position=10)) as pages,  # type: ignore[arg-type]  # a position
        relaying(database, bus, check_seconds=0.1) as relay,
    ):
        projector = Projector(pool, PostgresEventLog(pool), Stories(), schema="cost")
        projecting = asyncio.ensure_future(projector.run())
        await fill(log, 5)
        while (await anext(pages)).scanned_to < 15:
            pass
        async with await bus.connect("test") as client:
            await mirrored(client, log, 15)
        await projector.wait_for(15, SECONDS_MAX)
        await go_back(server, copy)
        async with asyncio.timeout(2 * SECONDS_MAX):
            with pytest.raises(LogReplaced):
                await anext(pages)
            with pytest.raises(LogReplaced):
                await projecting
            with pytest.raises(MirrorMismatch, match="restored"):
                await asyncio.shield(relay)


async def _project(database: Database, head: int) -> None:
    """Project as a process that was started anew, and compare with tables that were built from nothing."""
    async with asyncpg.create_pool(database.url("cost"), min_size=1, max_size=6) as pool:
        log = PostgresEventLog(pool)
        versions = [Projector(pool, log, Stories(version), schema="cost") for version in (1, 10 + head)]
        tasks = [asyncio.ensure_future(projector.run()) for projector in versions]
        for projector in versions:
            await projector.wait_for(head, SECONDS_MAX)
        live = await rows_of(pool, "cost", 1)  # type: ignore[arg-type]
        assert len(live) == 2 * head
        assert live == await rows_of(pool, "cost", 10 + head)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_read_models_that_were_not_restored_with_the_log_are_named_and_stop(database: Database) -> None:
    async with await PostgresEventLog.connect(database.url("scheduler")) as log:
        await fill(log, 3)
    await _project(database, 3)
    async with database.connected("cost") as connection:
        await connection.execute("update cost.projection_checkpoint set position = 4 where version = 1")
    async with asyncpg.create_pool(database.url("cost"), min_size=1, max_size=4) as pool:
        projector = Projector(pool, PostgresEventLog(pool), Stories(), schema="cost")
        projecting = asyncio.ensure_future(projector.run())
        with pytest.raises(ProjectionStopped, match="the log ends at 3"):
            await projector.wait_for(1, SECONDS_MAX)
        projecting.cancel()
        await asyncio.gather(projecting, return_exceptions=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runyard_eventlog.restored",
        env={"RUNYARD_ADMIN_DATABASE_URL": database.admin_url},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    told = Restored(**json.loads(output))
    assert (process.returncode, told.read_models_ahead) == (1, ["cost.stories version 1 at 4"])
    assert told.log_id != told.former_log_id
