"""Segments that were sealed, and proofs that were given out, hold after a person in them was erased."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts.envelope import Context, actor_name, parse_actor
from runyard_contracts.ids import EventId
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore
from runyard_eventlog.personal.edge import PersonalEdge
from runyard_eventlog.personal.keyring import Keyring
from runyard_eventlog.personal.yard_key import YARD_KEY_BYTES, YardKey
from runyard_eventlog.port import StreamAppend
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.proof import check_proof
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.segment_seals import SealingSettings
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_event import canonical_bytes
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_eventlog.verification import prove_event, verify
from runyard_testkit import Database
from tests.contract.events import DOMAIN, command, queued, run_stream

pytestmark = pytest.mark.engines

# Long enough that no random letters of a sealed name can hold it.
NAME = "zoe-of-the-lab"
ZOE = parse_actor(f"user:{NAME}")


async def test_hashes_and_proofs_hold_after_an_erasure_and_nothing_opens_the_name(
    database: Database, tmp_path: Path
) -> None:
    key, store = SigningKey.load_or_create(tmp_path / "segment.key"), FolderStore(tmp_path / "archive")
    async with (
        asyncpg.create_pool(database.url("lineage"), min_size=1, max_size=4) as pool,
        PostgresEventLog(pool) as log,
        await PostgresEventLog.connect(database.url("scheduler")) as scheduler,
    ):
        edge = PersonalEdge(keyring := Keyring(pool, YardKey(os.urandom(YARD_KEY_BYTES))))
        stored = PostgresStoredLog(pool)
        first = await _append(scheduler, edge)
        await _append(scheduler, edge)
        await Sealer(log, stored, store, key, settings=SealingSettings(events_max=2)).seal_next(DOMAIN)
        archive = Archive(store)
        proof = await prove_event(archive, stored, first)

        person_id = await keyring.find(f"user:{NAME}")
        assert person_id is not None
        await keyring.erase(person_id)

        report = await verify(archive, [key.public], log=log, stored=stored)
        assert report.is_sound
        assert {one.lane: (one.archived_count, one.database_count) for one in report.lanes}["domain"] == (
            2,
            2,
        )
        assert await prove_event(archive, stored, first) == proof
        proven = Envelope.FromString(check_proof(proof, key.public).event.payload)
        (columns,) = [await archive.columns(name) for name in await archive.names(DOMAIN)]
        contents = b"".join(canonical_bytes(event, DOMAIN) for event in columns)
        assert NAME.encode() not in contents + proof
        opened = await edge.open_answer(proven)
        assert actor_name(opened.actor) == "user:[erased]"


async def _append(log: PostgresEventLog, edge: PersonalEdge) -> EventId:
    """Append a run that Zoe asked for, as a service does."""
    stream = run_stream()
    actor = await edge.seal_actor(ZOE)
    envelope = queued(stream, Context(actor, correlation_id=stream, source="/scheduler"))
    await log.append(command(StreamAppend(stream, 0, [envelope])))
    return EventId(envelope.event_id)
