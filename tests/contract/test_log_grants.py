"""Nobody but ``append`` changes the log: every role tries everything on everything that is there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from runyard_contracts.ids import stream_name, uuid7
from runyard_eventlog.admission import CATEGORY_LANES, ROLE_CATEGORIES, admit
from runyard_eventlog.append_call import APPEND, append_arguments
from runyard_eventlog.migrate import ROLES
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_testkit import Database
from tests.contract.events import TELEMETRY, chunk, command, detail, fill

pytestmark = pytest.mark.engines

REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)

ON_EACH_TABLE = (
    "update log.{table} set {column} = {column}",
    "delete from log.{table}",
    "truncate log.{table} cascade",
    "insert into log.{table} select * from log.{table}",
    "merge into log.{table} t using log.identity s on true when matched then delete",
    "copy log.{table} from stdin",
    "do $$ begin lock table log.{table} in access exclusive mode; end $$",
    "select from log.{table} for update",
    "drop table log.{table} cascade",
    "alter table log.{table} disable trigger all",
    "alter table log.{table} add column mine integer",
    "alter table log.{table} drop column {column} cascade",
    "alter table log.{table} rename to mine",
    "alter table log.{table} owner to current_user",
    "alter table log.{table} enable row level security",
    "create trigger mine before insert on log.{table} execute function log.refuse_change()",
    "create rule mine as on insert to log.{table} do instead nothing",
    "create index on log.{table} ({column})",
)
ON_EACH_PARTITION = ("alter table log.{parent} detach partition log.{table}",)
ON_EACH_TRIGGER = (
    "drop trigger {trigger} on {table}",
    "alter trigger {trigger} on {table} rename to mine",
    "alter table {table} disable trigger {trigger}",
)
ON_EACH_FUNCTION = (
    "drop function {function} cascade",
    "alter function {function} rename to mine",
    "alter function {function} security invoker",
    "alter function {function} reset all",
)
ON_THE_LOG = (
    "create table log.mine (a integer)",
    "create function log.mine() returns integer language sql as 'select 1'",
    "drop schema log cascade",
    "alter schema log rename to mine",
    "alter schema log owner to current_user",
    "select log.change_identity()",
    "select log.detach_oldest_partition(1::smallint, 1000000000)",
    "set role runyard_log_owner",
    "set session authorization postgres",
    "set session_replication_role = replica",
)


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    """A log with events in both lanes, and partitions that were attached later."""
    async with (
        await PostgresEventLog.connect(database.url("scheduler")) as opened,
        await PostgresEventLog.connect(database.url("metrics")) as metrics,
    ):
        await fill(opened, 2)
        stream = stream_name("telemetry", "node-1.spool")
        await metrics.append(command(StreamAppend(stream, 0, [chunk(stream, "line")])))
        async with database.connected("relay") as relay:
            for lane in (1, 2):
                await relay.execute("select log.add_partition($1::smallint)", lane)
        yield opened


async def accepted(connection: asyncpg.Connection, statements: Sequence[str]) -> list[str]:
    """Give the statements that a role was not refused."""
    found = []
    for statement in statements:
        try:
            await connection.execute(statement)
        except REFUSED:
            continue
        except asyncpg.PostgresError as error:
            # It failed for another reason than who asked, which proves nothing.
            found.append(f"{statement}: {error!r}")
        else:
            found.append(statement)
    return found


async def attempts(admin: asyncpg.Connection) -> list[str]:
    """Give every statement against every table, partition and function of the log as it is now."""
    tables = await admin.fetch(
        """
        select c.relname as table, a.attname as column, p.relname as parent
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum = 1
        left join pg_inherits i on i.inhrelid = c.oid left join pg_class p on p.oid = i.inhparent
        where c.relnamespace = 'log'::regnamespace and c.relkind in ('r', 'p')
        """
    )
    functions = await admin.fetch(
        "select oid::regprocedure::text as function from pg_proc where pronamespace = 'log'::regnamespace"
    )
    triggers = await admin.fetch(
        "select tgname as trigger, tgrelid::regclass::text as table from pg_trigger where not tgisinternal"
    )
    names = {row["table"] for row in tables}
    assert {"event", "domain_event", "telemetry_event", "stream", "event_id", "command", "revision"} <= names
    assert sum(row["parent"] in ("domain_event", "telemetry_event") for row in tables) == 6
    assert len(functions) >= 5
    # On the root and each of six partitions; the row trigger on each of nine tables.
    assert len(triggers) == 7 + 9
    return [
        *(form.format(**row) for row in tables for form in ON_EACH_TABLE),
        *(form.format(**row) for row in tables if row["parent"] for form in ON_EACH_PARTITION),
        *(form.format(**row) for row in triggers for form in ON_EACH_TRIGGER),
        *(form.format(**row) for row in functions for form in ON_EACH_FUNCTION),
        *ON_THE_LOG,
    ]


async def test_no_role_can_change_the_log_but_through_append(
    log: PostgresEventLog, database: Database, admin: asyncpg.Connection
) -> None:
    # A role that is added belongs to those that are tried.
    there = await admin.fetch("select rolname from pg_roles where rolcanlogin and rolname ~ '^runyard_'")
    assert {row["rolname"] for row in there} == set(ROLES)
    tried = await attempts(admin)
    before = await _everything(admin)
    for role in ROLES:
        async with database.connected(role) as connection:
            assert (role, await accepted(connection, tried)) == (role, [])
    assert await _everything(admin) == before


_MADE = """
select 'table', relname::text, relkind::text, pg_get_userbyid(relowner)::text, relacl::text from pg_class
where relnamespace = 'log'::regnamespace
union all select 'trigger', tgname::text, tgrelid::regclass::text, tgenabled::text, '' from pg_trigger
where not tgisinternal
union all select 'schema', nspname::text, pg_get_userbyid(nspowner)::text, nspacl::text, '' from pg_namespace
union all select 'function', oid::regprocedure::text, md5(prosrc), proacl::text, proconfig::text from pg_proc
where pronamespace = 'log'::regnamespace
"""


async def _everything(admin: asyncpg.Connection) -> list[str]:
    """Give all that the log's tables hold, and everything that the schema is made of."""
    found = [str(tuple(row)) for row in await admin.fetch(_MADE)]
    for table in ("event", "stream", "event_id", "command", "identity", "category", "writer", "partition"):
        found += [
            f"{table}: {row['t']}" for row in await admin.fetch(f"select t::text as t from log.{table} t")
        ]
    return sorted(found)


