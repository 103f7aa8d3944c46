"""Mirrors the domain lane to JetStream, and rings the doorbell: ``python -m runyard_eventlog.relay``.

One is active (an advisory lock of the log's database); others wait to take over. Its only state is the
mirror's last sequence. A mirror that has lost something is filled anew; anything in the mirror that is not
in the log stops the relay: exit code 3.

Settings: RUNYARD_DATABASE_URL, RUNYARD_NATS_URL, RUNYARD_NATS_USER, RUNYARD_NATS_PASSWORD,
RUNYARD_NATS_REPLICAS (default 1), RUNYARD_LOG_LEVEL (default INFO).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError

from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up
from runyard_core.cancelling import end_if_cancelled
from runyard_core.retry import Backoff, Retries
from runyard_eventlog.connections import AWAY, Connection
from runyard_eventlog.mirror import (
    BATCH_BYTES_MAX,
    BATCH_MAX,
    Mirror,
    MirrorMessage,
    MirrorMismatch,
    read_messages,
)
from runyard_eventlog.mirror_upkeep import log_id_of, settled_mirror

EXIT_MISMATCH = 3
"""Exit code when the mirror holds what the log does not."""

CHECK_SECONDS = 5.0
"""How often an idle relay looks whether the mirror is still as it left it."""

LEADER_LOCK = 0x52454C41
"""Advisory lock of the database that the one active relay holds."""

_LOOK_SECONDS = 1.0
_BACKOFF = Backoff(first_seconds=0.5, seconds_max=0.5)
_UPKEEP_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Relay:
    """One relay process's work."""

    def __init__(
        self,
        database_url: str,
        client: Client,
        *,
        replicas: int = 1,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            database_url: the log's database, as role runyard_relay.
            client: a bus connection of the relay's user; it reconnects by itself.
            replicas: of the mirror's stream.
            check_seconds: how often the mirror is compared with the log although nobody refuses anything.
        """
        self._database_url = database_url
        self._client = client
        self._replicas = replicas
        self._check_seconds = check_seconds
        self._grown = asyncio.Event()
        self._retries = Retries("mirroring", _BACKOFF, _log)
        self.position = 0
        """The mirror's last position, as far as this process knows."""

    async def run(self) -> None:
        """Mirror for ever; a lost database or bus is waited for.

        Raises:
            MirrorMismatch: the mirror holds something that the log does not.
        """
        while True:
            try:
                async with self._leading() as connection:
                    await self._follow(connection)
            except (NatsError, *AWAY) as error:
                # Also WRONG_LAST_SEQUENCE: an acknowledgement was lost, and looking again tells it. And a
                # server that still removes a mirror, which can neither take an event nor make another.
                await self._retries.pause(error)

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[Connection]:
        """Wait to become the one active relay; the connection is what makes it so."""
        connection = await asyncpg.connect(self._database_url, timeout=10.0, command_timeout=60.0)
        try:
            await _become_leader(connection)
            await connection.add_listener("runyard_log", self._on_notify)
            yield connection
        finally:
            # Whatever state it is in: ending it gives up the lock.
            connection.terminate()

    def _on_notify(self, *_: object) -> None:
        self._grown.set()

    async def _follow(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        upkeep_at = check_at = loop.time()
        mirror: Mirror | None = None
        while True:
            end_if_cancelled()
            self._grown.clear()
            if mirror is None or loop.time() >= check_at or await log_id_of(connection) != mirror.log_id:
                mirror, self.position = await settled_mirror(
                    connection, self._client, replicas=self._replicas
                )
                check_at = loop.time() + self._check_seconds
            messages = await read_messages(connection, self.position, BATCH_MAX, mirror.log_id)
            for part in _parts(messages):
                self.position = await mirror.publish(part)
            if messages:
                body = json.dumps({"log_id": mirror.log_id, "position": self.position}).encode()
                await self._client.publish(subjects.HEAD, body)
            self._retries.succeeded()
            if loop.time() >= upkeep_at:
                await _add_partitions(connection)
                upkeep_at = loop.time() + _UPKEEP_SECONDS
            size_bytes = sum(len(message.body) for message in messages)
            if len(messages) < BATCH_MAX and size_bytes < BATCH_BYTES_MAX:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(_LOOK_SECONDS, self._check_seconds)):
                        await self._grown.wait()


def _parts(messages: list[MirrorMessage]) -> list[list[MirrorMessage]]:
    """Cut a page into parts of limited size."""
    parts: list[list[MirrorMessage]] = []
    room = 0
    for message in messages:
        if not parts or len(message.body) > room:
            parts.append([])
            room = BATCH_BYTES_MAX
        parts[-1].append(message)
        room -= len(message.body)
    return parts


async def _become_leader(connection: Connection) -> None:
    """Wait for the lock, which the database hands on as soon as the leader's connection is gone."""
    while True:
        try:
            await connection.execute("select pg_advisory_lock($1)", LEADER_LOCK)
        except asyncpg.LockNotAvailableError:  # the role's lock_timeout
            continue
        return


async def _add_partitions(connection: Connection) -> None:
    """Attach another partition to a lane whose newest one is being filled."""
    filled = await connection.fetch(
        """
        select p.lane from log.partition p group by p.lane
        having exists (select from log.event e where e.lane = p.lane and e.position >= max(p.from_position))
        """
    )
    for row in filled:
        name = await connection.fetchval("select log.add_partition($1)", row["lane"])
        _log.info("relay: added partition %s", name)


async def connect_bus(url: str, user: str, password: str, name: str) -> Client:
    """Connect to the bus for the life of a process; an absent bus is waited for.

    The caller closes it.
    """

    async def on_error(error: Exception) -> None:
        _log.debug("bus: %r", error)

    client = Client()
    try:
        await client.connect(
            url,
            user=user or None,
            password=password or None,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            error_cb=on_error,
        )
    except BaseException:
        await hang_up(client)  # whoever is stopped while it connects leaves no socket
        raise
    return client


async def _main() -> None:
    database_url = os.environ["RUNYARD_DATABASE_URL"]
    replicas = int(os.environ.get("RUNYARD_NATS_REPLICAS", "1"))
    client = await connect_bus(
        os.environ["RUNYARD_NATS_URL"],
        os.environ.get("RUNYARD_NATS_USER", ""),
        os.environ.get("RUNYARD_NATS_PASSWORD", ""),
        "runyard-relay",
    )
    try:
        await Relay(database_url, client, replicas=replicas).run()
    finally:
        await hang_up(client)


async def _until_told_to_stop() -> None:
    """Run the relay until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(_main())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """Run a relay with the settings of the environment."""
    logging.basicConfig(
        level=os.environ.get("RUNYARD_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        asyncio.run(_until_told_to_stop())
    except KeyError as error:
        sys.exit(f"relay: {error.args[0]} is not set")
    except MirrorMismatch as error:
        _log.critical("relay halted: %s", error)
        sys.exit(EXIT_MISMATCH)


if __name__ == "__main__":
    main()
