"""Puts the cost service together and runs it."""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg
import grpc
from sqlalchemy.ext.asyncio import create_async_engine

from runyard.cost.v1 import cost_service_pb2_grpc
from runyard_core.clock import SystemClock
from runyard_cost.costs import Costs
from runyard_cost.handlers import Handlers
from runyard_cost.moment import Moments
from runyard_cost.projections.leases import CostProjection
from runyard_cost.queries import SCHEMA, CostQueries
from runyard_cost.servicer import CostServicer
from runyard_cost.settings import CostSettings
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.projector import Projector
from runyard_servicekit.server import serving

SERVICE_NAME = "runyard.cost.v1.CostService"

_CONNECTIONS_MAX = 8


async def main(settings: CostSettings) -> None:
    """Run the service until cancelled.

    Raises:
        Unavailable: the database does not answer, or the address is taken.
    """
    clock = SystemClock()
    doorbell = Doorbell()
    url = settings.database_url.get_secret_value()
    async with contextlib.AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            asyncpg.create_pool(url, min_size=1, max_size=_CONNECTIONS_MAX)
        )
        event_log = await stack.enter_async_context(PostgresEventLog(pool, doorbell=doorbell))
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=4)
        stack.push_async_callback(engine.dispose)
        projector = Projector(pool, event_log, CostProjection(), schema=SCHEMA, doorbell=doorbell)
        queries = CostQueries(engine)
        servicer = CostServicer(
            Handlers(event_log, clock), Costs(queries), queries, Moments(event_log, projector, clock)
        )

        def register(server: grpc.aio.Server) -> None:
            cost_service_pb2_grpc.add_CostServiceServicer_to_server(servicer, server)

        async with asyncio.TaskGroup() as group:
            group.create_task(projector.run())
            if settings.nats_url:
                group.create_task(
                    doorbell.serve(
                        settings.nats_url, settings.nats_user, settings.nats_password.get_secret_value()
                    )
                )
            async with serving(settings, [SERVICE_NAME], register):
                await asyncio.Event().wait()
