"""Group commit: one task sends everybody's waiting commands to the log's append function in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from runyard_contracts.ids import Position
from runyard_core.errors import InvalidInput, PermissionDenied, RunyardError, Unavailable
from runyard_eventlog import refusals
from runyard_eventlog.admission import AdmittedCommand
from runyard_eventlog.batching import next_batch
from runyard_eventlog.connections import AWAY
from runyard_eventlog.port import Appended

QUEUE_MAX = 4_000
"""Most commands that wait; further callers wait to be let in."""
CALL_SECONDS_MAX = 10.0
"""How long the database may take for one batch, waiting for the log's lock included."""

APPEND = """
select command, outcome, first_position, positions, stream, expected, actual, event_id
from log.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
"""
_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    command: AdmittedCommand
    answer: asyncio.Future[Appended]
    deadline: float


class Appender:
    """Owns one connection and one task; safe to be called by any number of tasks of its loop."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._connection: PoolConnectionProxy[asyncpg.Record] | None = None
        self._waiting: list[_Waiting] = []
        self._room = asyncio.Semaphore(QUEUE_MAX)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def append(self, command: AdmittedCommand, timeout_seconds: float) -> Appended:
        """Send a command with the next batch, and wait for its answer.

        A caller that is cancelled or times out does not know whether the command was appended; sending
        it again gets the answer.

        Raises:
            Conflict, IdReused, PermissionDenied, InvalidInput: as the log says; nothing was appended.
            Unavailable: no answer in time.
        """
        if self._closed:
            raise Unavailable("the log is closed")
        if self._task is None:
            # Ended by close(); a task group cannot span calls of different tasks.
            self._task = asyncio.create_task(self._run(), name="log-appender")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_seconds), self._room:
                waiting = _Waiting(command, loop.create_future(), loop.time() + timeout_seconds)
                self._waiting.append(waiting)
                self._wake.set()
                return await waiting.answer
        except TimeoutError:
            raise Unavailable(
                f"the log did not answer within {timeout_seconds} s; sending the same command again is safe",
                code="LOG_TIMEOUT",
            ) from None

    async def close(self) -> None:
        """End the task; what still waits gets ``Unavailable``."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            _refuse(waiting, Unavailable("the log was closed; sending the same command again is safe"))
        self._waiting.clear()
        await self._drop_connection()

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            # A turn for every task that is ready to append: they share this batch.
            await asyncio.sleep(0)
            self._waiting = [waiting for waiting in self._waiting if not waiting.answer.done()]
            indexes = next_batch([waiting.command for waiting in self._waiting])
            batch = [self._waiting[index] for index in indexes]
            taken = set(indexes)
            self._waiting = [waiting for index, waiting in enumerate(self._waiting) if index not in taken]
            if batch:
                await self._settle(batch)

    async def _settle(self, batch: list[_Waiting]) -> None:
        """Give each of a batch its answer, whatever happens."""
        try:
            answers = await self._send([waiting.command for waiting in batch], max(w.deadline for w in batch))
        except asyncio.CancelledError:
            for waiting in batch:
                _refuse(waiting, Unavailable("the log was closed; sending the same command again is safe"))
            raise
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                _refuse(batch[0], _as_runyard_error(error))
                return
            # One of them is at fault (say, an event id that the other lane took meanwhile): find which.
            for waiting in batch:
                await self._settle([waiting])
        except Exception as error:  # noqa: BLE001 - the loop's top: a caller must never wait for ever
            _log.exception("append failed")
            for waiting in batch:
                _refuse(waiting, Unavailable(f"append failed: {error}"))
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if isinstance(answer, RunyardError):
                    _refuse(waiting, answer)
                elif not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _send(
        self, commands: Sequence[AdmittedCommand], deadline: float
    ) -> list[Appended | RunyardError]:
        """Call the append function, again after a lost connection: ids make the repetition harmless."""
        loop = asyncio.get_running_loop()
        arguments = append_arguments(commands)
        for attempt in range(1_000_000):
            try:
                if self._connection is None:
                    self._connection = await self._pool.acquire(timeout=CALL_SECONDS_MAX)
                rows = await self._connection.fetch(APPEND, *arguments, timeout=CALL_SECONDS_MAX)
                return _answers(commands, rows)
            except AWAY as error:
                await self._drop_connection()
                pause = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                if loop.time() + pause > deadline:
                    raise Unavailable(
                        f"the log does not answer: {error!r}", code="LOG_UNREACHABLE"
                    ) from error
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.terminate()
            await self._pool.release(connection, timeout=1.0)
        except AWAY:
            _log.debug("the appender's connection was gone already")


def append_arguments(commands: Sequence[AdmittedCommand]) -> tuple[object, ...]:
    """Give the arguments of ``log.append`` in its order."""
    events = [(index, event) for index, command in enumerate(commands, start=1) for event in command.events]
    expected = [dict(command.streams) for command in commands]
    return (
        int(commands[0].lane),
        [command.command_id for command in commands],
        [command.digest for command in commands],
        [len(command.events) for command in commands],
        [index for index, _ in events],
        [event.stream for _, event in events],
        [expected[index - 1][event.stream] for index, event in events],
        [event.version for _, event in events],
        [event.type for _, event in events],
        [event.event_id for _, event in events],
        [event.digest for _, event in events],
        [event.correlation_id for _, event in events],
        [event.causation_id for _, event in events],
        [event.actor for _, event in events],
        [event.payload for _, event in events],
    )


def _answers(
    commands: Sequence[AdmittedCommand], rows: list[asyncpg.Record]
) -> list[Appended | RunyardError]:
    by_command = {row["command"]: row for row in rows}
    return [_answer(command, by_command[index]) for index, command in enumerate(commands, start=1)]


def _answer(command: AdmittedCommand, row: asyncpg.Record) -> Appended | RunyardError:
    command_id = command.command_id
    match row["outcome"]:
        case "appended" | "repeated" as outcome:
            first = row["first_position"]
            positions = row["positions"] or range(first, first + len(command.events))
            found = tuple(Position(position) for position in positions)
            return Appended(found[-1], found, repeated=outcome == "repeated")
        case "conflict":
            return refusals.conflict(row["stream"], row["expected"], row["actual"])
        case "denied":
            return refusals.denied(row["stream"])
        case "command_reused":
            return refusals.command_reused(command_id, row["first_position"])
        case "event_reused":
            return refusals.event_reused(str(row["event_id"]), row["first_position"], command_id)
        case "partly_known":
            return refusals.events_partly_known(command_id, len(row["positions"]), len(command.events))
        case outcome:
            raise AssertionError(f"the append function said {outcome!r}")


def _refuse(waiting: _Waiting, error: RunyardError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _as_runyard_error(error: asyncpg.PostgresError) -> RunyardError:
    text = f"the log refused the command: {error}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return PermissionDenied(text, code="NOT_A_WRITER")
    if isinstance(error, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError):
        return InvalidInput(text, code="REFUSED_BY_LOG")
    return Unavailable(text, code="LOG_UNAVAILABLE")
