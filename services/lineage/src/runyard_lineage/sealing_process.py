"""Seals what is due of a lane in a process of its own: ``python -m runyard_lineage.sealing_process LANE``.

Sealing needs Arrow, cryptography and an S3 client for a second every few minutes; a process that ends gives
their 80 MB back. A kill at any step costs nothing: see ``runyard_eventlog.sealing``. Settings and role are
the service's. Exit code 0: done. 3: the archive is not this log's, and a person must look. Else: try again.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_core.errors import Corrupt, RunyardError, Unavailable
from runyard_eventlog.archive_store import open_store
from runyard_eventlog.connections import AWAY, kept_open
from runyard_eventlog.manifest import LANE_NAMES, LANES
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.sealing import Sealer
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_log import PostgresStoredLog
from runyard_lineage.settings import LineageSettings
from runyard_servicekit.logs import configure_logs

CONNECTIONS_MAX = 5
EXIT_CORRUPT = 3
SECONDS_MAX = 1_800.0
"""A backlog is sealed at some tens of thousands of events a second; this is for a process that hangs."""

_log = logging.getLogger("runyard.sealing")


async def seal_apart(lane: Lane.ValueType) -> None:
    """Seal what is due of a lane in a child process with this process's environment.

    Raises:
        Corrupt: the archive is not this log's, or the log lacks a position.
        Unavailable: it could not be done now.
    """
    name = LANE_NAMES[lane]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runyard_lineage.sealing_process", name), stdin=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            code = await process.wait()
    except TimeoutError as error:
        raise Unavailable(f"sealing did not end in {SECONDS_MAX:.0f} s", code="SEALING_SLOW") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code == EXIT_CORRUPT:
        raise Corrupt("the log and its archive do not fit; the line above says how", code="ARCHIVE_DIFFERS")
    if code:
        raise Unavailable(
            f"the sealing process ended with {code}; the line above says why", code="SEALING_FAILED"
        )


async def seal(settings: LineageSettings, lane: Lane.ValueType) -> int:
    """Seal what is due of a lane; gives the number of segments.

    Raises:
        Corrupt: the archive is not this log's, or the log lacks a position.
        InvalidInput: the key file or the archive's address is not one.
        Conflict: somebody else sealed the same segment meanwhile.
        Unavailable: the log or the archive does not answer.
    """
    if settings.segment_key_file is None:
        raise Unavailable("RUNYARD_SEGMENT_KEY_FILE is not set", code="NO_SEGMENT_KEY")
    key = SigningKey.load(settings.segment_key_file)
    store = open_store(settings.archive_url.get_secret_value())
    try:
        async with (
            kept_open(
                asyncpg.create_pool(
                    settings.database_url.get_secret_value(),
                    min_size=1,
                    max_size=CONNECTIONS_MAX,
                    timeout=10.0,
                )
            ) as pool,
            PostgresEventLog(pool) as event_log,
        ):
            sealer = Sealer(event_log, PostgresStoredLog(pool), store, key, settings=settings.sealing)
            return await sealer.seal_due(lane)
    except AWAY as error:
        raise Unavailable(f"the log does not answer: {error!r}", code="LOG_UNREACHABLE") from error
    finally:
        store.close()


def main() -> int:
    """Seal the lane that the command line names; gives the exit code."""
    settings = LineageSettings()  # type: ignore[call-arg]  # its fields come from the environment
    configure_logs("sealing", settings.log_level)
    try:
        asyncio.run(seal(settings, LANES[sys.argv[1]]))
    except Corrupt as error:
        _log.critical("%s: %s", error.code, error.message)
        return EXIT_CORRUPT
    except RunyardError as error:
        _log.error("%s: %s", error.code, error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
