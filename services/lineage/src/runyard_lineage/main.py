"""Wires the lineage service: the log and its sealing, a projector, channels to others, three servicers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard.history.v1 import history_service_pb2, history_service_pb2_grpc
from runyard.lineage.v1 import lineage_service_pb2, lineage_service_pb2_grpc
from runyard.metric.v1.metric_service_pb2_grpc import MetricServiceStub
from runyard.record.v1 import record_service_pb2, record_service_pb2_grpc
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard_core.clock import SystemClock
from runyard_core.task_group import TaskGroup
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.moment import Moments
from runyard_eventlog.personal.edge import edge_of_service
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import open_pool
from runyard_eventlog.sealing_watch import SealingWatch
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_lineage.erasures import Erasures
from runyard_lineage.handlers import GraphHandlers
from runyard_lineage.history import HistoryHandlers
from runyard_lineage.projections.edges import EdgesProjection
from runyard_lineage.queries import SCHEMA, GraphQueries
from runyard_lineage.readiness import get_ready
from runyard_lineage.record import Peers, RecordHandlers
from runyard_lineage.sealing_process import seal_apart
from runyard_lineage.servicer import HistoryServicer, LineageServicer, RecordServicer
from runyard_lineage.settings import LineageSettings
from runyard_servicekit.channels import service_channel
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.projection_servicer import PROJECTION_SERVICE, ProjectionServicer
from runyard_servicekit.server import serving

CONNECTIONS_MAX = 10
CONNECTIONS_KEPT = 4
SERVICES = (
    *(
        service.full_name
        for file in (lineage_service_pb2, record_service_pb2, history_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    ),
    PROJECTION_SERVICE,
)


async def main(settings: LineageSettings) -> None:
    """Run until cancelled."""
    doorbell = Doorbell()
    async with (
        open_pool(
            settings.database_url.get_secret_value(),
            CONNECTIONS_MAX,
            connections_kept=CONNECTIONS_KEPT,
            command_seconds_max=30.0,
        ) as pool,
        open_event_log(pool, settings.archive_url.get_secret_value(), doorbell=doorbell) as event_log,
        _peers(settings) as peers,
        TaskGroup() as tasks,
    ):
        projector = Projector(pool, event_log, EdgesProjection(), schema=SCHEMA, doorbell=doorbell)
        moments = Moments(event_log, projector)
        graph = LineageServicer(GraphHandlers(GraphQueries(pool), moments))
        record = RecordServicer(RecordHandlers(moments, peers))
        edge = edge_of_service(pool, settings.yard_key_file)
        erasures = Erasures(event_log, None if edge is None else edge.keyring, SystemClock())
        reading = HistoryHandlers(event_log, doorbell, SystemClock())
        history = HistoryServicer(reading, erasures)

        operations = ProjectionOperations("lineage", [projector], pool, event_log, settings)

        def register(server: grpc.aio.Server) -> None:
            ProjectionServicer("lineage", operations).register(server)
            lineage_service_pb2_grpc.add_LineageServiceServicer_to_server(graph, server)
            record_service_pb2_grpc.add_RecordServiceServicer_to_server(record, server)
            history_service_pb2_grpc.add_HistoryServiceServicer_to_server(history, server)

        tasks.create_task(projector.run(), name="projector")
        tasks.create_task(
            doorbell.serve(settings.nats_url, settings.nats_user, settings.nats_password.get_secret_value()),
            name="doorbell",
        )
        if settings.seals:
            watch = SealingWatch(
                event_log,
                PostgresStoredLog(pool),
                seal_apart,
                settings=settings.sealing,
                look_seconds=settings.sealing_look_seconds,
            )
            tasks.create_task(watch.run(), name="sealing")
        await projector.caught_up()
        tasks.create_task(operations.run(), name="projection operations")
        tasks.create_task(get_ready(pool, CONNECTIONS_KEPT, reading), name="first questions")
        async with serving(settings, SERVICES, register, edge):
            await asyncio.Event().wait()


@asynccontextmanager
async def _peers(settings: LineageSettings) -> AsyncIterator[Peers]:
    token = settings.service_token.get_secret_value()
    async with AsyncExitStack() as open_channels:

        async def channel(address: str) -> grpc.aio.Channel:
            return await open_channels.enter_async_context(service_channel(address, token))

        yield Peers(
            scheduler=SchedulerServiceStub(await channel(settings.scheduler_address)),
            artifact=ArtifactServiceStub(await channel(settings.artifact_address)),
            metrics=MetricServiceStub(await channel(settings.metrics_address)),
            cost=CostServiceStub(await channel(settings.cost_address)),
        )
