"""Group commit: one task sends everybody's waiting commands to the log's append function in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_core.errors import InvalidInput, PermissionDenied, RunyardError, Unavailable
from runyard_core.retry import Backoff, Retries, retried
from runyard_eventlog.admission import AdmittedCommand
from runyard_eventlog.append_call import APPEND, append_answers, append_arguments
from runyard_eventlog.batching import next_batch
from runyard_eventlog.connections import AWAY
from runyard_eventlog.port import Appended

QUEUE_MAX = 4_000
"""Most commands that wait; further callers wait to be let in."""
CALL_SECONDS_MAX = 10.0
"""How long the database may take for one batch, waiting for the log's lock included."""

_SAFE = "sending the same command again is safe"
_WATCH_SECONDS = 0.2
_BACKOFF = Backoff(first_seconds=0.05, seconds_max=1.0)

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    command: AdmittedCommand
    answer: asyncio.Future[Appended]
    deadline: float


class Appender:
    """Owns one connection and the queue before it; safe to be called by any number of tasks of its loop.

    One batch is under way at a time. Two would overlap the database's work with this process's, but halve
    the batches: measured on two busy cores that cost 30 % more processor time for each command.
    """

    def __init__(self, pool: asyncpg.Pool, on_appended: Callable[[Lane.ValueType, Position], None]) -> None:
        """Use a connection of the pool; call back once for each batch, with its lane and last position."""
        self._pool = pool
        self._on_appended = on_appended
        self._waiting: list[_Waiting] = []
        self._under_way: list[_Waiting] = []
        self._room = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
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
        if not self._tasks:
            # Ended by close(); a task group cannot span calls of different tasks.
            self._tasks = [
                asyncio.create_task(self._run(), name="log-appender"),
                asyncio.create_task(self._watch(), name="log-appender-watch"),
            ]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        if len(self._waiting) >= QUEUE_MAX:
            await self._wait_for_room(deadline)
        waiting = _Waiting(command, loop.create_future(), deadline)
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.answer

    async def close(self) -> None:
        """End the tasks; what still waits gets ``Unavailable``."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        _refuse(self._waiting, Unavailable(f"the log was closed; {_SAFE}"))
        self._waiting.clear()
        self._room.set()

    async def _wait_for_room(self, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                while len(self._waiting) >= QUEUE_MAX:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError as error:
            raise _too_late() from error
        if self._closed:
            raise Unavailable(f"the log was closed; {_SAFE}")

    async def _run(self) -> None:
        sender = _Sender(self._pool)
        try:
            while True:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                # A turn for every task that is ready to append: they share this batch.
                await asyncio.sleep(0)
                self._under_way = self._take()
                if self._under_way:
                    await self._settle(sender, self._under_way)
        finally:
            await sender.drop_connection()

    async def _watch(self) -> None:
        """Refuse what waits too long: one timer for all, where one for each command cost 8 us."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            now = asyncio.get_running_loop().time()
            late = [waiting for waiting in (*self._waiting, *self._under_way) if waiting.deadline < now]
            _refuse(late, _too_late())

    def _take(self) -> list[_Waiting]:
        """Take the next batch out of the queue; callers that have gone away are left out."""
        waiting = [one for one in self._waiting if not one.answer.done()]
        indexes = next_batch([one.command for one in waiting])
        taken = set(indexes)
        self._waiting = [one for index, one in enumerate(waiting) if index not in taken]
        self._room.set()
        return [waiting[index] for index in indexes]

    async def _settle(self, sender: _Sender, batch: list[_Waiting]) -> None:
        """Give each of a batch its answer, whatever happens."""
        try:
            answers = await sender.send(
                [waiting.command for waiting in batch], max(waiting.deadline for waiting in batch)
            )
        except asyncio.CancelledError:
            _refuse(batch, Unavailable(f"the log was closed; {_SAFE}"))
            raise
        except Unavailable as error:
            _refuse(batch, error)
        except asyncpg.PostgresError as error:
            if len(batch) == 1:
                _refuse(batch, _as_runyard_error(error))
                return
            # One of them is at fault (say, an event id that the other lane took meanwhile): find which.
            for waiting in batch:
                await self._settle(sender, [waiting])
        except Exception as error:  # noqa: BLE001 - the loop's top: a caller must never wait for ever
            _log.exception("append failed")
            _refuse(batch, Unavailable(f"append failed: {error}"))
        else:
            self._tell(batch, answers)

    def _tell(self, batch: Sequence[_Waiting], answers: Sequence[Appended | RunyardError]) -> None:
        newest = Position(0)
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, RunyardError):
                _refuse([waiting], answer)
                continue
            newest = max(newest, answer.position)
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        if newest:
            self._on_appended(batch[0].command.lane, newest)


class _Sender:
    """Holds a connection and sends batches over it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._connection: PoolConnectionProxy[asyncpg.Record] | None = None

    async def send(
        self, commands: Sequence[AdmittedCommand], deadline: float
    ) -> list[Appended | RunyardError]:
        """Call the append function, again after a lost connection: ids make the repetition harmless.

        Raises:
            Unavailable: the database does not answer before the deadline (of the loop's clock).
            asyncpg.PostgresError: it refuses the whole batch.
        """
        arguments = append_arguments(commands)
        seconds_left = deadline - asyncio.get_running_loop().time()
        retries = Retries("appending", _BACKOFF, _log, seconds_max=seconds_left)
        try:
            return append_answers(commands, await retried(lambda: self._try(arguments), AWAY, retries))
        except AWAY as error:
            raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error

    async def _try(self, arguments: Sequence[object]) -> list[asyncpg.Record]:
        try:
            if self._connection is None:
                self._connection = await self._pool.acquire(timeout=CALL_SECONDS_MAX)
            rows: list[asyncpg.Record] = await self._connection.fetch(
                APPEND, *arguments, timeout=CALL_SECONDS_MAX
            )
        except AWAY:
            await self.drop_connection()
            raise
        return rows

    async def drop_connection(self) -> None:
        """Give the connection up; the next batch gets another."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.terminate()
            await self._pool.release(connection, timeout=1.0)
        except AWAY:
            _log.debug("the appender's connection was gone already")


def _refuse(batch: Sequence[_Waiting], error: RunyardError) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)


def _too_late() -> Unavailable:
    return Unavailable(f"the log did not answer in time; {_SAFE}", code="LOG_TIMEOUT")


def _as_runyard_error(error: asyncpg.PostgresError) -> RunyardError:
    text = f"the log refused the command: {error}"
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return PermissionDenied(text, code="NOT_A_WRITER")
    if isinstance(error, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError):
        return InvalidInput(text, code="REFUSED_BY_LOG")
    return Unavailable(text, code="LOG_UNAVAILABLE")