async def test_not_even_an_administrator_changes_events_by_a_slip(
    log: PostgresEventLog, admin: asyncpg.Connection
) -> None:
    tables = await admin.fetch(
        "select oid::regclass::text as name from pg_class where relnamespace = 'log'::regnamespace "
        "and relkind in ('r', 'p') and (relname = 'event' or relname ~ '^(domain|telemetry)_event')"
    )
    assert len(tables) == 9
    for row in tables:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await admin.execute(f"truncate {row['name']}")
        if await admin.fetchval(f"select exists (select from {row['name']})"):
            for statement in (f"update {row['name']} set actor = 'user:eve'", f"delete from {row['name']}"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                    await admin.execute(statement)
    assert (await log.head()).domain_position == 2


async def test_a_role_appends_to_its_own_categories_and_to_no_other(database: Database) -> None:
    for role in ROLES:
        outcomes = dict.fromkeys(CATEGORY_LANES, "denied")
        async with database.connected(role) as connection:
            for category in CATEGORY_LANES:
                with contextlib.suppress(*REFUSED):
                    (row,) = await connection.fetch(APPEND, *append_arguments([admit(_one_event(category))]))
                    outcomes[category] = row["outcome"]
        own = ROLE_CATEGORIES.get(role, ())
        assert (role, outcomes) == (
            role,
            {category: "appended" if category in own else "denied" for category in CATEGORY_LANES},
        )


def _one_event(category: str) -> AppendCommand:
    stream = stream_name(category, f"{uuid7()}.spool" if category == "telemetry" else uuid7())
    event = chunk(stream, "line") if CATEGORY_LANES[category] == TELEMETRY else detail(stream, "a")
    return command(StreamAppend(stream, 0, [event]))


async def test_a_foreign_category_beside_an_own_one_refuses_the_whole_command(
    log: PostgresEventLog, database: Database
) -> None:
    run, price = stream_name("run", uuid7()), stream_name("price", uuid7())
    both = command(StreamAppend(run, 0, [detail(run, "a")]), StreamAppend(price, 0, [detail(price, "b")]))
    async with database.connected("scheduler") as connection:
        (row,) = await connection.fetch(APPEND, *append_arguments([admit(both)]))
    assert (row["outcome"], row["stream"]) == ("denied", price)
    assert (await log.head()).domain_position == 2
