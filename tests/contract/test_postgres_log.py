"""What only the log on Postgres must do: rollbacks, lost connections, partitions, migrations."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from runyard_contracts.ids import Position, stream_name, uuid7
from runyard_core.errors import Conflict, IdReused, PermissionDenied, Unavailable
from runyard_engines import Postgres, start_ready
from runyard_eventlog.admission import CATEGORY_LANES, ROLE_CATEGORIES, admit
from runyard_eventlog.append_call import APPEND, append_answers, append_arguments
from runyard_eventlog.migrate import NEWEST_REVISION, migrate
from runyard_eventlog.port import AppendCommand, Appended, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import DOMAIN, append_at_end, command, detail, details, fill, run_stream


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    async with await PostgresEventLog.connect(database.url("scheduler")) as opened:
        yield opened


@pytest.fixture
async def admin(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.admin_url)
    yield connection
    await connection.close()


async def test_a_role_that_pretends_to_be_another_appends_as_itself(
    log: PostgresEventLog, database: Database
) -> None:
    connection = await asyncpg.connect(database.url("cost"))
    try:
        stream = run_stream()
        (row,) = await connection.fetch(APPEND, *append_arguments([admit(details(stream, 0, "a"))]))
        assert (row["outcome"], row["stream"]) == ("denied", stream)
    finally:
        await connection.close()


async def test_a_planted_function_or_table_does_not_reach_into_append(
    log: PostgresEventLog, database: Database
) -> None:
    """The function's search path is pinned, temporary objects come last."""
    connection = await asyncpg.connect(database.url("scheduler"))
    try:
        await connection.execute("create temporary table command (command_id uuid)")
        await connection.execute(
            "create function scheduler.clock_timestamp() returns timestamptz language sql "
            "as 'select null::timestamptz'"
        )
        await connection.execute("set search_path = scheduler, pg_temp, pg_catalog")
        (row,) = await connection.fetch(APPEND, *append_arguments([admit(details(run_stream(), 0, "a"))]))
        assert row["outcome"] == "appended"
    finally:
        await connection.close()


async def test_append_wants_read_committed(database: Database) -> None:
    connection = await asyncpg.connect(database.url("scheduler"))
    try:
        with pytest.raises(asyncpg.PostgresError, match="read committed"):
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetch(APPEND, *append_arguments([admit(details(run_stream(), 0, "a"))]))
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stream in two commands", "malformed"),
        ("stream twice in a command", "malformed"),
        ("version skipped", "malformed"),
        ("commands mixed", "malformed"),
        ("command without events", "malformed"),
        ("columns of unlike length", "malformed"),
        ("no events", "malformed"),
    ],
)
async def test_a_malformed_batch_is_refused_as_a_whole(database: Database, fault: str, reason: str) -> None:
    stream, other = run_stream(), run_stream()
    arguments = list(append_arguments([admit(details(stream, 0, "a", "b")), admit(details(other, 0, "c"))]))
    names = ["lane", "ids", "digests", "commands", "streams", "versions", "types"]
    position = {name: index for index, name in enumerate(names)}
    match fault:
        case "stream in two commands":
            arguments[position["streams"]] = [stream, stream, stream]
        case "stream twice in a command":
            arguments[position["commands"]] = [1, 2, 2]
            arguments[position["streams"]] = [stream, other, stream]
            arguments[position["versions"]] = [1, 1, 1]
        case "version skipped":
            arguments[position["versions"]] = [1, 3, 1]
        case "commands mixed":
            arguments[position["commands"]] = [2, 2, 1]
        case "command without events":
            arguments[position["commands"]] = [1, 1, 1]
        case "columns of unlike length":
            arguments[position["types"]] = ["t", "t"]
        case _:
            arguments[3:] = [[] for _ in arguments[3:]]
    connection = await asyncpg.connect(database.url("scheduler"))
    try:
        with pytest.raises(asyncpg.PostgresError, match=reason):
            await connection.fetch(APPEND, *arguments)
        for table in ("event", "event_id", "stream", "command"):
            assert await connection.fetchval(f"select count(*) from log.{table}") == 0
    finally:
        await connection.close()


