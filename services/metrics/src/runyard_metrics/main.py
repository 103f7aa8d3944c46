"""Wires the metrics service: the log, the bus, two projectors, the ingest and the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog
from nats.aio.client import Client

from runyard.event.v1.envelope_pb2 import Lane
from runyard.metric.v1.metric_service_pb2 import DESCRIPTOR
from runyard.metric.v1.metric_service_pb2_grpc import add_MetricServiceServicer_to_server
from runyard_core.bus_connection import hang_up
from runyard_core.clock import SystemClock
from runyard_core.task_group import TaskGroup
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.personal.edge import edge_of_service
from runyard_eventlog.port import EventLog
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import open_pool
from runyard_metrics.handlers import MetricHandlers
from runyard_metrics.ingest import Ingest
from runyard_metrics.projections.runs import RunsProjection
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.queries import SCHEMA, MetricQueries
from runyard_metrics.servicer import MetricServicer
from runyard_metrics.settings import MetricsSettings
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.projection_servicer import PROJECTION_SERVICE, ProjectionServicer
from runyard_servicekit.server import serving

CONNECTIONS_MAX = 12
SERVICE = DESCRIPTOR.services_by_name["MetricService"].full_name

log = structlog.get_logger("runyard.metrics")


async def main(settings: MetricsSettings) -> None:
    """Run until cancelled."""
    doorbell = Doorbell()
    async with (
        open_pool(
            settings.database_url.get_secret_value(), CONNECTIONS_MAX, command_seconds_max=30.0
        ) as pool,
        open_event_log(pool, settings.archive_url.get_secret_value(), doorbell=doorbell) as event_log,
        TaskGroup() as tasks,
    ):
        telemetry = Projector(
            pool,
            event_log,
            TelemetryProjection(),
            schema=SCHEMA,
            lane=Lane.LANE_TELEMETRY,
            doorbell=doorbell,
        )
        runs = Projector(pool, event_log, RunsProjection(), schema=SCHEMA, doorbell=doorbell)
        handlers = MetricHandlers(event_log, MetricQueries(pool), telemetry, runs)
        tasks.create_task(telemetry.run(), name="telemetry-projector")
        tasks.create_task(runs.run(), name="runs-projector")
        tasks.create_task(_take_in(settings, event_log, doorbell), name="ingest")
        servicer = MetricServicer(handlers, SystemClock())
        operations = ProjectionOperations("metrics", [telemetry, runs], pool, event_log, settings)

        def register(server: grpc.aio.Server) -> None:
            add_MetricServiceServicer_to_server(servicer, server)
            ProjectionServicer("metrics", operations).register(server)

        await telemetry.caught_up()
        await runs.caught_up()
        tasks.create_task(operations.run(), name="projection operations")
        edge = edge_of_service(pool, settings.yard_key_file)
        async with serving(settings, [SERVICE, PROJECTION_SERVICE], register, edge):
            await asyncio.Event().wait()


async def _take_in(settings: MetricsSettings, event_log: EventLog, doorbell: Doorbell) -> None:
    # In a task of its own: queries are answered also while the bus is away.
    async with _bus(settings) as bus:
        await doorbell.listen(bus)
        await Ingest(event_log, bus).run()


@asynccontextmanager
async def _bus(settings: MetricsSettings) -> AsyncIterator[Client]:
    """Connect to NATS for good: an absent server is tried again for ever."""

    async def on_error(error: Exception) -> None:
        log.warning("the bus says", error=repr(error))

    client = Client()
    try:
        await client.connect(
            settings.nats_url,
            user=settings.nats_user or None,
            password=settings.nats_password.get_secret_value() or None,
            name="runyard-metrics",
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds, fractions too
            connect_timeout=2,
            error_cb=on_error,
        )
        yield client
    finally:
        await hang_up(client)
