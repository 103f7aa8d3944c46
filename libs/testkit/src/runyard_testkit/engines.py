"""Fresh databases, buses and buckets on real engines."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from minio import Minio
from nats.aio.client import Client as NatsClient
from nats.js.api import StreamConfig

from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up
from runyard_engines import (
    Engine,
    NatsServer,
    NatsSpec,
    NatsUser,
    PortInUse,
    Postgres,
    PostgresSpec,
    Store,
    StoreSpec,
    agent_user,
    agent_user_name,
    choose_port,
    choose_store_port,
    metrics_user,
    relay_user,
    service_user,
    start_ready,
)
from runyard_engines.nats import SERVICES
from runyard_engines.store import REGION

ROLES = ("scheduler", "artifact", "metrics", "cost", "lineage", "relay", "reader")
NODES = ("node-1", "node-2")
TEMPLATE = "runyard_template"
START_ATTEMPTS = 3

STANDING = "STANDING"
"""A stream of nobody, as the mirror and the telemetry stand beside each other in a yard.

A server that has lost its last stream removes the folder of streams behind its answer, and refuses to make a
stream at that moment (error 10049).
"""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Database:
    """One database of a test."""

    server: PostgresSpec
    name: str
    role_passwords: Mapping[str, str]
    """Full role name (``runyard_scheduler``) to password."""

    @property
    def admin_url(self) -> str:
        """Give the address for the superuser."""
        return self.server.url(database=self.name)

    def url(self, role: str) -> str:
        """Give the address for a role: ``scheduler`` or ``runyard_scheduler``."""
        user = role if role.startswith("runyard_") else f"runyard_{role}"
        return self.server.url(user=user, password=self.role_passwords[user], database=self.name)

    def connected(self, role: str = "") -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Connect as a role while the block runs; as the superuser without one."""
        return connected(self.url(role) if role else self.admin_url)


@dataclass(frozen=True, slots=True)
class Bus:
    """A NATS server and the credentials of its users."""

    server: NatsServer

    @property
    def url(self) -> str:
        """Give the address."""
        return self.server.spec.url

    def password(self, user: str) -> str:
        """Give the password of a user."""
        return next(known.password for known in self.server.spec.users if known.name == user)

    async def connect(self, user: str = "test", **options: Any) -> NatsClient:
        """Connect as a user; an agent gets its own inbox prefix. ``async with`` closes it."""
        for node in NODES:
            if user == agent_user_name(node):
                options.setdefault("inbox_prefix", subjects.inbox_prefix(node))
        client = NatsClient()
        try:
            await client.connect(self.url, user=user, password=self.password(user), **options)
        except BaseException:
            await hang_up(client)  # a refused connect leaves its socket open
            raise
        return client


async def seen_by_server(client: NatsClient) -> None:
    """Wait until the server has seen all that a client asked, subscriptions among it."""
    # The client sends the ping of a flush ahead of what is pending, so only the second one comes after it.
    await client.flush()
    await client.flush()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of one test."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str
    name: str
    client: Minio


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in a loop of its own, without touching the tests' one."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


def new_postgres(folder: Path) -> Postgres:
    """Describe a server that does not sync: it survives its own death, not the machine's."""
    spec = PostgresSpec(
        data_dir=folder / "data",
        port=choose_port(),
        password=secrets.token_urlsafe(12),
        log_path=folder / "postgres.log",
        settings={"fsync": "off", "max_connections": "300"},
    )
    return Postgres(spec)


def new_nats(folder: Path) -> NatsServer:
    """Describe a server with every user that the yard has, and ``test``, who may do anything."""
    users = (
        relay_user(secrets.token_urlsafe(12)),
        metrics_user(secrets.token_urlsafe(12)),
        *(service_user(name, secrets.token_urlsafe(12)) for name in SERVICES),
        *(agent_user(node, secrets.token_urlsafe(12)) for node in NODES),
        NatsUser("test", secrets.token_urlsafe(12), publish=(">",), subscribe=(">",)),
    )
    return NatsServer(NatsSpec(folder / "data", choose_port(), users, folder / "nats.log"))


def new_store(folder: Path) -> Store:
    """Describe a store with one bucket."""
    spec = StoreSpec(
        data_dir=folder / "data",
        port=choose_store_port(),
        access_key=secrets.token_hex(8),
        secret_key=secrets.token_urlsafe(24),
        bucket="artifacts",
        log_path=folder / "store.log",
    )
    return Store(spec)


EngineType = TypeVar("EngineType", bound=Engine)


async def start_new(make: Callable[[Path], EngineType], folder: Path) -> EngineType:
    """Make an engine and start it; again with other ports when somebody was faster to take them."""
    for _ in range(START_ATTEMPTS - 1):
        with contextlib.suppress(PortInUse):
            engine = make(folder)
            await start_ready(engine)
            return engine
    engine = make(folder)
    await start_ready(engine)
    return engine


async def end_store(engine: Store) -> None:
    """Kill a store: an orderly end takes it 2 s, and its data goes with the folder."""
    if engine.process is not None:
        engine.process.kill()
    await engine.stop()


def store_client(spec: StoreSpec) -> Minio:
    """Give a client of the store."""
    address = spec.endpoint.removeprefix("http://")
    return Minio(address, access_key=spec.access_key, secret_key=spec.secret_key, secure=False, region=REGION)


async def migrate_database(database: Database) -> None:
    """Bring a database to the newest schema."""
    # Here and not above: a package whose tests need no database needs no event log either.
    from runyard_eventlog.migrate import migrate

    done = migrate(database.admin_url, dict(database.role_passwords))
    if inspect.isawaitable(done):
        await done


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to a database while the block runs; who is in no state to say goodbye hangs up."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        yield connection
        await connection.close(timeout=10)
    finally:
        connection.terminate()


async def create_database(server: PostgresSpec, name: str, template: str | None = None) -> None:
    """Create a database, as a copy of a template if one is named."""
    async with connected(server.url()) as connection:
        source = f' template "{template}"' if template else ""
        await connection.execute(f'create database "{name}"{source}')


async def drop_database(server: PostgresSpec, name: str) -> None:
    """Drop a database with whoever is still connected to it."""
    async with connected(server.url()) as connection:
        await connection.execute(f'drop database if exists "{name}" with (force)')


async def delete_streams(bus: Bus) -> None:
    """Remove every stream of the server with its consumers, but for ``STANDING``."""
    async with await bus.connect("test") as connection:
        manager = connection.jetstream(timeout=20)
        names = {stream.config.name or "" for stream in await manager.streams_info()}
        if STANDING not in names:
            await manager.add_stream(StreamConfig(name=STANDING, subjects=["testkit.standing"]))
        if left := names - {STANDING}:
            await _removed_from_disk(bus)
            for name in left:
                await manager.delete_stream(name)
            await _removed_from_disk(bus)


async def _removed_from_disk(bus: Bus) -> None:
    """Wait until deleted streams are gone from the disk, too.

    The server removes their files behind its answer. A stream of the same name that is deleted before that
    keeps its own, and the next of that name begins with them.
    """
    folder = bus.server.spec.data_dir / "jetstream"
    async with asyncio.timeout(20):
        while any(folder.glob("*/*/streams/.*")):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)


def new_bucket(store: Store, name: str) -> Bucket:
    """Create a bucket."""
    spec = store.spec
    client = store_client(spec)
    client.make_bucket(bucket_name=name)
    return Bucket(spec.endpoint, REGION, spec.access_key, spec.secret_key, name, client)