async def test_writers_that_stall_and_roll_back_leave_no_hole(
    log: PostgresEventLog, database: Database
) -> None:
    """Raw transactions that append, sleep and then roll back or commit, beside the appender and a reader."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    committed: list[str] = []
    shared = [run_stream() for _ in range(3)]

    async def raw_writer(writer: int) -> None:
        connection = await asyncpg.connect(database.url("scheduler"))
        for number in range(12):
            asked = admit(details(run_stream(), 0, f"raw {writer}.{number}", "second"))
            transaction = connection.transaction()
            await transaction.start()
            (row,) = await connection.fetch(APPEND, *append_arguments([asked]))
            assert row["outcome"] == "appended"
            await asyncio.sleep(dice.random() * 0.004)
            if dice.random() < 0.5:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.extend(event.event_id for event in asked.events)
        await connection.close()

    async def writer(number: int) -> None:
        for _ in range(20):
            answer = await append_at_end(log, dice.choice(shared), f"w{number}")
            page = await log.read(DOMAIN, after_position=Position(answer.position - 1), limit=1)
            committed.append(page.events[0].envelope.event_id)
            await asyncio.sleep(dice.random() * 0.002)

    is_done = asyncio.Event()

    async def tail() -> list[str]:
        seen: list[str] = []
        while True:
            was_done = is_done.is_set()
            page = await log.read(DOMAIN, after_position=Position(len(seen)), limit=50)
            assert [event.position for event in page.events] == list(
                range(len(seen) + 1, len(seen) + 1 + len(page.events))
            )
            seen.extend(event.envelope.event_id for event in page.events)
            if was_done and not page.events:
                return seen
            await asyncio.sleep(0)

    reader = asyncio.ensure_future(tail())
    await asyncio.gather(*(raw_writer(n) for n in range(4)), *(writer(n) for n in range(4)))
    is_done.set()
    assert sorted(await reader) == sorted(committed)


async def test_one_faulty_command_does_not_fail_its_batch(log: PostgresEventLog, database: Database) -> None:
    """An event id that the other lane takes while the batch waits fails the statement, not the neighbours."""
    bad = details(run_stream(), 0, "nul \x00 byte")
    bad.appends[0].events[0].correlation_id = "not \x00 storable"
    good = [details(run_stream(), 0, f"n{number}") for number in range(10)]
    results = await asyncio.gather(
        *(log.append(asked) for asked in [*good[:5], bad, *good[5:]]), return_exceptions=True
    )
    assert isinstance(results.pop(5), Exception)
    assert sorted(result.position for result in results if not isinstance(result, BaseException)) == list(
        range(1, 11)
    )


async def test_an_appender_whose_connection_dies_goes_on_and_appends_once(
    log: PostgresEventLog, admin: asyncpg.Connection
) -> None:
    stream = run_stream()
    for number in range(40):
        appending = asyncio.ensure_future(log.append(details(stream, number, f"n{number}")))
        if number % 4 == 0:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where usename = 'runyard_scheduler' and query like '%log.append%'"
            )
        await appending
    history = await log.read_stream(stream)
    written = [event.message.status_detail for event in history]  # type: ignore[attr-defined]
    assert written == [f"n{number}" for number in range(40)]


async def test_a_killed_database_is_waited_for_and_keeps_what_it_acknowledged(
    own_postgres: Postgres, own_database: Database
) -> None:
    async with await PostgresEventLog.connect(own_database.url("scheduler")) as log:
        acknowledged: list[AppendCommand] = []

        async def write(writer: int) -> None:
            # The first one has done its part when the database is killed.
            for _ in range(5 if writer == 0 else 60):
                asked = details(run_stream(), 0, "a", "b")
                while True:
                    try:
                        await log.append(asked)
                    except Unavailable:
                        continue
                    break
                acknowledged.append(asked)

        writers = [asyncio.ensure_future(write(number)) for number in range(8)]
        await writers[0]
        assert own_postgres.process is not None
        own_postgres.process.kill()
        await own_postgres.stop()
        await start_ready(own_postgres)
        await asyncio.gather(*writers)
        page = await log.read(DOMAIN, limit=10_000)
        assert [event.position for event in page.events] == list(range(1, 2 * (5 + 7 * 60) + 1))
        stored = {event.envelope.event_id for event in page.events}
        asked_for = {event.event_id for asked in acknowledged for event in asked.appends[0].events}
        assert stored == asked_for


async def test_a_database_that_stays_away_is_unavailable(
    own_postgres: Postgres, own_database: Database
) -> None:
    pool = await asyncpg.create_pool(own_database.url("scheduler"), min_size=1, max_size=2)
    log = PostgresEventLog(pool, append_seconds_max=0.5)
    asked = details(run_stream(), 0, "a")
    await own_postgres.stop()
    with pytest.raises(Unavailable):
        await log.append(asked)
    with pytest.raises(Unavailable):
        await log.head()
    await log.close()
    pool.terminate()


async def test_a_closed_log_refuses(log: PostgresEventLog) -> None:
    await fill(log, 1)
    await log.close()
    with pytest.raises(Unavailable):
        await log.append(details(run_stream(), 0, "a"))


async def test_events_cross_a_partition_boundary(
    log: PostgresEventLog, admin: asyncpg.Connection, database: Database
) -> None:
    await _jump_to(admin, 19_999_999)
    stream = run_stream()
    answer = await log.append(details(stream, 0, "a", "b", "c"))
    assert answer.positions == (20_000_000, 20_000_001, 20_000_002)
    assert (await log.head()).domain_position == 20_000_002
    page = await log.read(DOMAIN, after_position=Position(19_999_999))
    assert [event.position for event in page.events] == [20_000_000, 20_000_001, 20_000_002]
    assert len(await log.read_stream(stream)) == 3
    relay = await asyncpg.connect(database.url("relay"))
    assert await relay.fetchval("select log.add_partition(1::smallint)") == "domain_event_000040000001"
    await relay.close()
    await _jump_to(admin, 40_000_000)
    assert (await log.append(details(run_stream(), 0, "d"))).position == 40_000_001


async def _jump_to(admin: asyncpg.Connection, position: int) -> None:
    """Pretend that the log has so many events, as only an administrator could."""
    await admin.execute(
        """
        insert into log.event (lane, position, version, after_position, recorded_at, event_id, stream, type,
          correlation_id, actor, payload)
        values (1, $1, 1, 0, now(), gen_random_uuid(), 'run-x', 't', 'c', 'user:a', '')
        """,
        position,
    )


async def test_an_event_id_known_in_the_other_lane_is_refused(
    log: PostgresEventLog, database: Database
) -> None:
    async with await PostgresEventLog.connect(database.url("lineage")) as lineage:
        stream = run_stream()
        event = detail(stream, "a")
        await log.append(command(StreamAppend(stream, 0, [event])))
        other = details(run_stream(), 0, "b").appends[0].events[0]
        other.event_id = event.event_id
        other.stream = f"log-{uuid7()}"
        with pytest.raises(IdReused):
            await lineage.append(command(StreamAppend(other.stream, 0, [other])))  # type: ignore[arg-type]


async def test_a_long_replay_does_not_stop_appends(log: PostgresEventLog, database: Database) -> None:
    await fill(log, 5)
    connection = await asyncpg.connect(database.url("reader"))
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            assert await connection.fetchval("select count(*) from log.domain_event") == 5
            await fill(log, 5)
            assert await connection.fetchval("select count(*) from log.domain_event") == 5
    finally:
        await connection.close()


async def test_appends_update_no_row(database: Database, admin: asyncpg.Connection) -> None:
    """Former versions of a row stay as long as a replay's snapshot, and would slow down each append."""
    stream = run_stream()
    connection = await asyncpg.connect(database.url("scheduler"))
    try:
        for version in range(5):
            await connection.fetch(APPEND, *append_arguments([admit(details(stream, version, "a"))]))
        await connection.execute("select pg_stat_force_next_flush()")
        changes = await admin.fetchrow(
            "select sum(n_tup_ins) as added, sum(n_tup_upd + n_tup_del) as changed from pg_stat_user_tables "
            "where schemaname = 'log' and relname ~ '^(stream|event_id|command|domain_event_.*)$'"
        )
        assert changes is not None
        assert (changes["added"], changes["changed"]) == (4 * 5, 0)
    finally:
        await connection.close()


