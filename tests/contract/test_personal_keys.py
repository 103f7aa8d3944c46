"""The keys of persons in a real database: shared by all services, shredded by one, gone for everybody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from runyard_core.errors import Corrupt
from runyard_eventlog.migrate import ROLES
from runyard_eventlog.personal.keyring import Keyring
from runyard_eventlog.personal.seals import ERASED, SEALED, PersonKey, new_person, person_of
from runyard_eventlog.personal.yard_key import YARD_KEY_BYTES, YardKey
from runyard_testkit import Database

pytestmark = pytest.mark.engines

ZOE, NAME = "user:zoe", "zoe"
Open = Callable[[str], Awaitable[Keyring]]


@pytest.fixture
async def keyring_of(database: Database) -> AsyncIterator[Open]:
    """Give the keys as the process of a role has them."""
    yard_key = YardKey(os.urandom(YARD_KEY_BYTES))
    async with AsyncExitStack() as stack:

        async def opened(role: str) -> Keyring:
            pool = await stack.enter_async_context(
                asyncpg.create_pool(database.url(role), min_size=1, max_size=2)
            )
            return Keyring(pool, yard_key)

        yield opened


async def test_every_service_seals_a_person_alike_whoever_is_first(keyring_of: Open) -> None:
    services = [await keyring_of(role) for role in ("scheduler", "artifact", "cost", "scheduler")]
    sealed = {*await asyncio.gather(*(each.seal(ZOE, NAME) for each in services))}
    assert len(sealed) == 1
    reader = await keyring_of("reader")
    assert await reader.open(sealed) == dict.fromkeys(sealed, NAME)
    assert await reader.sealed_already(ZOE, NAME) in sealed
    assert await reader.sealed_already("user:nobody", "nobody") == ""


async def test_once_the_erasure_is_done_nobody_opens_the_name_any_more(keyring_of: Open) -> None:
    scheduler, lineage = await keyring_of("scheduler"), await keyring_of("lineage")
    sealed, other = await scheduler.seal(ZOE, NAME), await scheduler.seal("user:yan", "yan")
    assert (await scheduler.open([sealed]))[sealed] == NAME
    person_id = await lineage.find(ZOE)
    assert person_id == person_of(sealed)
    await lineage.erase(person_id)
    for keyring in (scheduler, lineage, await keyring_of("reader")):
        assert await keyring.open([sealed, other]) == {sealed: ERASED, other: "yan"}
    assert await lineage.find(ZOE) is await lineage.find(sealed[:17]) is None
    assert await lineage.find(other[:17]) == person_of(other)
    again = await scheduler.seal(ZOE, NAME)
    assert person_of(again) != person_id
    assert await scheduler.open([sealed, again]) == {sealed: ERASED, again: NAME}


async def test_of_a_shredded_person_nothing_is_kept_but_the_id(keyring_of: Open, database: Database) -> None:
    lineage = await keyring_of("lineage")
    person_id = person_of(await lineage.seal(ZOE, NAME))
    await lineage.erase(person_id)
    async with database.connected() as admin:
        assert await admin.fetchval("select personal.erase($1)", person_id) is False
        kept = "select name_hash, wrapped_key from personal.person where person_id = $1"
        assert [tuple(row) for row in await admin.fetch(kept, person_id)] == [(None, None)]
        assert await admin.fetchval("select erased_count from personal.erasures") == 1


async def test_what_only_looks_sealed_and_another_yards_names_stay_closed(
    keyring_of: Open, database: Database
) -> None:
    scheduler = await keyring_of("scheduler")
    sealed = await scheduler.seal(ZOE, NAME)
    person_id, key = new_person()
    unknown = PersonKey(person_id, key).seal(NAME)
    forged = PersonKey(person_of(sealed), key).seal(NAME)
    assert await scheduler.open([unknown, forged]) == {unknown: SEALED, forged: SEALED}
    async with asyncpg.create_pool(database.url("cost"), min_size=0, max_size=1) as pool:
        foreign = Keyring(pool, YardKey(os.urandom(YARD_KEY_BYTES)))
        with pytest.raises(Corrupt, match="another yard's key"):
            await foreign.open([sealed])


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_shred_or_change_keys_only_as_it_must(
    role: str, keyring_of: Open, database: Database
) -> None:
    await (await keyring_of("scheduler")).seal(ZOE, NAME)
    refused = [
        "update personal.person set wrapped_key = wrapped_key",
        "delete from personal.person",
        "truncate personal.person",
        "update personal.erasures set erased_count = 0",
    ]
    if role != "runyard_lineage":
        refused.append("select personal.erase(''::bytea)")
    if role in ("runyard_relay", "runyard_reader"):
        refused.append("insert into personal.person (person_id, name_hash, wrapped_key) values ('', '', '')")
    if role == "runyard_relay":
        refused.append("select from personal.person")
    async with database.connected(role) as connection:
        for statement in refused:
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
                await connection.execute(statement)
