"""Puts the cost service together and runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
from sqlalchemy.ext.asyncio import create_async_engine

from runyard.cost.v1 import cost_service_pb2_grpc
from runyard_core.clock import SystemClock
from runyard_core.task_group import TaskGroup
from runyard_cost.costs import Costs
from runyard_cost.handlers import Handlers
from runyard_cost.moment import PricedMoments
from runyard_cost.projections.leases import CostProjection
from runyard_cost.queries import SCHEMA, CostQueries
from runyard_cost.servicer import CostServicer
from runyard_cost.settings import CostSettings
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.personal.edge import edge_of_service
from runyard_eventlog.projection_store import ProjectionStore
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import lent, open_pool
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.projection_servicer import PROJECTION_SERVICE, ProjectionServicer
from runyard_servicekit.server import serving

SERVICE_NAME = "runyard.cost.v1.CostService"

_CONNECTIONS_MAX = 8
# A connection that broke with the database is replaced before a query meets it.
_QUERY_POOL: Mapping[str, Any] = {"pool_size": 2, "max_overflow": 4, "pool_timeout": 5, "pool_pre_ping": True}


async def main(settings: CostSettings) -> None:
    """Run the service until cancelled.

    Raises:
        Unavailable: the database does not answer, or the address is taken.
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
        projection = CostProjection()
        async with lent(pool) as connection:
            # Before the first query may come.
            await ProjectionStore(projection, SCHEMA).create(connection)
        projector = Projector(pool, event_log, projection, schema=SCHEMA, doorbell=doorbell)
        queries = CostQueries(engine)
        servicer = CostServicer(
            Handlers(event_log, clock), Costs(queries), queries, PricedMoments(event_log, projector, clock)
        )

        operations = ProjectionOperations("cost", [projector], pool, event_log, settings)

        def register(server: grpc.aio.Server) -> None:
            ProjectionServicer("cost", operations).register(server)
            cost_service_pb2_grpc.add_CostServiceServicer_to_server(servicer, server)

        async with TaskGroup() as group:
            group.create_task(projector.run())
            if settings.nats_url:
                group.create_task(
                    doorbell.serve(
                        settings.nats_url, settings.nats_user, settings.nats_password.get_secret_value()
                    )
                )
            await projector.caught_up()
            group.create_task(operations.run())
            edge = edge_of_service(pool, settings.yard_key_file)
            async with serving(settings, [SERVICE_NAME, PROJECTION_SERVICE], register, edge):
                await asyncio.Event().wait()
