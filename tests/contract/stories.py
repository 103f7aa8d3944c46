"""A projection that depends on order and on earlier rows, so that every mistake of a projector shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg

from runyard.run.v1.events_pb2 import RunQueued, RunStatusDetailSet
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, RowKey, Rows, TableSpec

POISON = "poison"


@dataclass(frozen=True, slots=True)
class StoryRow:
    """Everything that a run said so far, as a chain of hashes."""

    run_id: str
    position: int
    count: int
    chain: bytes
    last: str | None
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WordRow:
    """How often a word was said, over all runs: rows of one key from many streams."""

    word: str
    run_class: int
    position: int
    count: int


STORY = TableSpec("story", StoryRow, ("run_id",))
WORD = TableSpec("word", WordRow, ("word", "run_class"))


@dataclass(frozen=True, slots=True)
class Stories:
    """The projection. Fails on a poisoned text."""

    version: int = 1
    name: str = "stories"

    @property
    def tables(self) -> tuple[TableSpec[StoryRow], TableSpec[WordRow]]:
        return (STORY, WORD)

    @property
    def event_types(self) -> frozenset[str]:
        return frozenset({"runyard.run.queued", "runyard.run.status_detail_set"})

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        message = _message(event)
        yield RowKey("story", (message.run_id,))
        yield RowKey("word", (_word(message), 7))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        message = _message(event)
        word = _word(message)
        if word == POISON:
            raise ValueError("poisoned")
        story = rows.get(STORY, message.run_id)
        before = story.chain if story else b""
        chain = hashlib.sha256(before + word.encode()).digest()
        words = (*(story.words if story else ()), word)[-3:]
        count = (story.count if story else 0) + 1
        last = word if story else None
        yield Put(STORY, StoryRow(message.run_id, event.position, count, chain, last, words))
        said = rows.get(WORD, word, 7)
        yield Put(WORD, WordRow(word, 7, event.position, (said.count if said else 0) + 1))


class Quotes(Stories):
    """What each run said, in no key: so it may be any text at all."""

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        return (RowKey("story", (_message(event).run_id,)),)

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any]]:
        message = _message(event)
        story = rows.get(STORY, message.run_id)
        count = (story.count if story else 0) + 1
        words = (*(story.words if story else ()), _word(message))
        yield Put(STORY, StoryRow(message.run_id, event.position, count, b"\0", _word(message), words))


async def rows_of(connection: asyncpg.Connection, schema: str, version: int = 1) -> list[tuple[object, ...]]:
    """Give every row of both tables, in order."""
    found: list[tuple[object, ...]] = []
    for table in ("story", "word"):
        rows = await connection.fetch(f"select * from {schema}.{table}_v{version} order by position, 1")
        found.extend(tuple(row) for row in rows)
    return found


def _message(event: RecordedEvent) -> RunQueued | RunStatusDetailSet:
    message = event.message
    assert isinstance(message, RunQueued | RunStatusDetailSet)
    return message


def _word(message: RunQueued | RunStatusDetailSet) -> str:
    return message.title if isinstance(message, RunQueued) else message.status_detail
