"""An imported log: one SQLite file in a scratch home, to look into without any engine. Never appended to."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_contracts.envelope import actor_name
from runyard_contracts.ids import CommandId, EventId, Position, StreamName, stream_category
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Corrupt, InvalidInput, Rejected
from runyard_eventlog.port import (
    EVERYTHING,
    PAGE_BYTES_MAX,
    READ_LIMIT_MAX,
    AppendCommand,
    Appended,
    EventFilter,
    LogHead,
    Page,
)
from runyard_replay.exports import Manifest, read_events

FILE = "imported-history.sqlite"
_MICROSECONDS = 1_000_000
_SCHEMA = """
create table log (log_id text not null);
create table event (
  lane integer not null, position integer not null, version integer not null,
  after_position integer not null, recorded_us integer not null, event_id text not null unique,
  causation_id text not null, stream text not null, type text not null, correlation_id text not null,
  actor text not null, payload blob not null,
  primary key (lane, position)) without rowid;
create unique index event_stream on event (stream, version);
create index event_correlation on event (correlation_id, position);
create index event_causation on event (causation_id);
create index event_type on event (type, position);
"""


def import_log(folder: Path, manifest: Manifest, home: Path) -> int:
    """Read an export into a home that has no log yet; all of it or nothing. Gives the number of events.

    Raises:
        Rejected: the home has a log (LOG_NOT_EMPTY).
        Corrupt: a file is not what the manifest says (MANIFEST_MISMATCH).
        InvalidInput: the home cannot be written (HOME_UNWRITABLE).
    """
    for name in (FILE, "credentials.json", "context.json"):
        if (home / name).exists():
            raise Rejected(
                f"{home} has a yard or an imported log ({name}): name an empty RUNYARD_HOME to import into",
                code="LOG_NOT_EMPTY",
            )
    new = home / f".{FILE}.new"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            count = _fill(new, folder, manifest)
            new.rename(home / FILE)
        finally:
            new.unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError) as error:
        raise InvalidInput(f"{home} cannot be written: {error}", code="HOME_UNWRITABLE") from error
    return count


def _fill(path: Path, folder: Path, manifest: Manifest) -> int:
    count = 0
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(_SCHEMA)
        database.execute("insert into log values (?)", (manifest.log_id,))
        for entry in manifest.files:
            try:
                database.executemany(
                    "insert into event values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (_row(envelope) for envelope in read_events(folder, entry)),
                )
            except sqlite3.IntegrityError as error:
                raise Corrupt(
                    f"{entry.name} has an event twice: {error}", code="MANIFEST_MISMATCH"
                ) from error
            count += entry.event_count
    return count


def _row(envelope: Envelope) -> tuple[object, ...]:
    return (
        envelope.lane,
        envelope.position,
        envelope.stream_version,
        envelope.after_position,
        envelope.recorded_at.ToMicroseconds(),
        envelope.event_id,
        envelope.causation_id,
        envelope.stream,
        envelope.type,
        envelope.correlation_id,
        actor_name(envelope.actor),
        envelope.SerializeToString(deterministic=True),
    )


class ImportedLog:
    """Fills the reading half of the ``EventLog`` port; the file is local, so calls do not give way."""

    def __init__(self, path: Path) -> None:
        """Open an imported log read-only.

        Raises:
            Corrupt: it is not one (LOG_UNREADABLE).
        """
        try:
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            (self._log_id,) = self._database.execute("select log_id from log").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise Corrupt(f"{path} is not an imported log: {error}", code="LOG_UNREADABLE") from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    async def append(self, command: AppendCommand) -> Appended:
        """Refuse: an imported log stays as it is."""
        raise Rejected(
            f"command {command.command_id}: an imported log is not appended to", code="READ_ONLY_LOG"
        )

    async def find_command(self, command_id: CommandId, request_digest: bytes = b"") -> Appended | None:
        """Refuse: nobody sends commands to an imported log."""
        raise _read_only(command_id, request_digest)

    async def read_stream(
        self,
        stream: StreamName,
        *,
        after_version: int = 0,
        to_position: Position | None = None,
        limit: int = READ_LIMIT_MAX,
    ) -> list[RecordedEvent]:
        """See ``EventLog.read_stream``."""
        lane = Lane.LANE_TELEMETRY if stream_category(stream) == "telemetry" else Lane.LANE_DOMAIN
        rows = self._database.execute(
            "select payload from event where stream = ? and version > ? and position <= ? and lane = ? "
            "order by version limit ?",
            (stream, after_version, _up_to(to_position), lane, min(limit, READ_LIMIT_MAX)),
        )
        return list(_events(rows))

    async def read(
        self,
        lane: Lane.ValueType,
        *,
        after_position: Position = Position(0),
        to_position: Position | None = None,
        filter: EventFilter = EVERYTHING,  # noqa: A002 - the port's word
        limit: int = 1_000,
        descending: bool = False,
    ) -> Page:
        """See ``EventLog.read``."""
        head = (await self.head()).of(lane)
        last = min(_up_to(to_position), head)
        conditions, arguments = _conditions(filter)
        order = "desc" if descending else "asc"
        limit = min(limit, READ_LIMIT_MAX)
        rows = self._database.execute(
            "select payload from event where lane = ? and position > ? and position <= ?"  # noqa: S608 - only words of this code are put in
            f"{''.join(f' and {condition}' for condition in conditions)} order by position {order} limit ?",
            (lane, after_position, last, *arguments, limit),
        )
        events: list[RecordedEvent] = []
        room = PAGE_BYTES_MAX
        for (payload,) in rows:
            room -= len(payload)
            if room < 0:
                return Page(events, events[-1].position, is_full=True)
            events.append(RecordedEvent(Envelope.FromString(payload)))
        if len(events) == limit:
            return Page(events, events[-1].position, is_full=True)
        if descending:
            return Page(events, Position(min(after_position + 1, last)))
        return Page(events, Position(max(after_position, last)))

    async def head(self) -> LogHead:
        """See ``EventLog.head``."""
        return LogHead(self._log_id, self._head_of(Lane.LANE_DOMAIN), self._head_of(Lane.LANE_TELEMETRY))

    async def position_at(self, time: datetime) -> Position:
        """See ``EventLog.position_at``."""
        wanted = round(time.timestamp() * _MICROSECONDS)
        low, high = 0, int(self._head_of(Lane.LANE_DOMAIN))
        while low < high:
            middle = (low + high + 1) // 2
            (recorded,) = self._database.execute(
                "select recorded_us from event where lane = ? and position = ?", (Lane.LANE_DOMAIN, middle)
            ).fetchone()
            if recorded <= wanted:
                low = middle
            else:
                high = middle - 1
        return Position(low)

    async def find(self, event_id: EventId) -> RecordedEvent | None:
        """See ``EventLog.find``."""
        rows = self._database.execute("select payload from event where event_id = ?", (event_id,))
        return next(_events(rows), None)

    def _head_of(self, lane: Lane.ValueType) -> Position:
        rows = self._database.execute("select max(position) from event where lane = ?", (lane,))
        return Position(rows.fetchone()[0] or 0)


def _read_only(command_id: str, request_digest: bytes = b"") -> Rejected:
    named = f"{command_id} {request_digest.hex()}".strip()
    return Rejected(f"command {named}: an imported log takes none", code="READ_ONLY_LOG")


def _up_to(position: Position | None) -> int:
    return 2**62 if position is None else position


def _events(rows: sqlite3.Cursor) -> Iterator[RecordedEvent]:
    for (payload,) in rows:
        yield RecordedEvent(Envelope.FromString(payload))


def _conditions(wanted: EventFilter) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    arguments: list[object] = []
    if wanted.types:
        patterns = ["type glob ?" if name.endswith(".") else "type = ?" for name in wanted.types]
        conditions.append(f"({' or '.join(patterns)})")
        arguments.extend(f"{name}*" if name.endswith(".") else name for name in wanted.types)
    for column, values in (("stream", wanted.streams), (_CATEGORY, wanted.categories)):
        if values:
            conditions.append(f"{column} in ({', '.join('?' for _ in values)})")
            arguments.extend(values)
    equals = {
        "correlation_id": wanted.correlation_id,
        "causation_id": wanted.causation_id,
        "actor": wanted.actor,
    }
    for column, value in equals.items():
        if value:
            conditions.append(f"{column} = ?")
            arguments.append(value)
    return conditions, arguments


_CATEGORY = "substr(stream, 1, instr(stream, '-') - 1)"
