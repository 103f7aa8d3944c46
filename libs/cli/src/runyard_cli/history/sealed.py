"""The sealed log as the commands open it: its archive, its database read-only, the keys that are trusted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf
from runyard_cli.failures import ExitCode, fail
from runyard_client import runyard_home
from runyard_client.errors import ClientError, Unreachable
from runyard_core.clock import SystemClock
from runyard_core.errors import Corrupt, InvalidInput, NotFound, OutOfRange, RunyardError, Unavailable
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import open_store
from runyard_eventlog.archived_log import ArchivedEventLog
from runyard_eventlog.manifest import Manifest
from runyard_eventlog.port import EventLog
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_replay.direct import admin_database_url, archive_url, open_pool, reader_database_url
from runyard_replay.reading.moments import moment_of

OWN_KEY = "segment.key.pub"
"""The public key of an embedded yard, in its home."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rows:
    """The log in the database."""

    pool: asyncpg.Pool
    database_url: str
    stored: PostgresStoredLog
    log: EventLog
    """The whole log, the archive included."""


def answer(work: Coroutine[None, None, Result]) -> Result:
    """Run a command's work; what is refused, damaged or away ends with words and the right exit code."""
    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise Unreachable("UNAVAILABLE", error.code, error.message) from None
    except InvalidInput:
        raise
    except Corrupt as error:
        fail(ExitCode.FAILED, error.code, error.message)
    except RunyardError as error:
        raise ClientError("REFUSED", error.code, error.message, metadata=error.metadata) from None


@asynccontextmanager
async def open_archive(named: str) -> AsyncIterator[Archive]:
    """Open the archive that ``--archive`` names, or else this yard's.

    Raises:
        InvalidInput: its address is none (BAD_ARCHIVE_URL).
        NotFound: there is no such folder, or no archive is known (ARCHIVE_UNKNOWN).
    """
    url = named or archive_url(runyard_home(), os.environ)
    if not url:
        raise NotFound(
            f"{runyard_home()} is not the home of a yard on this machine: name the archive by --archive "
            "or RUNYARD_ARCHIVE_URL",
            code="ARCHIVE_UNKNOWN",
        )
    if "://" not in url and not await asyncio.to_thread(Path(url).is_dir):
        raise NotFound(f"there is no archive in {url}", code="ARCHIVE_UNKNOWN")
    store = open_store(url)
    try:
        yield Archive(store)
    finally:
        store.close()


@asynccontextmanager
async def open_rows(archive: Archive, *, as_administrator: bool = False) -> AsyncIterator[Rows]:
    """Open the database of the log, read-only unless an administrator is needed.

    Raises:
        Rejected: this machine does not know it (LOG_UNKNOWN).
        Unavailable: it does not answer (LOG_UNREACHABLE).
    """
    find_url = admin_database_url if as_administrator else reader_database_url
    url = find_url(runyard_home(), os.environ)
    async with open_pool(url, is_read_only=not as_administrator) as pool, PostgresEventLog(pool) as hot:
        stored = PostgresStoredLog(pool)
        yield Rows(pool, url, stored, ArchivedEventLog(hot, stored, archive))


def trusted_keys(paths: Sequence[Path]) -> list[PublicKey]:
    """Read the public keys that are trusted: the files, or else this yard's own.

    Raises:
        InvalidInput: one cannot be read, or is no Ed25519 public key (BAD_KEY_FILE).
        NotFound: none is named, and this is no yard's home, or it has not sealed yet (NO_PUBLIC_KEY).
    """
    if paths:
        return [PublicKey.load(path) for path in paths]
    own = runyard_home() / OWN_KEY
    if not own.exists():
        raise NotFound(f"there is no {own}: name a trusted key by --public-key", code="NO_PUBLIC_KEY")
    return [PublicKey.load(own)]


async def segments_between(
    archive: Archive, rows: Rows | None, begin: AsOf | None, end: AsOf | None
) -> Callable[[Manifest], bool]:
    """Give what tells the segments of both lanes that hold something recorded between two moments.

    Raises:
        InvalidInput: a position below 1 (BAD_POSITION), a first moment behind the second (BAD_SPAN).
        OutOfRange: a moment before the first event (BEFORE_FIRST_EVENT), or that is not there yet
            (POSITION_AHEAD, TIME_AHEAD).
    """
    first = None if begin is None else await _time_of(archive, rows, begin)
    last = None if end is None else await _time_of(archive, rows, end)
    if first is not None and last is not None and first > last:
        raise InvalidInput("the first moment is behind the second", code="BAD_SPAN")

    def is_wanted(manifest: Manifest) -> bool:
        return (first is None or datetime.fromisoformat(manifest.last_recorded_at) >= first) and (
            last is None or datetime.fromisoformat(manifest.first_recorded_at) <= last
        )

    return is_wanted


async def _time_of(archive: Archive, rows: Rows | None, moment: AsOf) -> datetime:
    if rows is not None:
        found = await moment_of(rows.log, moment, SystemClock())
        return found.time.ToDatetime(UTC)
    now = datetime.now(UTC)
    match moment.WhichOneof("at"):
        case "position":
            return await _time_of_sealed(archive, moment.position)
        case "time":
            time = moment.time.ToDatetime(UTC)
        case _:
            time = now
    if time > now:
        raise OutOfRange(f"{time.isoformat()} is in the future", code="TIME_AHEAD")
    return time


async def _time_of_sealed(archive: Archive, position: int) -> datetime:
    if position < 1:
        raise InvalidInput("a position is 1 or more", code="BAD_POSITION")
    names = await archive.names(Lane.LANE_DOMAIN)
    sealed_to = names[-1].last_position if names else 0
    if position > sealed_to:
        raise OutOfRange(
            f"position {position} is ahead of the archive, which ends at {sealed_to}", code="POSITION_AHEAD"
        )
    name = await archive.segment_at(Lane.LANE_DOMAIN, position)
    return (await archive.columns(name)).recorded_at[position - name.first_position]