async def test_conflicts_of_a_batch_are_told_one_by_one(log: PostgresEventLog) -> None:
    streams = [run_stream() for _ in range(4)]
    await fill(log, 4, streams)
    results = await asyncio.gather(
        *(log.append(details(stream, number % 2, "x")) for number, stream in enumerate(streams)),
        return_exceptions=True,
    )
    assert [isinstance(result, Conflict) for result in results] == [True, False, True, False]


async def test_each_command_of_a_mixed_batch_gets_its_own_answer(database: Database) -> None:
    """Refused commands leave no gap between the appended ones, and an answer goes to who asked."""
    known, moved, grows = details(run_stream(), 0, "a", "b"), details(run_stream(), 0, "c"), run_stream()
    reused = dataclasses.replace(details(run_stream(), 0, "d"), command_id=moved.command_id)
    foreign = stream_name("price", uuid7())
    mixed = [
        details(run_stream(), 0, "e", "f"),
        known,
        command(StreamAppend(foreign, 0, [detail(foreign, "g")])),
        details(moved.appends[0].stream, 0, "h"),
        command(*details(run_stream(), 0, "i").appends, *details(grows, 1, "j").appends),
        reused,
        details(run_stream(), 0, "k", "l", "m"),
    ]
    connection = await asyncpg.connect(database.url("scheduler"))
    try:
        first = [admit(known), admit(moved), admit(details(grows, 0, "start"))]
        await connection.fetch(APPEND, *append_arguments(first))
        batch = [admit(one) for one in mixed]
        answers = append_answers(batch, await connection.fetch(APPEND, *append_arguments(batch)))
        assert [answer.positions if isinstance(answer, Appended) else type(answer) for answer in answers] == [
            (5, 6),
            (1, 2),
            PermissionDenied,
            Conflict,
            (7, 8),
            IdReused,
            (9, 10, 11),
        ]
        rows = await connection.fetch("select command_id::text, first_position, event_count from log.command")
        stored = {row["command_id"]: (row["first_position"], row["event_count"]) for row in rows}
        assert stored.pop(first[2].command_id) == (4, 1)
        assert stored == {
            known.command_id: (1, 2),
            moved.command_id: (3, 1),
            mixed[0].command_id: (5, 2),
            mixed[4].command_id: (7, 2),
            mixed[6].command_id: (9, 3),
        }
        versions = await connection.fetch(
            "select e.stream, max(e.version), count(*), (select max(s.version) from log.stream s "
            "where s.stream = e.stream) from log.event e group by e.stream"
        )
        assert len(versions) == 6
        assert all(row[1] == row[2] == row[3] for row in versions)
    finally:
        await connection.close()


