"""What is done for each segment of a verification: its copies are fetched and compared, here or in processes.

A process opens the archive and the database itself: a row on its way through another process costs as much
as hashing it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import forkserver, util

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Unavailable
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import ArchiveStore
from runyard_eventlog.chain import Finding
from runyard_eventlog.connections import AWAY, close_pool, leave_as_it_is
from runyard_eventlog.copies import Copies, archived_count, compare
from runyard_eventlog.giving_way import give_way
from runyard_eventlog.manifest import Manifest
from runyard_eventlog.stored_log import PostgresStoredLog, StoredLog

CompareCopies = Callable[[Lane.ValueType, Manifest], Coroutine[None, None, "Compared"]]
_PRELOADED = ["__main__", "asyncpg", "pyarrow.compute", "pyarrow.parquet", __name__]
_KEEPS_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MIMALLOC_PURGE_DELAY": "-1",
}
"""Lets the processes keep what one segment took for the next: to give it back and ask again took a tenth."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a segment."""

    findings: list[Finding]
    archived_count: int
    database_count: int


@dataclass(frozen=True, slots=True)
class Places:
    """Where the copies of a segment are."""

    archive: Archive
    stored: StoredLog | None
    """None leaves the database out."""
    _boundaries: dict[Lane.ValueType, int] = field(default_factory=dict)
    """Lowest positions of the database, as of the last look."""

    async def fetch(self, lane: Lane.ValueType, manifest: Manifest) -> Copies:
        """Fetch the copies of a segment.

        Raises:
            Unavailable: the archive or the database does not answer.
        """
        first, last = manifest.first_position, manifest.last_position
        store, stored = self.archive.store, self.stored
        parquet, leaves = await asyncio.gather(
            store.get(manifest.name.parquet), store.get(manifest.name.leaves)
        )
        if stored is None:
            return Copies(manifest, parquet, leaves, None, last + 1)
        if lane not in self._boundaries:
            self._boundaries[lane] = await stored.first_position(lane)
        while True:
            boundary = self._boundaries[lane]
            start = max(first, boundary)
            rows = await stored.columns(lane, start, last)
            self._boundaries[lane] = await stored.first_position(lane)
            if self._boundaries[lane] == boundary:
                return Copies(manifest, parquet, leaves, rows, min(start, last + 1))
            # A partition was detached since the last look.


@contextmanager
def comparing(places: Places, database_url: str, process_count: int) -> Iterator[CompareCopies]:
    """Give what fetches and compares the copies of a segment.

    Args:
        places: where they are.
        database_url: of the database among them, for processes to open.
        process_count: processes that do it, which end with the block; with one a thread compares.
    """

    async def here(lane: Lane.ValueType, manifest: Manifest) -> Compared:
        copies = await places.fetch(lane, manifest)
        return _compared(copies, await asyncio.to_thread(compare, copies))

    if process_count == 1:
        yield here
        return
    # What loads Arrow once is forked for each process, which a process with threads must not be.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with _environment(_KEEPS_MEMORY):
        forkserver.ensure_running()
    given = (places.archive.store, database_url if places.stored is not None else "")
    with ProcessPoolExecutor(process_count, context, _begin, given) as executor:

        async def there(lane: Lane.ValueType, manifest: Manifest) -> Compared:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(executor, _compared_in_share, lane, manifest)

        yield there


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that are not set, for what is started meanwhile."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class _Share:
    """What a process of its own has open for as long as it lives."""

    mine: _Share

    def __init__(self, store: ArchiveStore, database_url: str) -> None:
        self._places = Places(Archive(store), None)
        self._database_url = database_url
        self._loop = asyncio.new_event_loop()
        self._pool: asyncpg.Pool | None = None
        util.Finalize(None, self._close, exitpriority=1)

    def compared(self, lane: Lane.ValueType, manifest: Manifest) -> Compared:
        """Fetch and compare, one after the other: while one process waits, another one hashes."""
        copies = self._loop.run_until_complete(self._fetch(lane, manifest))
        return _compared(copies, compare(copies))

    async def _fetch(self, lane: Lane.ValueType, manifest: Manifest) -> Copies:
        if self._database_url and self._pool is None:
            try:
                self._pool = await asyncpg.create_pool(
                    # Compiling the statement takes longer than what it does for a segment.
                    self._database_url,
                    min_size=1,
                    max_size=1,
                    server_settings={"jit": "off"},
                    reset=leave_as_it_is,
                )
            except AWAY as error:
                raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
            self._places = Places(self._places.archive, PostgresStoredLog(self._pool))
        return await self._places.fetch(lane, manifest)

    def _close(self) -> None:
        if self._pool is not None:
            self._loop.run_until_complete(close_pool(self._pool))


def _begin(store: ArchiveStore, database_url: str) -> None:
    # The yard goes on beside it.
    give_way()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Share.mine = _Share(store, database_url)


def _end_with_parent() -> None:
    """End when the process is gone that wants the results: who waits for its work would wait for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _compared_in_share(lane: Lane.ValueType, manifest: Manifest) -> Compared:
    return _Share.mine.compared(lane, manifest)


def _compared(copies: Copies, findings: list[Finding]) -> Compared:
    return Compared(findings, archived_count(copies, findings), copies.database_count)
