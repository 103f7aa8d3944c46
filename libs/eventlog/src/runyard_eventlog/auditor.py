"""Compares the mirror with the log, event by event. ``python -m runyard_eventlog.auditor`` prints a verdict.

Exit code 0: every message of the mirror is the log's event of that position, byte for byte, and nothing is
missing that it should still hold. 1: it is not so, or there is no mirror. Settings as of the relay.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import asyncpg
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts import subjects
from runyard_core.bus_connection import hang_up
from runyard_eventlog.connections import AWAY, CLOSE_SECONDS_MAX, Connection
from runyard_eventlog.mirror import Mirror, MirrorEntry, read_messages
from runyard_eventlog.mirror_upkeep import log_id_of, sight_log, sight_mirror
from runyard_eventlog.relay import connect_bus
from runyard_eventlog.rows import lane_head

_PAGE = 1_000
_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison found."""

    verdict: str
    """SAME, DIFFERENT, TRUNCATED (the same from too late a position on) or NO_MIRROR."""
    log_id: str
    first_position: int
    last_position: int
    """The mirror's range, which was compared."""
    log_head: int
    log_count: int
    mirror_count: int
    log_sha256: str
    mirror_sha256: str
    """Rolling hash over position, subject and bytes of each event of the range."""
    first_difference: int
    """Lowest position that differs; 0 when none does."""


async def audit(connection: Connection, client: Client) -> Verdict:
    """Compare the whole mirror with the log."""
    log_id = await log_id_of(connection)
    mirror = Mirror(client, log_id)
    info = await mirror.info()
    if info is None:
        head = await connection.fetchval(lane_head(Lane.LANE_DOMAIN))
        return Verdict("NO_MIRROR", log_id, 0, 0, head, 0, 0, "", "", 0)
    state = info.state
    seen = await sight_mirror(mirror, info, replicas=info.config.num_replicas or 1)
    log = await sight_log(connection, seen, log_id)
    logged, mirrored = _Rolling(), _Rolling()
    # What was detached from the database is not compared here; `runyard history verify` answers for it.
    first, last = max(state.first_seq, log.first_position), state.last_seq
    log_side = _log_messages(connection, first, last, log_id)
    mirror_side = _mirror_messages(client, mirror.name, state.messages, first)
    left, right = await anext(log_side, None), await anext(mirror_side, None)
    difference = 0
    while left is not None or right is not None:
        if not difference and left != right:
            difference = min(side.position for side in (left, right) if side is not None)
        if left is not None:
            logged.add(left)
            left = await anext(log_side, None)
        if right is not None:
            mirrored.add(right)
            right = await anext(mirror_side, None)
    same = not difference and logged.sha256 == mirrored.sha256
    whole = state.first_seq <= log.first_expected
    return Verdict(
        "DIFFERENT" if not same else "SAME" if whole else "TRUNCATED",
        log_id,
        first,
        last,
        log.head,
        logged.count,
        mirrored.count,
        logged.sha256,
        mirrored.sha256,
        difference,
    )


class _Rolling:
    """Counts and hashes events in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, entry: MirrorEntry) -> None:
        head = f"{entry.position} {entry.subject} {entry.event_id} {len(entry.body)}\n"
        self._hash.update(head.encode())
        self._hash.update(entry.body)
        self.count += 1

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


async def _log_messages(
    connection: Connection, first: int, last: int, log_id: str
) -> AsyncIterator[MirrorEntry]:
    position = first - 1
    while position < last:
        page = await read_messages(connection, position, min(_PAGE, last - position), log_id)
        for message in page:
            yield message.entry
        if not page:
            return
        position = page[-1].position


async def _mirror_messages(client: Client, stream: str, count: int, first: int) -> AsyncIterator[MirrorEntry]:
    if not count:
        return
    jetstream = client.jetstream(timeout=_SECONDS_MAX)
    subscription = await jetstream.pull_subscribe(
        subjects.EVENT_WILDCARD,
        stream=stream,
        config=ConsumerConfig(
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            inactive_threshold=30,
        ),
        pending_msgs_limit=-1,
        pending_bytes_limit=-1,
    )
    try:
        while count > 0:
            try:
                page = await subscription.fetch(min(_PAGE, count), timeout=_SECONDS_MAX)
            except NatsTimeoutError:
                return
            for message in page:
                event_id = (message.headers or {}).get("Nats-Msg-Id", "")
                sequence = message.metadata.sequence.stream
                if sequence >= first:
                    yield MirrorEntry(sequence, message.subject, event_id, message.data)
            count -= len(page)
    finally:
        await subscription.unsubscribe()


async def _main() -> Verdict:
    connection = await asyncpg.connect(os.environ["RUNYARD_DATABASE_URL"], timeout=_SECONDS_MAX)
    try:
        async with asyncio.timeout(_SECONDS_MAX):
            client = await connect_bus(
                os.environ["RUNYARD_NATS_URL"],
                os.environ.get("RUNYARD_NATS_USER", ""),
                os.environ.get("RUNYARD_NATS_PASSWORD", ""),
                "runyard-auditor",
            )
        try:
            return await audit(connection, client)
        finally:
            await hang_up(client)
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)


def main() -> None:
    """Compare, print the verdict as JSON, and exit by it."""
    try:
        verdict = asyncio.run(_main())
    except KeyError as error:
        sys.exit(f"auditor: {error.args[0]} is not set")
    except (NatsError, *AWAY) as error:
        sys.exit(f"auditor: an engine does not answer, or the mirror is being made anew: {error!r}")
    sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
    sys.exit(0 if verdict.verdict == "SAME" else 1)


if __name__ == "__main__":
    main()
