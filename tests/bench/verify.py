"""Benchmarks of verification: sealed segments recomputed, beside plainly hashing the same payloads.

An event that is in archive and database counts once. "CPU" is a second of the Python process's own work, on
a machine that does other things too.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import struct
import tempfile
import time
from pathlib import Path

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.proof import check_proof
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_eventlog.verification import Report, prove, verify
from runyard_testkit import Database
from tests.bench.eventlog_setup import fresh_database
from tests.bench.replay_history import History
from tests.bench.result import Result, measured

ROUNDS = 3
EVENTS = 1_000_000
PROOFS = 20
DOMAIN = Lane.LANE_DOMAIN
_COPY_HEADER_BYTES = 19
_LENGTHS = struct.Struct(">hi")


def benchmarks() -> list[Result]:
    """Measure on an engine of its own and an archive in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        return asyncio.run(_benchmarks(Path(folder)))


async def _benchmarks(folder: Path) -> list[Result]:
    async with fresh_database(folder) as database:
        await History(database.admin_url).grow_to(EVENTS)
        async with (
            asyncpg.create_pool(database.url("lineage"), min_size=2, max_size=6) as pool,
            PostgresEventLog(pool) as log,
        ):
            key, store = SigningKey.load_or_create(folder / "segment.key"), FolderStore(folder / "archive")
            stored = PostgresStoredLog(pool)
            began = time.perf_counter()
            await Sealer(log, stored, store, key).seal_due(DOMAIN)
            sealing = EVENTS / (time.perf_counter() - began)
            return [
                measured("verify: sealing", [sealing], "events/s", "higher"),
                *await _verify(Archive(store), key, log, stored, database),
                await _proofs(Archive(store), key),
            ]


async def _verify(
    archive: Archive, key: SigningKey, log: PostgresEventLog, stored: PostgresStoredLog, database: Database
) -> list[Result]:
    processor, alone, both, plain_files, plain_rows = [], [], [], [], []
    cores = os.cpu_count() or 1
    for _ in range(ROUNDS):
        began = time.process_time()
        report = await verify(archive, [key.public], lanes=[DOMAIN])
        processor.append(_rate(report, time.process_time() - began))
        report = await verify(archive, [key.public], lanes=[DOMAIN], process_count=cores)
        alone.append(_rate(report, report.seconds))
        plain_files.append(await _hash_files(archive))
        report = await verify(
            archive,
            [key.public],
            log=log,
            stored=stored,
            lanes=[DOMAIN],
            process_count=cores,
            database_url=database.url("reader"),
        )
        both.append(_rate(report, report.seconds))
        plain_rows.append(await _hash_rows(database))
    files, rows = ("Parquet read, payloads hashed", plain_files), ("COPY, payloads hashed", plain_rows)
    return [
        measured("verify: archive alone, CPU", processor, "events/s", "higher", target=300_000),
        measured("verify: archive alone", alone, "events/s", "higher", target=300_000, baseline=files),
        measured("verify: archive and database", both, "events/s", "higher", target=300_000, baseline=rows),
    ]


def _rate(report: Report, seconds: float) -> float:
    if not report.is_sound or report.event_count < EVENTS:
        raise AssertionError(f"verified {report.event_count} events: {report.findings}")
    return report.event_count / seconds


async def _hash_files(archive: Archive) -> float:
    """Read the column of payloads of every file and hash each, in this thread."""
    from pyarrow import parquet

    began, count = time.perf_counter(), 0
    for name in await archive.names(DOMAIN):
        content = await archive.store.get(name.parquet)
        payloads = parquet.read_table(io.BytesIO(content or b""), use_threads=False)["payload"].to_pylist()
        count += len([hashlib.sha256(payload).digest() for payload in payloads])
    return count / (time.perf_counter() - began)


async def _hash_rows(database: Database) -> float:
    """Copy the payloads out of the database and hash each, in this thread."""
    connection = await asyncpg.connect(database.url("reader"))
    out = io.BytesIO()
    began = time.perf_counter()
    await connection.copy_from_query(
        "select payload from log.domain_event order by position", output=out, format="binary"
    )
    content = out.getbuffer()
    count, at = 0, _COPY_HEADER_BYTES
    while at + _LENGTHS.size <= len(content):
        _, length = _LENGTHS.unpack_from(content, at)
        at += _LENGTHS.size
        hashlib.sha256(content[at : at + length]).digest()
        at += length
        count += 1
    seconds = time.perf_counter() - began
    content.release()
    await connection.close()
    return count / seconds


async def _proofs(archive: Archive, key: SigningKey) -> Result:
    """Check proofs, each of an event of another segment."""
    milliseconds = []
    for number in range(PROOFS):
        proof = await prove(archive, DOMAIN, 1 + number * (EVENTS // PROOFS))
        began = time.perf_counter()
        check_proof(proof, key.public)
        milliseconds.append((time.perf_counter() - began) * 1_000)
    return measured("verify: a proof checked", milliseconds, "ms", "lower")
