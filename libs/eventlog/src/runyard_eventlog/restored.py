"""Gives a restored log a new identity: ``python -m runyard_eventlog.restored``, once after every restore.

The former identity names a mirror, and is known to processes that have seen events which the restored log
does not have. With a new one nobody takes the two for the same. Prints a line of JSON; exit code 1 when read
models were not restored together with the log and are ahead of it.

Setting: RUNYARD_ADMIN_DATABASE_URL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import asyncpg

from runyard_eventlog import rows
from runyard_eventlog.connections import AWAY, CLOSE_SECONDS_MAX
from runyard_eventlog.migrate import SERVICE_ROLES

_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the log."""

    former_log_id: str
    log_id: str
    domain_position: int
    telemetry_position: int
    read_models_ahead: Sequence[str]
    """Read models ("cost.run_cost version 3 at 120") that show more than any lane holds: build them anew."""


async def give_new_identity(admin_url: str) -> Restored:
    """Change the log's identity.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: the database does not answer, or this is not its
            administrator.
    """
    connection = await asyncpg.connect(admin_url, timeout=_SECONDS_MAX, command_timeout=_SECONDS_MAX)
    try:
        (former,) = await connection.fetch(rows.HEAD)
        log_id = await connection.fetchval("select log.change_identity()::text")
        domain, telemetry = former["domain_position"], former["telemetry_position"]
        ahead = await _read_models_ahead(connection, max(domain, telemetry))
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)
    return Restored(former["log_id"], log_id, domain, telemetry, ahead)


async def _read_models_ahead(connection: asyncpg.Connection, position: int) -> list[str]:
    # A checkpoint does not say its lane, and no lane has more events than the longer one.
    ahead: list[str] = []
    for schema in SERVICE_ROLES.values():
        if await connection.fetchval("select to_regclass($1)", f"{schema}.projection_checkpoint") is None:
            continue
        found = await connection.fetch(
            f"select projection, version, position from {schema}.projection_checkpoint "  # noqa: S608 - own names
            "where position > $1 order by projection, version",
            position,
        )
        ahead.extend(
            f"{schema}.{row['projection']} version {row['version']} at {row['position']}" for row in found
        )
    return ahead


def main() -> None:
    """Change the identity of the log that the environment names."""
    try:
        restored = asyncio.run(give_new_identity(os.environ["RUNYARD_ADMIN_DATABASE_URL"]))
    except KeyError as error:
        sys.exit(f"restored: {error.args[0]} is not set")
    except (*AWAY, asyncpg.PostgresError) as error:
        sys.exit(f"restored: the database does not answer or refuses: {error}")
    sys.stdout.write(json.dumps(asdict(restored)) + "\n")
    sys.exit(1 if restored.read_models_ahead else 0)


if __name__ == "__main__":
    main()
