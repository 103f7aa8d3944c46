"""Writers and watchers of a log whose engines die again and again: every promise is kept.

RUNYARD_FAULT_SECONDS says for how long (``make faults``: a minute), RUNYARD_TEST_SEED repeats the faults.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard_engines import NatsServer, Postgres
from runyard_eventlog.auditor import audit
from runyard_eventlog.mirror import Mirror
from runyard_eventlog.mirror_upkeep import log_id_of
from runyard_testkit import Bus, Database
from tests.jepsen.checker import violations
from tests.jepsen.history import (
    Acknowledged,
    Forged,
    Invoked,
    Record,
    Refused,
    Stored,
    last_seen,
    read_history,
)
from tests.jepsen.nemesis import BUS_WATCHER, WATCHER_COUNT, Cluster
from tests.jepsen.writer import text_of

SECONDS = float(os.environ.get("RUNYARD_FAULT_SECONDS", "2"))
_CATCH_UP_SECONDS_MAX = 30.0

pytestmark = [pytest.mark.engines, pytest.mark.faults, pytest.mark.timeout(120 + 3 * SECONDS)]


async def test_what_was_acknowledged_is_there_once_and_in_order_and_every_watcher_saw_it(
    own_postgres: Postgres, own_nats: NatsServer, own_database: Database, tmp_path: Path
) -> None:
    seed = int(os.environ.get("RUNYARD_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}: repeat with RUNYARD_TEST_SEED={seed}; histories in {tmp_path}")
    log_id = await _log_id(own_database)
    cluster = Cluster(own_postgres, own_nats, own_database, log_id, tmp_path, random.Random(seed))
    await cluster.start(writer_count=2)
    try:
        await cluster.torment(SECONDS)
        await cluster.stop_writers()
        stored = await stored_events(own_database)
        await _mirrored(own_nats, own_database, log_id)
        for number in range(WATCHER_COUNT):
            await _caught_up(cluster.watcher_history(number), _watched_by(number, stored))
    finally:
        await cluster.stop()

    clients = [read_history(path) for path in cluster.histories]
    seen = [read_history(cluster.watcher_history(number)) for number in range(WATCHER_COUNT)]
    of_the_log = {f"{number}": records for number, records in enumerate(seen) if number != BUS_WATCHER}
    counts = _counts(clients)
    print(f"kills {dict(cluster.kills)}, stored {len(stored)}, {counts}")
    assert violations(clients, of_the_log, stored) == []
    assert violations(clients, {"bus": seen[BUS_WATCHER]}, stored, lanes=[Lane.LANE_DOMAIN]) == []
    # Nothing above is worth anything if nothing happened.
    assert len(cluster.kills) == 5
    assert min(counts["acknowledged"], counts["refused"], counts["forged"]) > 0
    assert {event.lane for event in stored} == {Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY}


async def stored_events(database: Database) -> list[Stored]:
    """Read the whole log, past all code of ours."""
    async with database.connected() as connection:
        rows = await connection.fetch(
            "select lane, position, event_id::text, stream, version, payload from log.event order by 1, 2"
        )
    return [
        Stored(lane, position, event_id, stream, version, text_of(Envelope.FromString(payload)))
        for lane, position, event_id, stream, version, payload in rows
    ]


async def _caught_up(history: Path, stored: list[Stored]) -> None:
    """Wait until a watcher has written down the last event of each lane."""
    heads = {event.lane: event.position for event in stored}
    async with asyncio.timeout(_CATCH_UP_SECONDS_MAX):
        while True:
            seen = read_history(history)
            if all(last_seen(seen, lane) >= head for lane, head in heads.items()):
                return
            # A watcher has nobody to tell but its file.
            await asyncio.sleep(0.05)


def _watched_by(number: int, stored: list[Stored]) -> list[Stored]:
    return [event for event in stored if number != BUS_WATCHER or event.lane == Lane.LANE_DOMAIN]


async def _log_id(database: Database) -> str:
    async with database.connected() as connection:
        return await log_id_of(connection)


async def _mirrored(nats: NatsServer, database: Database, log_id: str) -> None:
    """Wait until the relay has caught up, and hold its mirror against the log."""
    async with await Bus(nats).connect("test") as client, database.connected() as connection:
        head = await connection.fetchval("select max(position) from log.domain_event")
        mirror = Mirror(client, log_id)
        async with asyncio.timeout(_CATCH_UP_SECONDS_MAX):
            while True:
                info = await mirror.info()
                if info is not None and info.state.last_seq >= head:
                    break
                # What the relay rings comes before the last part is there.
                await asyncio.sleep(0.05)
        verdict = await audit(connection, client)
        assert (verdict.verdict, verdict.mirror_count) == ("SAME", head)


def _counts(clients: list[list[Record]]) -> dict[str, int]:
    records = [record for client in clients for record in client]
    kinds = {"invoked": Invoked, "acknowledged": Acknowledged, "refused": Refused, "forged": Forged}
    found = {name: sum(isinstance(record, kind) for record in records) for name, kind in kinds.items()}
    answered = {r.command_id for r in records if isinstance(r, Acknowledged | Refused)}
    asked = {r.command_id for r in records if isinstance(r, Invoked)}
    return {**found, "unanswered": len(asked - answered)}
