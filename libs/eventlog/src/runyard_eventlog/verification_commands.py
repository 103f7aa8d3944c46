"""The command line of ``runyard_eventlog.verification``; its module docstring says how to call it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from runyard_core.errors import Corrupt, InvalidInput, NotFound, RunyardError, Unavailable
from runyard_eventlog.archive import Archive, ArchivedEventLog
from runyard_eventlog.archive_store import ArchiveStore, FolderStore, S3Place, S3Store
from runyard_eventlog.connections import AWAY
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.proof import check_proof
from runyard_eventlog.signing import PublicKey
from runyard_eventlog.stored_log import PostgresStoredLog

PROOF_BYTES_MAX = 16 * 1024 * 1024
"""Largest proof that is looked at; one holds a single event."""


def run(arguments: Sequence[str]) -> int:
    """Run a command and give its exit code."""
    asked = _parser().parse_args(arguments)
    try:
        match asked.command:
            case "check-proof":
                return _check_proof(asked.file, asked.key)
            case "prove":
                return asyncio.run(_prove(asked))
            case _:
                return asyncio.run(_verify(asked))
    except Corrupt as error:
        sys.stderr.write(f"{error.code}: {error.message}\n")
        return 1
    except (RunyardError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyError as error:
        sys.stderr.write(f"{error.args[0]} is not set\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runyard_eventlog.verification")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("verify", help="recompute every sealed segment")
    whole.add_argument("--key", type=Path, action="append", required=True, help="a trusted public key (PEM)")
    whole.add_argument("--archive", type=Path, help="folder of the archive")
    whole.add_argument("--archive-only", action="store_true", help="do not look at the database")
    one = commands.add_parser("prove", help="write the inclusion proof of an event")
    one.add_argument("event_id")
    one.add_argument("--archive", type=Path, help="folder of the archive")
    check = commands.add_parser("check-proof", help="check an inclusion proof")
    check.add_argument("file", type=Path)
    check.add_argument("--key", type=Path, required=True, help="the public key (PEM)")
    return parser


def _check_proof(path: Path, key: Path) -> int:
    with path.open("rb") as file:
        content = file.read(PROOF_BYTES_MAX + 1)
    if len(content) > PROOF_BYTES_MAX:
        raise InvalidInput(f"{path} is too large for a proof")
    proven = check_proof(content, PublicKey.load(key))
    event, manifest = proven.event, proven.manifest
    facts = {
        "event_id": str(event.event_id),
        "type": event.type,
        "stream": event.stream,
        "version": event.version,
        "lane": manifest.lane,
        "position": event.position,
        "recorded_at": event.recorded_at.isoformat(),
        "actor": event.actor,
        "segment": str(manifest.name),
        "segment_root": manifest.segment_root,
        "key_id": proven.key_id,
    }
    sys.stdout.write(f"PROVEN\n{json.dumps(facts, indent=1)}\n")
    return 0


async def _prove(asked: argparse.Namespace) -> int:
    from runyard_eventlog.verification import prove_event

    archive = Archive(_store(asked.archive))
    async with _pool() as pool:
        proof = await prove_event(archive, PostgresStoredLog(pool), asked.event_id)
    sys.stdout.write(proof.decode())
    return 0


async def _verify(asked: argparse.Namespace) -> int:
    from runyard_eventlog.verification import verify

    archive = Archive(_store(asked.archive))
    keys = [PublicKey.load(path) for path in asked.key]
    if asked.archive_only:
        report = await verify(archive, keys)
    else:
        async with _pool() as pool, PostgresEventLog(pool) as log:
            stored = PostgresStoredLog(pool)
            report = await verify(archive, keys, log=ArchivedEventLog(log, stored, archive), stored=stored)
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.is_sound else 1


@asynccontextmanager
async def _pool() -> AsyncIterator[asyncpg.Pool]:
    url = os.environ["RUNYARD_DATABASE_URL"]
    try:
        pool = await asyncpg.create_pool(url, min_size=1, max_size=4, timeout=10.0)
    except AWAY as error:
        raise Unavailable(f"the log's database does not answer: {error}", code="LOG_UNREACHABLE") from error
    async with pool:
        yield pool


def _store(folder: Path | None) -> ArchiveStore:
    if folder is not None:
        if not folder.is_dir():
            raise NotFound(f"there is no archive in {folder}")
        return FolderStore(folder)
    return S3Store(
        S3Place(
            endpoint=os.environ["RUNYARD_S3_ENDPOINT"],
            region=os.environ.get("RUNYARD_S3_REGION", "us-east-1"),
            bucket=os.environ["RUNYARD_S3_BUCKET"],
            access_key=os.environ["RUNYARD_S3_ACCESS_KEY"],
            secret_key=os.environ["RUNYARD_S3_SECRET_KEY"],
        )
    )
