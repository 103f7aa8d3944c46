"""The fixtures; README.md lists them."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runyard_engines import NatsServer, Postgres, Store
from runyard_testkit.engines import (
    ROLES,
    TEMPLATE,
    Bucket,
    Bus,
    Database,
    create_database,
    delete_streams,
    drop_database,
    end_store,
    migrate_database,
    new_bucket,
    new_nats,
    new_postgres,
    new_store,
    run,
    start_new,
)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Run one PostgreSQL for the session."""
    engine = run(start_new(new_postgres, tmp_path_factory.mktemp("postgres")))
    yield engine
    run(engine.stop())


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Run one NATS server for the session."""
    engine = run(start_new(new_nats, tmp_path_factory.mktemp("nats")))
    yield engine
    run(engine.stop())


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Run one S3 store for the session."""
    engine = run(start_new(new_store, tmp_path_factory.mktemp("store")))
    yield engine
    run(end_store(engine))


@pytest.fixture(scope="session")
def shared_environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of virtual environments for all agents of all workers: making one takes seconds.

    Each agent has it under another path. Runs of these agents call no pip: the folder is everybody's.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environments"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def role_passwords() -> dict[str, str]:
    """Draw the passwords of the database roles, which belong to the whole server."""
    return {f"runyard_{role}": secrets.token_urlsafe(12) for role in ROLES}


@pytest.fixture(scope="session")
def template_database(postgres: Postgres, role_passwords: dict[str, str]) -> Database:
    """Migrate one database, which the others copy."""
    template = Database(postgres.spec, TEMPLATE, role_passwords)
    run(create_database(postgres.spec, TEMPLATE))
    run(migrate_database(template))
    return template


@pytest.fixture
async def database(template_database: Database) -> AsyncIterator[Database]:
    """Give a fresh migrated database."""
    fresh = Database(template_database.server, _fresh_name(), template_database.role_passwords)
    await create_database(fresh.server, fresh.name, TEMPLATE)
    yield fresh
    await drop_database(fresh.server, fresh.name)


@pytest.fixture
async def empty_database(postgres: Postgres, role_passwords: dict[str, str]) -> AsyncIterator[Database]:
    """Give a fresh database without a schema."""
    fresh = Database(postgres.spec, _fresh_name(), role_passwords)
    await create_database(fresh.server, fresh.name)
    yield fresh
    await drop_database(fresh.server, fresh.name)


@pytest.fixture
async def bus(nats_server: NatsServer) -> Bus:
    """Give the bus, with no streams in it but ``STANDING``."""
    clean = Bus(nats_server)
    await delete_streams(clean)
    return clean


@pytest.fixture
def bucket(store: Store) -> Bucket:
    """Give a new bucket."""
    return new_bucket(store, _fresh_name().replace("_", "-"))


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """Run a PostgreSQL that this test may kill."""
    engine = await start_new(new_postgres, tmp_path / "postgres")
    yield engine
    await engine.stop()


@pytest.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Run a NATS server that this test may kill."""
    engine = await start_new(new_nats, tmp_path / "nats")
    yield engine
    await engine.stop()


@pytest.fixture
async def own_store(tmp_path: Path) -> AsyncIterator[Store]:
    """Run a store that this test may kill."""
    engine = await start_new(new_store, tmp_path / "store")
    yield engine
    await end_store(engine)


@pytest.fixture
async def own_database(own_postgres: Postgres, role_passwords: dict[str, str]) -> Database:
    """Give a migrated database on the server of this test."""
    fresh = Database(own_postgres.spec, "runyard", role_passwords)
    await create_database(fresh.server, fresh.name)
    await migrate_database(fresh)
    return fresh


def _fresh_name() -> str:
    return f"test_{secrets.token_hex(6)}"
