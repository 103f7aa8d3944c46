"""A long history for the benchmarks of replay: whole lives of runs, written to the log's tables by COPY.

Every event is serialised once by the library, with marks in place of what differs from run to run, and then
written as often as needed with the marks replaced: a million events take seconds. The rows are those that an
append of one event writes, through the log's own constraints; only ``log.command`` stays empty. A test lets
the verifier and every reader look at them.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import asyncpg
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import Context, actor_name, parse_actor, wrap
from runyard_contracts.ids import EventId, StreamName, uuid7
from runyard_eventlog.stored_event import RECORDED_EPOCH
from tests.bench import replay_lives as lives
from tests.bench.replay_lives import EVENTS_A_RUN, EVENTS_TO_QUEUE

RUNS_AT_ONCE = 50
_BATCH = 64
"""Events that the log recorded at one instant."""
_COPIED = 20_000
_BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
_BEGUN_US = int(_BEGUN.timestamp()) * 1_000_000
_EPOCH_US = int(RECORDED_EPOCH.timestamp()) * 1_000_000
_CONTEXT = Context(parse_actor("user:bench"), uuid7(), "/scheduler")
_COLUMNS = (
    *("lane", "position", "version", "after_position", "recorded_at", "event_id", "causation_id", "stream"),
    *("type", "correlation_id", "actor", "payload"),
)
_ROW = struct.Struct(">hihiqiqiqiqi16sii")
"""Number of columns, and length and value of all before the stream, whose length is the last."""
_EVENT_ID_ROW = struct.Struct(">hi16siqihi32s")
_STREAM_ROW = struct.Struct(">hi")
_COPY_BEGIN, _COPY_END = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"


@dataclass(frozen=True, slots=True)
class _Template:
    """An event with marks, and what of its row does not depend on the run."""

    pieces: list[bytes]
    """The stored envelope between its marks."""
    marks: list[bytes]
    stream: bytes
    """The stream's name, with its mark."""
    rest: bytes
    """Length and value of type, correlation id and actor."""
    version: int
    """Of the stream; 0 when it depends on the runs before."""


