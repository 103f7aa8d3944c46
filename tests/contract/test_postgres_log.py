"""What only the log on Postgres must do: rollbacks, partitions, batches."""

from __future__ import annotations

import asyncio
import dataclasses
import random

import asyncpg
import pytest

from runyard_contracts.ids import Position, stream_name, uuid7
from runyard_core.errors import Conflict, IdReused, InvalidInput, PermissionDenied
from runyard_eventlog.admission import admit
from runyard_eventlog.append_call import APPEND, append_answers, append_arguments
from runyard_eventlog.port import Appended, EventFilter, EventLog, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import DOMAIN, append_at_end, command, detail, details, fill, run_stream

pytestmark = pytest.mark.engines


@pytest.fixture
def log_database(database: Database) -> Database:
    """The log on Postgres alone."""
    return database


async def test_a_role_that_pretends_to_be_another_appends_as_itself(
    log: PostgresEventLog, database: Database
) -> None:
    async with database.connected("cost") as connection:
        stream = run_stream()
        (row,) = await connection.fetch(APPEND, *append_arguments([admit(details(stream, 0, "a"))]))
        assert (row["outcome"], row["stream"]) == ("denied", stream)


async def test_a_planted_function_or_table_does_not_reach_into_append(
    log: PostgresEventLog, database: Database
) -> None:
    """The function's search path is pinned, temporary objects come last."""
    async with database.connected("scheduler") as connection:
        await connection.execute("create temporary table command (command_id uuid)")
        await connection.execute(
            "create function scheduler.clock_timestamp() returns timestamptz language sql "
            "as 'select null::timestamptz'"
        )
        await connection.execute("set search_path = scheduler, pg_temp, pg_catalog")
        (row,) = await connection.fetch(APPEND, *append_arguments([admit(details(run_stream(), 0, "a"))]))
        assert row["outcome"] == "appended"


async def test_append_wants_read_committed(database: Database) -> None:
    async with database.connected("scheduler") as connection:
        with pytest.raises(asyncpg.PostgresError, match="read committed"):
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetch(APPEND, *append_arguments([admit(details(run_stream(), 0, "a"))]))


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
    async with database.connected("scheduler") as connection:
        with pytest.raises(asyncpg.PostgresError, match=reason):
            await connection.fetch(APPEND, *arguments)
        for table in ("event", "event_id", "stream", "command"):
            assert await connection.fetchval(f"select count(*) from log.{table}") == 0


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
        async with database.connected("scheduler") as connection:
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

    async def writer(number: int) -> None:
        for _ in range(20):
            answer = await append_at_end(log, dice.choice(shared), f"w{number}")
            page = await log.read(DOMAIN, after_position=Position(answer.position - 1), limit=1)
            committed.append(page.events[0].envelope.event_id)
            await asyncio.sleep(dice.random() * 0.002)

    is_done = asyncio.Event()
    reader = asyncio.ensure_future(ids_without_hole(log, is_done))
    await asyncio.gather(*(raw_writer(n) for n in range(4)), *(writer(n) for n in range(4)))
    is_done.set()
    assert sorted(await reader) == sorted(committed)


async def ids_without_hole(log: EventLog, is_done: asyncio.Event) -> list[str]:
    """Follow the log from its beginning until it is done."""
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


