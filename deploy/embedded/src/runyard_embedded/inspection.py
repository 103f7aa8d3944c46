"""Looks at a yard from outside: what the supervisor wrote down, checked against processes, log and bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up
from runyard_embedded.home import Home
from runyard_embedded.plan import SERVICE_NAMES
from runyard_embedded.readiness import answers
from runyard_embedded.sightings import Sightings, read_sightings
from runyard_embedded.state import Phase, ProcessState, YardState, read_state
from runyard_engines.nats import RELAY

LOOK_SECONDS_MAX = 3.0
HEADS = "select lane, coalesce(max(position), 0) as head from log.event group by lane"
DOMAIN, TELEMETRY = 1, 2
TELEMETRY_PROJECTIONS = frozenset({("metrics", "telemetry")})
"""The ones that follow the telemetry lane; all others follow the domain lane."""


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """A process as it is now."""

    state: ProcessState
    lag: int | None
    """Events that its read models (the relay: the mirror) are behind the log; None when it has none."""


@dataclass(frozen=True, slots=True)
class YardReport:
    """A yard as it is now."""

    home: str
    supervisor_pid: int | None
    phase: Phase
    log_head: int | None
    """Last position of the domain lane; None when the log cannot be read."""
    processes: tuple[ProcessReport, ...]


async def inspect(home: Home) -> YardReport | None:
    """Look at the yard of a home; None when no supervisor runs."""
    state = read_state(home)
    if state is None or not state.is_alive:
        return None
    sightings = read_sightings(home)
    answering, lags = await asyncio.gather(_answering(state), _lags(sightings))
    return YardReport(
        home=str(home.folder),
        supervisor_pid=state.supervisor.pid,
        phase=state.supervisor.phase,
        log_head=lags.get("log"),
        processes=tuple(
            ProcessReport(_checked(process, answering.get(process.name, True)), lags.get(process.name))
            for process in state.processes.values()
        ),
    )


def _checked(process: ProcessState, is_answering: bool) -> ProcessState:
    if process.phase is not Phase.UP:
        return process
    if process.identity is None or not process.identity.is_alive():
        return replace(process, phase=Phase.RESTARTING, detail="has just ended")
    return (
        process if is_answering else replace(process, phase=Phase.FAILED, detail="runs, but does not answer")
    )


async def _answering(state: YardState) -> Mapping[str, bool]:
    ports = {
        name: process.port
        for name, process in state.processes.items()
        if name in SERVICE_NAMES and process.port is not None
    }
    found = await asyncio.gather(*(answers(port) for port in ports.values()))
    return dict(zip(ports, found, strict=True))


async def _lags(sightings: Sightings) -> dict[str, int]:
    """Give how far each service is behind the log, and its head as "log"; what cannot be seen is left out."""
    lags: dict[str, int] = {}
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError):
        async with asyncio.timeout(LOOK_SECONDS_MAX):
            connection = await asyncpg.connect(sightings.database_url, timeout=LOOK_SECONDS_MAX)
            try:
                await _look_at_log(connection, lags)
                log_id = str(await connection.fetchval("select log_id from log.identity"))
            finally:
                await connection.close(timeout=LOOK_SECONDS_MAX)
            with contextlib.suppress(OSError, TimeoutError, NatsError, JetStreamError):
                lags[RELAY] = lags["log"] - await _mirrored(sightings, log_id)
    return lags


async def _look_at_log(connection: asyncpg.Connection, lags: dict[str, int]) -> None:
    heads = {DOMAIN: 0, TELEMETRY: 0}
    heads.update({row["lane"]: row["head"] for row in await connection.fetch(HEADS)})
    lags["log"] = heads[DOMAIN]
    for service in SERVICE_NAMES:
        table = f"{service}.projection_checkpoint"
        if await connection.fetchval("select to_regclass($1)", table) is None:
            continue
        # Only the newest version of a projection is followed; the others are left behind on purpose.
        newest = f"select distinct on (projection) projection, position from {table}"  # noqa: S608 - ours
        rows = await connection.fetch(f"{newest} order by projection, version desc, build")
        behind = [
            heads[TELEMETRY if (service, row["projection"]) in TELEMETRY_PROJECTIONS else DOMAIN]
            - row["position"]
            for row in rows
        ]
        lags[service] = max([0, *behind])


async def _mirrored(sightings: Sightings, log_id: str) -> int:
    client = Client()
    try:
        await client.connect(
            sightings.nats_url,
            user=RELAY,
            password=sightings.relay_password,
            connect_timeout=2,
            allow_reconnect=False,
            error_cb=_silent,
        )
        info = await client.jetstream(timeout=LOOK_SECONDS_MAX).stream_info(subjects.events_stream(log_id))
        return info.state.last_seq
    finally:
        await hang_up(client)


async def _silent(_: Exception) -> None:
    """What cannot be seen is left out."""
