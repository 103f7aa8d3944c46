"""Rows and keys of texts that PostgreSQL cannot hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.envelope import Context, parse_actor, wrap
from runyard_contracts.ids import Position, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_core.projection import Put, PutAll, RowKey, Rows, TableSpec
from runyard_eventlog.folding import BatchFold
from runyard_eventlog.row_cache import RowCache, RowMissingError
from runyard_eventlog.storable import Storable


@dataclass(frozen=True, slots=True)
class WordRow:
    word: str
    position: int
    count: int
    bytes_said: bytes
    all_said: tuple[str, ...]


class LineRow(NamedTuple):
    word: str
    position: int
    note: str | None


WORDS = TableSpec("word", WordRow, ("word",))
LINES = TableSpec("line", LineRow, ("word",))
PLAIN = TableSpec("plain", LineRow, ("word",), is_read=False)


class Saying:
    """Counts words; each event says its word and one more."""

    name = "saying"
    version = 1
    tables: tuple[TableSpec[Any], ...] = (WORDS, LINES, PLAIN)
    event_types = frozenset({"runyard.run.status_detail_set"})

    def reads(self, event: RecordedEvent) -> Iterable[RowKey]:
        yield RowKey("word", (_word(event),))
        yield RowKey("line", (_word(event),))

    def apply(self, event: RecordedEvent, rows: Rows) -> Iterable[Put[Any] | PutAll[Any]]:
        word, position = _word(event), event.position
        before, line = rows.get(WORDS, word), rows.lookup(LINES)((word,))
        said = (*(before.all_said if before else ()), word)
        yield Put(WORDS, WordRow(word, position, len(said), word.encode(), said))
        yield PutAll(LINES, [LineRow(word, position, line.note if line else None)])
        yield PutAll(PLAIN, [(word, position, "more\0"), LineRow(f"{word}!", position, None)])


def _word(event: RecordedEvent) -> str:
    assert isinstance(event.message, RunStatusDetailSet)
    return event.message.status_detail


def _said(*words: str) -> list[RecordedEvent]:
    context = Context(parse_actor("user:alice"), "it", source="/scheduler")
    events = []
    for position, word in enumerate(words, start=1):
        message = RunStatusDetailSet(run_id="it", status_detail=word)
        envelope = wrap(message, stream_name("run", "it"), context, datetime(2026, 1, 1, tzinfo=UTC))
        envelope.position = envelope.stream_version = Position(position)
        events.append(RecordedEvent(envelope))
    return events


def test_a_key_finds_the_row_that_it_is_stored_as_and_rows_have_no_nul() -> None:
    fold = BatchFold(
        Storable(Saying()), _said("a\0", "b", "a\ufffd"), frozenset(), RowCache(has_all_keys=True)
    )
    assert not fold.go_on()
    assert not fold.folded.parked
    assert fold.folded.rows == {
        "word": [
            WordRow("a\ufffd", 1, 1, b"a\0", ("a\ufffd",)),
            WordRow("b", 2, 1, b"b", ("b",)),
            WordRow("a\ufffd", 3, 2, "a\ufffd".encode(), ("a\ufffd", "a\ufffd")),
        ],
        "line": [LineRow("a\ufffd", 1, None), LineRow("b", 2, None), LineRow("a\ufffd", 3, None)],
        "plain": [
            *(("a\ufffd", 1, "more\ufffd"), LineRow("a\ufffd!", 1, None)),
            *(("b", 2, "more\ufffd"), LineRow("b!", 2, None)),
            *(("a\ufffd", 3, "more\ufffd"), LineRow("a\ufffd!", 3, None)),
        ],
    }
    assert [type(row) for row in fold.folded.rows["line"]] == [LineRow] * 3


def test_rows_are_asked_for_by_the_keys_that_they_are_stored_as() -> None:
    fold = BatchFold(Storable(Saying()), _said("a\0", "a\ufffd"), frozenset(), RowCache(has_all_keys=False))
    missing = fold.go_on()
    assert missing == {"word": {("a\ufffd",)}, "line": {("a\ufffd",)}}
    stored = WordRow("a\ufffd", 0, 1, b"", ("a\ufffd",))
    fold.supply(missing, {RowKey("word", ("a\ufffd",)): stored})
    assert not fold.go_on()
    assert [row.count for row in fold.folded.rows["word"]] == [2, 3]


def test_a_fold_that_has_all_rows_does_not_say_that_a_key_with_a_nul_has_none() -> None:
    cache = RowCache(has_all_keys=True)
    assert cache.get(WORDS, "a") is None
    with pytest.raises(RowMissingError):
        cache.get(WORDS, "a\0")
