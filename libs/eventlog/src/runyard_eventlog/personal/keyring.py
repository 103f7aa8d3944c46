"""The keys of persons: kept in the database, wrapped under the yard's key, and in memory for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from email.utils import parseaddr

import asyncpg

from runyard_core.errors import Corrupt, InvalidInput, Unavailable
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.personal.seals import (
    ERASED,
    PERSON_ID,
    SEALED,
    PersonKey,
    new_person,
    person_of,
)
from runyard_eventlog.personal.yard_key import YardKey

FRESH_SECONDS = 1.0
"""How long a process may go on with keys in memory before it looks whether a person was erased."""
PERSON_LENGTH_MAX = 320

_MEMORY_MAX = 20_000
_CALL_SECONDS_MAX = 10.0
_USER = "user:"

_FIND = "select person_id, wrapped_key from personal.person where name_hash = $1"
_FIND_ID = "select person_id from personal.person where person_id = $1 and wrapped_key is not null"
_ADD = """
insert into personal.person (person_id, name_hash, wrapped_key) values ($1, $2, $3) on conflict do nothing
"""
_KEYS = "select person_id, wrapped_key from personal.person where person_id = any($1)"


class Keyring:
    """Seals and opens for any number of tasks of its loop."""

    def __init__(self, pool: asyncpg.Pool, yard_key: YardKey) -> None:
        """Use the connections of a service's role; one that only reads cannot seal for somebody new."""
        self._pool = pool
        self._yard_key = yard_key
        self._lock = asyncio.Lock()
        self._fresh_until = 0.0
        self._erased_count = -1
        self._sealed: dict[tuple[str, str], str] = {}
        self._opened: dict[str, str] = {}

    async def seal(self, person: str, text: str) -> str:
        """Give the sealed form of a text under the key of a person, who gets one now if need be.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._refresh()
        known = self._sealed.get((person, text))
        return known or await self._seal(person, text, add=True)

    async def sealed_already(self, person: str, text: str) -> str:
        """Give the sealed form of a text, and nothing ("") when the person has no key.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._refresh()
        return self._sealed.get((person, text)) or await self._seal(person, text, add=False)

    async def open(self, sealed: Collection[str]) -> Mapping[str, str]:
        """Give the texts of what is sealed; ``ERASED`` without its key, ``SEALED`` of an unknown person.

        Raises:
            Unavailable: the database does not answer.
        """
        await self._refresh()
        found = {each: self._opened[each] for each in sealed if each in self._opened}
        unknown = [each for each in sealed if each not in found]
        if unknown:
            erased_count = self._erased_count
            opened = await self._open(unknown)
            found |= opened
            if erased_count == self._erased_count:
                _trim(self._opened)
                self._opened.update(opened)
        return found

    async def find(self, person: str) -> bytes | None:
        """Give the id of a person who has a key; ``person`` is what ``person_named`` gave.

        Raises:
            Unavailable: the database does not answer.
        """
        by_id = PERSON_ID.fullmatch(person)
        async with self._connected() as connection:
            if by_id is not None:
                row = await connection.fetchrow(_FIND_ID, person_of(person))
            else:
                row = await connection.fetchrow(_FIND, self._yard_key.name_hash(person))
        return None if row is None else row["person_id"]

    async def erase(self, person_id: bytes) -> None:
        """Shred the key of a person; when this returns, no process opens anything of the person any more.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._connected() as connection:
            await connection.fetchval("select personal.erase($1)", person_id)
        self._fresh_until = 0.0
        # Whoever looked just before the commit goes on for this long, as with a lease.
        await asyncio.sleep(FRESH_SECONDS)

    async def _seal(self, person: str, text: str, *, add: bool) -> str:
        name_hash = self._yard_key.name_hash(person)
        erased_count = self._erased_count
        async with self._connected() as connection:
            row = await connection.fetchrow(_FIND, name_hash)
            if row is None and not add:
                return ""
            if row is None:
                person_id, key = new_person()
                await connection.execute(_ADD, person_id, name_hash, self._yard_key.wrap(person_id, key))
                # Another process may have been first.
                row = await connection.fetchrow(_FIND, name_hash)
        if row is None:
            raise Unavailable("the person was erased at this moment; try again", code="PERSON_ERASED")
        sealed = self._key(row).seal(text)
        if erased_count == self._erased_count:
            _trim(self._sealed)
            self._sealed[person, text] = sealed
        return sealed

    async def _open(self, sealed: Collection[str]) -> dict[str, str]:
        persons = {person_of(each) for each in sealed}
        async with self._connected() as connection:
            rows = await connection.fetch(_KEYS, list(persons))
        keys = {row["person_id"]: None if row["wrapped_key"] is None else self._key(row) for row in rows}
        return {each: _open_with(keys, each) for each in sealed}

    def _key(self, row: asyncpg.Record) -> PersonKey:
        person_id = row["person_id"]
        return PersonKey(person_id, self._yard_key.unwrap(person_id, row["wrapped_key"]))

    async def _refresh(self) -> None:
        """Forget what is in memory once a person was erased."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._fresh_until:
            return
        async with self._lock:
            asked_at = loop.time()
            if asked_at < self._fresh_until:
                return
            async with self._connected() as connection:
                erased_count = await connection.fetchval("select erased_count from personal.erasures")
            if erased_count != self._erased_count:
                self._erased_count = erased_count
                self._sealed.clear()
                self._opened.clear()
            self._fresh_until = asked_at + FRESH_SECONDS

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(_CALL_SECONDS_MAX), self._pool.acquire() as connection:
                yield connection
        except AWAY as error:
            raise Unavailable(
                f"the keys of persons cannot be read: {error!r}", code="KEYS_UNREACHABLE"
            ) from error


def person_of_author(author: str) -> str:
    """Say who an author is, by the mail address: "Alice <Alice@Example.com>" is "mail:alice@example.com"."""
    address = parseaddr(author)[1]
    return f"mail:{(address if '@' in address else author).strip().lower()}"


def person_named(name: str) -> str:
    """Read how a person to erase is named: "user:alice", a mail address, or "~" and the person id.

    Raises:
        InvalidInput: it is none of these (BAD_PERSON).
    """
    if PERSON_ID.fullmatch(name):
        return name
    is_user = name.startswith(_USER) and len(name) > len(_USER)
    if len(name) > PERSON_LENGTH_MAX or not (is_user or parseaddr(name)[1].count("@") == 1):
        raise InvalidInput('a person is "user:NAME", a mail address, or "~PERSON-ID"', code="BAD_PERSON")
    return name if is_user else person_of_author(name)


def _open_with(keys: Mapping[bytes, PersonKey | None], sealed: str) -> str:
    person_id = person_of(sealed)
    if person_id not in keys:
        return SEALED
    key = keys[person_id]
    if key is None:
        return ERASED
    try:
        return key.open(sealed)
    except Corrupt:
        # Anybody may write something into a title that looks sealed.
        return SEALED


def _trim(memory: dict[str, str] | dict[tuple[str, str], str]) -> None:
    if len(memory) >= _MEMORY_MAX:
        memory.clear()
