"""What stands between engines and services: the database and its schema, the bus and the bucket answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import urllib3
from minio import Minio
from minio.error import MinioException
from nats.errors import Error as NatsError

from runyard_core.errors import Unavailable
from runyard_embedded.home import Home
from runyard_embedded.key_making import make_keys
from runyard_embedded.plan import Addresses
from runyard_embedded.renewal import renew_certificate
from runyard_embedded.settings import ExternalNats, ExternalStore
from runyard_engines.nats import RELAY, ask_jetstream
from runyard_eventlog.migrate import migrate
from runyard_eventlog.restored import give_new_identity

log = logging.getLogger("runyard.supervisor")


async def prepare(
    addresses: Addresses,
    role_passwords: Mapping[str, str],
    home: Home,
    *,
    is_restored: bool = False,
) -> None:
    """Make the engines ready for the services. They answer already, unless somebody else runs them.

    Args:
        addresses: of the engines.
        role_passwords: of the database's roles.
        home: where the keys are that sign segments and open the gate; made when there are none, or renewed.
        is_restored: give the log a new identity, before anybody has looked at it.

    Raises:
        Unavailable: one of them does not answer, or refuses us.
    """
    if not await asyncio.to_thread(home.segment_key_file.exists):
        await make_keys("runyard_eventlog.signing", home.segment_key_file)
    if addresses.gate:
        await renew_certificate(home)
    await _create_database(addresses.database_url)
    try:
        await migrate(addresses.database_url, role_passwords)
        if is_restored:
            restored = await give_new_identity(addresses.database_url)
            log.info("the restored log, which ends at %d, is %s", restored.domain_position, restored.log_id)
            for name in restored.read_models_ahead:
                log.error("read model %s is ahead of the restored log: build it anew", name)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise _refused(addresses.database_url, error) from error
    await _check_nats(addresses.nats)
    await asyncio.to_thread(_ensure_bucket, addresses.store)


async def _create_database(url: str) -> None:
    """Create the database when there is none of that name."""
    parts = urlsplit(url)
    name = parts.path.lstrip("/")
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except asyncpg.InvalidCatalogNameError:
        administrative = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")), timeout=10)
        try:
            quoted = await administrative.fetchval("select quote_ident($1)", name)
            await administrative.execute(f"create database {quoted}")
        finally:
            await administrative.close(timeout=10)
        return
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise _refused(url, error) from error
    await connection.close(timeout=10)


def _refused(url: str, error: Exception) -> Unavailable:
    parts = urlsplit(url)
    return Unavailable(
        f"PostgreSQL at {parts.hostname}:{parts.port or 5432} does not serve us as {parts.username}: {error}",
        code="ENGINE_UNAVAILABLE",
    )


async def _check_nats(nats: ExternalNats) -> None:
    try:
        await ask_jetstream(nats.url, RELAY, nats.passwords.get(RELAY, ""))
    except (OSError, TimeoutError, NatsError) as error:
        raise Unavailable(
            f"NATS at {nats.url} does not let the user {RELAY} use JetStream: {error}",
            code="ENGINE_UNAVAILABLE",
        ) from error


def _ensure_bucket(store: ExternalStore) -> None:
    parts = urlsplit(store.endpoint)
    client = Minio(
        parts.netloc,
        access_key=store.access_key,
        secret_key=store.secret_key,
        secure=parts.scheme == "https",
        region=store.region,
        http_client=urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=10)),
    )
    try:
        if not client.bucket_exists(bucket_name=store.bucket):
            client.make_bucket(bucket_name=store.bucket)
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        raise Unavailable(
            f"the S3 store at {store.endpoint} does not let us use the bucket {store.bucket}: {error}",
            code="ENGINE_UNAVAILABLE",
        ) from error