async def test_migration_may_run_again_and_beside_others(empty_database: Database) -> None:
    await asyncio.gather(
        *(migrate(empty_database.admin_url, empty_database.role_passwords) for _ in range(3))
    )
    started = time.monotonic()
    await migrate(empty_database.admin_url, empty_database.role_passwords)
    assert time.monotonic() - started < 2.0
    connection = await asyncpg.connect(empty_database.admin_url)
    assert await connection.fetchval("select version_num from log.revision") == NEWEST_REVISION
    lanes = {tuple(row) for row in await connection.fetch("select category, lane from log.category")}
    assert lanes == {(category, int(lane)) for category, lane in CATEGORY_LANES.items()}
    writers = await connection.fetch("select role, category from log.writer")
    assert {tuple(row) for row in writers} == {
        (role, category) for role, categories in ROLE_CATEGORIES.items() for category in categories
    }
    await connection.close()


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
    scheduler = await asyncpg.connect(database.url("scheduler"))
    reader = await asyncpg.connect(database.url("reader"))
    try:
        await scheduler.execute("create table scheduler.mine (a int); insert into scheduler.mine values (1)")
        assert await reader.fetchval("select a from scheduler.mine") == 1
        for statement in ("create table cost.mine (a int)", "create table public.mine (a int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await scheduler.execute(statement)
    finally:
        await scheduler.close()
        await reader.close()