async def test_nothing_is_found_by_a_text_that_cannot_be_stored(log: PostgresEventLog) -> None:
    await fill(log, 1)
    filters = [
        EventFilter(streams=["run-\0"]),
        EventFilter(types=["runyard.\0."]),
        EventFilter(correlation_id="\0"),
    ]
    for wanted in filters:
        with pytest.raises(InvalidInput) as refused:
            await log.read(DOMAIN, filter=wanted)
        assert refused.value.code == "NUL_IN_TEXT"
    assert len((await log.read(DOMAIN)).events) == 1


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
    async with database.connected("relay") as relay:
        assert await relay.fetchval("select log.add_partition(1::smallint)") == "domain_event_000040000001"
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
    async with (
        database.connected("reader") as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        assert await connection.fetchval("select count(*) from log.domain_event") == 5
        await fill(log, 5)
        assert await connection.fetchval("select count(*) from log.domain_event") == 5


async def test_appends_update_no_row(database: Database, admin: asyncpg.Connection) -> None:
    """Former versions of a row stay as long as a replay's snapshot, and would slow down each append."""
    stream = run_stream()
    async with database.connected("scheduler") as connection:
        for version in range(5):
            await connection.fetch(APPEND, *append_arguments([admit(details(stream, version, "a"))]))
        await connection.execute("select pg_stat_force_next_flush()")
        changes = await admin.fetchrow(
            "select sum(n_tup_ins) as added, sum(n_tup_upd + n_tup_del) as changed from pg_stat_user_tables "
            "where schemaname = 'log' and relname ~ '^(stream|event_id|command|domain_event_.*)$'"
        )
        assert changes is not None
        assert (changes["added"], changes["changed"]) == (4 * 5, 0)


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
    async with database.connected("scheduler") as connection:
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


_MANY = """
insert into log.event (lane, position, version, after_position, recorded_at, event_id, stream, type,
  correlation_id, actor, payload)
select 1, p, 1, 0, now(), gen_random_uuid(), 'artifact-' || (p / 3), 'runyard.usual',
  'c' || p, 'user:alice', ''
from generate_series(1, 40000) p
"""
_RARE = """
insert into log.event (lane, position, version, after_position, recorded_at, event_id, stream, type,
  correlation_id, actor, payload)
select 1, 40000 + p, 1, 0, now(), gen_random_uuid(), case when p % 2 = 0 then 'price-' else 'alias-' end || p,
  case when p % 2 = 0 then 'runyard.price.set' else 'runyard.alias.moved' end, 'c', 'user:alice', ''
from generate_series(1, 10) p
"""
_WALKED = """
select sum(idx_tup_read)::bigint from pg_stat_user_indexes
where schemaname = 'log' and relname like 'domain\\_event\\_%' and indexrelname like '%\\_pkey'
"""


async def test_the_events_of_some_streams_are_found_without_a_walk_over_the_log_however_often_asked(
    database: Database,
) -> None:
    """PostgreSQL plans a statement without a look at what is asked from its sixth time on."""
    wanted = EventFilter(streams=[f"artifact-{number}" for number in range(1, 300)])
    async with database.connected() as admin:
        await admin.execute(_MANY)
        await admin.execute("analyze log.event")

    async def walked() -> int:
        await pool.execute("select pg_stat_force_next_flush()")
        return int(await pool.fetchval(_WALKED))

    async with (
        asyncpg.create_pool(database.url("reader"), min_size=1, max_size=1) as pool,
        PostgresEventLog(pool) as log,
    ):
        before = await walked()
        for _ in range(10):
            page = await log.read(DOMAIN, filter=wanted, limit=1_000)
            assert (len(page.events), page.scanned_to) == (897, 40_000)
        assert await walked() - before < 1_000
        assert await pool.fetchval("select count(*) from pg_prepared_statements where statement ~ 'any'") < 3


async def test_rare_events_of_a_category_or_prefix_are_found_without_a_walk_behind_the_first_look(
    database: Database,
) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute(_MANY)
    await admin.execute(_RARE)
    await admin.execute("analyze log.event")

    async def walked() -> int:
        await pool.execute("select pg_stat_force_next_flush()")
        return int(await pool.fetchval(_WALKED))

    async with asyncpg.create_pool(database.url("reader"), min_size=1, max_size=1) as pool:
        log = PostgresEventLog(pool)
        for wanted in (
            EventFilter(categories=("price", "alias")),
            EventFilter(types=("runyard.price.", "runyard.alias.")),
            EventFilter(types=("runyard.price.set", "runyard.alias.")),
        ):
            before = await walked()
            for _ in range(6):
                page = await log.read(DOMAIN, filter=wanted, limit=100)
                assert [event.position for event in page.events] == list(range(40_001, 40_011))
            assert await walked() - before < 6 * 21_000
        await log.close()
    await admin.close()
