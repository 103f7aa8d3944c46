"""Puts the artifact service together and runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import asyncpg
import grpc
import structlog
from sqlalchemy.ext.asyncio import create_async_engine

from runyard.artifact.v1 import artifact_service_pb2_grpc, registry_service_pb2_grpc
from runyard_artifact.handlers import Handlers
from runyard_artifact.many_files import ManyFiles
from runyard_artifact.objects import ObjectStore
from runyard_artifact.projections.catalogue import CatalogueProjection
from runyard_artifact.projections.registry import RegistryProjection
from runyard_artifact.queries import SCHEMA, CatalogueQueries
from runyard_artifact.registry_handlers import RegistryHandlers
from runyard_artifact.registry_queries import RegistryQueries
from runyard_artifact.registry_servicer import RegistryServicer
from runyard_artifact.resolving import Registry, Resolver
from runyard_artifact.s3_store import S3ObjectStore, StoreSettings
from runyard_artifact.servicer import ArtifactServicer
from runyard_artifact.settings import ArtifactSettings
from runyard_artifact.upkeep import UploadUpkeep
from runyard_contracts.recorded import RecordedEvent
from runyard_core.clock import SystemClock
from runyard_core.errors import Unavailable
from runyard_core.presign import SigningKey
from runyard_core.projection import Projection
from runyard_core.retry import Backoff, Retries, retried
from runyard_core.task_group import TaskGroup
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.moment import Moments
from runyard_eventlog.personal.edge import edge_of_service
from runyard_eventlog.port import EventLog
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import lent, open_pool
from runyard_servicekit.node_credentials import NodeCredentials
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.projection_servicer import PROJECTION_SERVICE, ProjectionServicer
from runyard_servicekit.server import serving

SERVICE_NAME = "runyard.artifact.v1.ArtifactService"
REGISTRY_SERVICE_NAME = "runyard.artifact.v1.RegistryService"

_CONNECTIONS_MAX = 8
# A connection that broke with the database is replaced before a query meets it.
_QUERY_POOL: Mapping[str, Any] = {"pool_size": 2, "max_overflow": 4, "pool_timeout": 5, "pool_pre_ping": True}
_STORE_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0, tries_max=60)

log = structlog.get_logger("runyard.artifact")


async def main(settings: ArtifactSettings) -> None:
    """Run the service until cancelled.

    Raises:
        Unavailable: database or store do not answer, or the address is taken.
    """
    clock = SystemClock()
    doorbell = Doorbell()
    url = settings.database_url.get_secret_value()
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(url, _CONNECTIONS_MAX))
        event_log = await stack.enter_async_context(
            open_event_log(pool, settings.archive_url.get_secret_value(), doorbell=doorbell)
        )
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), **_QUERY_POOL)
        stack.push_async_callback(engine.dispose)
        objects = S3ObjectStore(_store_settings(settings), clock)
        stack.callback(objects.close)
        await _make_bucket(objects)
        projectors = await _projectors(pool, event_log, doorbell)
        moments, registry_moments = (Moments(event_log, projector) for projector in projectors)
        handlers = Handlers(event_log, objects, clock)
        many = ManyFiles(event_log, objects, clock)
        queries = CatalogueQueries(engine)
        registry = Registry(RegistryHandlers(event_log, clock), RegistryQueries(engine), registry_moments)
        resolver = Resolver(handlers, queries, moments, registry)
        servicer = ArtifactServicer(handlers, many, resolver, queries, moments)
        registry_servicer = RegistryServicer(registry.handlers, registry.queries, registry_moments)
        operations = ProjectionOperations("artifact", projectors, pool, event_log, settings)

        def register(server: grpc.aio.Server) -> None:
            ProjectionServicer("artifact", operations).register(server)
            artifact_service_pb2_grpc.add_ArtifactServiceServicer_to_server(servicer, server)
            registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry_servicer, server)

        credentials = NodeCredentials()
        async with TaskGroup() as group:
            group.create_task(credentials.follow(event_log, doorbell))
            for projector in projectors:
                group.create_task(projector.run())
            if settings.nats_url:
                group.create_task(
                    doorbell.serve(
                        settings.nats_url, settings.nats_user, settings.nats_password.get_secret_value()
                    )
                )
            for projector in projectors:
                await projector.caught_up()
            group.create_task(operations.run())
            group.create_task(UploadUpkeep(objects, clock).run())
            edge = edge_of_service(pool, settings.yard_key_file)
            services = [SERVICE_NAME, REGISTRY_SERVICE_NAME, PROJECTION_SERVICE]
            async with serving(settings, services, register, edge, credentials):
                await asyncio.Event().wait()


async def _projectors(pool: asyncpg.Pool, event_log: EventLog, doorbell: Doorbell) -> list[Projector]:
    """Give what fills catalogue and registry; their tables are there before the first query may come."""
    projections: tuple[Projection[RecordedEvent], ...] = (CatalogueProjection(), RegistryProjection())
    async with lent(pool) as connection:
        for projection in projections:
            await ProjectionStore(projection, SCHEMA).create(connection)
    return [
        Projector(pool, event_log, projection, schema=SCHEMA, doorbell=doorbell) for projection in projections
    ]


def _store_settings(settings: ArtifactSettings) -> StoreSettings:
    return StoreSettings(
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint or settings.s3_endpoint,
        key=SigningKey(
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
            region=settings.s3_region,
        ),
        bucket=settings.s3_bucket,
    )


async def _make_bucket(objects: ObjectStore) -> None:
    """Make the bucket; a store that is still starting is waited for, about a minute."""
    await retried(objects.ensure_bucket, (Unavailable,), Retries("making the bucket", _STORE_BACKOFF, log))