class History:
    """Goes on with the log of a database, always in the same way."""

    def __init__(self, url: str) -> None:
        """Use an administrator's address of a log without events."""
        self._url = url
        self._versions: defaultdict[bytes, int] = defaultdict(int)
        self._templates: dict[tuple[int, int], _Template] = {}
        self._price: _Template | None = _template(*lives.price(), 1)
        self._order = self._events()
        self.position = 0
        self.run_ids: list[str] = []

    async def grow_to(self, position: int) -> None:
        """Write whole lives of runs until the log has so many events."""
        await self._write(islice(self._order, position - self.position))

    async def queue(self, run_count: int) -> None:
        """Write runs that wait, ``EVENTS_TO_QUEUE`` events of each."""
        await self._write(event for _ in range(run_count) for event in _queued(self._next_run()))

    async def _write(self, events: Iterator[tuple[int, int]]) -> None:
        async with (
            asyncpg.create_pool(self._url, min_size=3, max_size=3) as pool,
            _without_indexes(pool),
        ):
            while chunk := list(islice(events, _COPIED)):
                rows = [self._row(number, index) for number, index in chunk]
                copied = zip(
                    ("event", "event_id", "stream"),
                    (_COLUMNS, ("event_id", "position", "lane", "digest"), ("stream", "version")),
                    map(b"".join, zip(*rows, strict=True)),
                    strict=True,
                )
                await asyncio.gather(
                    *(_copy(pool, table, columns, content) for table, columns, content in copied)
                )
        connection = await asyncpg.connect(self._url)
        await connection.execute("vacuum analyze log.event, log.event_id, log.stream")
        await connection.close()

    def _events(self) -> Iterator[tuple[int, int]]:
        """Give the numbers of runs and of events of their lives, many runs at a time."""
        yield 0, 0
        while True:
            numbers = [self._next_run() for _ in range(RUNS_AT_ONCE)]
            for number in numbers:
                yield from _queued(number)
            for index in range(EVENTS_TO_QUEUE, EVENTS_A_RUN):
                for number in numbers:
                    yield number, index

    def _next_run(self) -> int:
        self.run_ids.append(lives.run_id(len(self.run_ids) + 1))
        return len(self.run_ids)

    def _row(self, number: int, index: int) -> tuple[bytes, bytes, bytes]:
        """Make the rows of the next event: of the event, its id, its stream."""
        self.position += 1
        template = self._template(number, index)
        values = lives.values(number)
        event_id = lives.event_id(self.position).encode()
        raw_id = bytes.fromhex(event_id.replace(b"-", b"").decode())
        stream = template.stream
        for mark in (lives.RUN, lives.MODEL):
            stream = stream.replace(mark, values[mark])
        # Only nodes and projects live longer than a run, so only their versions are remembered.
        version = template.version
        if not version:
            version = self._versions[stream] = self._versions[stream] + 1
        at_us = _BEGUN_US + self.position // _BATCH * 1_000
        values |= {
            lives.EVENT: event_id,
            lives.VERSION: Envelope(stream_version=version).SerializeToString(),
            lives.OCCURRED: _occurred(at_us),
        }
        payload = template.pieces[0] + b"".join(
            [values[mark] + piece for mark, piece in zip(template.marks, template.pieces[1:], strict=True)]
        )
        fixed = _ROW.pack(
            *(12, 2, 1, 8, self.position, 8, version, 8, 0, 8, at_us - _EPOCH_US, 16, raw_id, -1, len(stream))
        )
        digest = hashlib.sha256(payload).digest()
        return (
            b"".join((fixed, stream, template.rest, len(payload).to_bytes(4, "big"), payload)),
            _EVENT_ID_ROW.pack(4, 16, raw_id, 8, self.position, 2, 1, 32, digest),
            _STREAM_ROW.pack(2, len(stream)) + stream + struct.pack(">iq", 8, version),
        )

    def _template(self, number: int, index: int) -> _Template:
        if self._price is not None:
            price, self._price = self._price, None
            return price
        key = (number % lives.KINDS, index)
        if key not in self._templates:
            self._templates[key] = _template(*lives.event(*key), lives.VERSIONS[index])
        return self._templates[key]


def _queued(number: int) -> Iterator[tuple[int, int]]:
    return ((number, index) for index in range(EVENTS_TO_QUEUE))


def _template(stream: StreamName, message: Message, version: int) -> _Template:
    envelope = wrap(message, stream, _CONTEXT, lives.AT, event_id=EventId(lives.EVENT.decode()))
    envelope.command_id = lives.EVENT.decode()
    envelope.stream_version = lives.STREAM_VERSION
    pieces, marks = lives.split(envelope.SerializeToString(deterministic=True))
    texts = (envelope.type, envelope.correlation_id, actor_name(envelope.actor))
    rest = b"".join(len(text).to_bytes(4, "big") + text.encode() for text in texts)
    return _Template(pieces, marks, stream.encode(), rest, version)


def _occurred(at_us: int) -> bytes:
    envelope = Envelope()
    envelope.occurred_at.FromMicroseconds(at_us)
    return envelope.SerializeToString()


async def _copy(pool: asyncpg.Pool, table: str, columns: tuple[str, ...], content: bytes) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield _COPY_BEGIN
        yield content
        yield _COPY_END

    async with pool.acquire() as connection:
        await connection.copy_to_table(
            table, schema_name="log", columns=columns, source=source(), format="binary"
        )


@asynccontextmanager
async def _without_indexes(pool: asyncpg.Pool) -> AsyncIterator[None]:
    """Take the secondary indexes of events away while the block runs: made at once they cost less."""
    found = await pool.fetch(
        "select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as statement "
        "from pg_index where indrelid = 'log.event'::regclass and not indisprimary"
    )
    for row in found:
        await pool.execute(f"drop index {row['name']}")
    try:
        yield
    finally:
        for row in found:
            await pool.execute(row["statement"].replace(" ON ONLY ", " ON "))
