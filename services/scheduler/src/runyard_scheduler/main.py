"""Wires the scheduler's stations together, by hand, in the order in which data flows."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import grpc
import structlog

from runyard.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from runyard.node.v1 import enrolment_service_pb2, enrolment_service_pb2_grpc
from runyard.run.v1 import (
    scheduler_service_pb2,
    scheduler_service_pb2_grpc,
    secret_service_pb2,
    secret_service_pb2_grpc,
)
from runyard_contracts.ids import NodeId
from runyard_core.clock import SystemClock
from runyard_core.errors import Unauthenticated
from runyard_core.task_group import TaskGroup
from runyard_eventlog.archived_log import open_event_log
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.personal.edge import edge_of_service
from runyard_eventlog.projector import Projector
from runyard_eventlog.querying import open_pool
from runyard_scheduler import tables
from runyard_scheduler.agents import AgentServicer
from runyard_scheduler.clock_watcher import ClockWatcher
from runyard_scheduler.enrolment_handlers import EnrolmentHandlers, Gate
from runyard_scheduler.enrolment_servicer import EnrolmentServicer
from runyard_scheduler.handlers import Handlers
from runyard_scheduler.hands_on import HandsOn
from runyard_scheduler.hands_on_handlers import HandsOnHandlers
from runyard_scheduler.hands_on_servicer import HANDS_ON_SERVICES, register_hands_on
from runyard_scheduler.lease_handlers import LeaseHandlers
from runyard_scheduler.ledger import Ledger
from runyard_scheduler.node_handlers import NodeHandlers
from runyard_scheduler.planner import Planner
from runyard_scheduler.process.deadlines import Limits
from runyard_scheduler.projections.scheduler import SchedulerProjection
from runyard_scheduler.queries import Queries
from runyard_scheduler.secret_handlers import SecretHandlers
from runyard_scheduler.secret_servicer import SecretServicer
from runyard_scheduler.secrets import Secrets
from runyard_scheduler.servicer import SchedulerServicer
from runyard_scheduler.sessions import Sessions
from runyard_scheduler.settings import SchedulerSettings
from runyard_scheduler.watch import Watches
from runyard_servicekit.node_credentials import NodeCredentials
from runyard_servicekit.projection_operations import ProjectionOperations
from runyard_servicekit.projection_servicer import PROJECTION_SERVICE, ProjectionServicer
from runyard_servicekit.server import serving

SERVICE_NAMES = (
    scheduler_service_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name,
    secret_service_pb2.DESCRIPTOR.services_by_name["SecretService"].full_name,
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    *HANDS_ON_SERVICES,
    enrolment_service_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].full_name,
    PROJECTION_SERVICE,
)

CONNECTIONS_MAX = 12
CATCH_UP_SECONDS_MAX = 20.0
"""How long the start waits for the read model; a rebuild takes longer, and runs need not wait for it."""

log = structlog.get_logger("runyard.scheduler")


async def main(settings: SchedulerSettings) -> None:
    """Serve until cancelled.

    Raises:
        Unavailable: the database does not answer, or the address cannot be listened on.
    """
    doorbell = Doorbell()
    archive_url = settings.archive_url.get_secret_value()
    async with (
        open_pool(settings.database_url.get_secret_value(), CONNECTIONS_MAX) as pool,
        open_event_log(pool, archive_url, doorbell=doorbell) as event_log,
    ):
        await tables.prepare(pool)
        ledger = Ledger(event_log, await tables.read_world(pool), doorbell)
        await ledger.catch_up()
        await _serve(settings, pool, ledger, doorbell)


async def _serve(settings: SchedulerSettings, pool: asyncpg.Pool, ledger: Ledger, doorbell: Doorbell) -> None:
    clock = SystemClock()
    limits = Limits(settings.unreachable_seconds, settings.requeue_margin_seconds)
    sessions = Sessions(ledger.world, clock, settings.unreachable_seconds)
    leases = LeaseHandlers(ledger, clock, lease_milliseconds=round(settings.lease_seconds * 1000))
    nodes = NodeHandlers(ledger, clock)
    credentials = NodeCredentials()
    credentials.on_change(lambda node_id: sessions.end(node_id, _credential_void(ledger, node_id)))
    gate = Gate.of_settings(settings.gate_address, settings.gate_authority_file)
    enrolment = EnrolmentServicer(EnrolmentHandlers(ledger, credentials, clock, gate), credentials)
    planner = Planner(ledger, sessions, leases, clock)
    watcher = ClockWatcher(sessions, leases, nodes, clock, limits)
    projector = Projector(pool, ledger.log, SchedulerProjection(), schema=tables.SCHEMA, doorbell=doorbell)
    watches = Watches(ledger, clock, doorbell)
    queries = Queries(pool, projector, ledger.log)
    secrets = Secrets.of_service(pool, settings.yard_key_file)
    handlers = Handlers(ledger, clock, secrets.refuse_within)
    scheduler = SchedulerServicer(ledger, handlers, queries, watches, planner, sessions)
    operations = ProjectionOperations("scheduler", [projector], pool, ledger.log, settings)
    secret_servicer = SecretServicer(SecretHandlers(ledger, secrets, clock), secrets, queries, ledger.log)
    async with TaskGroup() as tasks:
        agents = AgentServicer(
            ledger, sessions, leases, nodes, tasks, round(settings.heartbeat_seconds * 1000), secrets.fill
        )
        recorder = HandsOnHandlers(ledger, clock, secrets.fill)
        hands_on = HandsOn(ledger, sessions, recorder, tasks, settings.hands_on_idle_seconds)
        hands_on.close_left_open()

        def register(server: grpc.aio.Server) -> None:
            scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server)
            agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, server)
            secret_service_pb2_grpc.add_SecretServiceServicer_to_server(secret_servicer, server)
            register_hands_on(server, hands_on, scheduler.run_id, tasks)
            enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(enrolment, server)
            ProjectionServicer("scheduler", operations).register(server)

        for loop in (ledger.keep_following, projector.run, planner.run, watcher.run):
            tasks.create_task(loop(), name=loop.__qualname__)
        tasks.create_task(credentials.follow(ledger.log, doorbell), name="credentials of nodes")
        if settings.nats_url:
            password = settings.nats_password.get_secret_value()
            tasks.create_task(doorbell.serve(settings.nats_url, settings.nats_user, password))
        await _read_model_shows(projector)
        tasks.create_task(operations.run(), name="projection operations")
        edge = edge_of_service(pool, settings.yard_key_file)
        async with serving(settings, SERVICE_NAMES, register, edge, credentials), AsyncExitStack() as ending:
            for end_all in (watches.end_all, enrolment.end_all, sessions.end_all):
                ending.callback(end_all)
            ending.push_async_callback(hands_on.end_all)
            await asyncio.Event().wait()


async def _read_model_shows(projector: Projector) -> None:
    """Wait until queries show what was there at the start, but not longer than leases can wait."""
    try:
        async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
            await projector.caught_up()
    except TimeoutError:
        log.warning("serving while the read model is behind", position=projector.checkpoint)


def _credential_void(ledger: Ledger, node_id: NodeId) -> Unauthenticated:
    if ledger.world.node(node_id).node.access.revoked:
        return Unauthenticated(f"node {node_id} was revoked", code="NODE_REVOKED")
    return Unauthenticated(f"node {node_id} enrolled again", code="CREDENTIAL_REPLACED")
