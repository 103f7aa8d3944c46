"""``python -m tests.bench.eventlog_snapshot``: replays the log again and again under one old snapshot.

Takes the database's address as its argument, says "ready" when the snapshot is taken, and gives the number of
events it replayed when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from contextlib import aclosing

import asyncpg

from runyard.event.v1.envelope_pb2 import Lane
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.subscriber import follow


async def _main(url: str) -> None:
    holder = await asyncpg.connect(url)
    # What a dump, an incident's query or an export does: none of its rows may be cleaned up until it ends.
    await holder.execute(
        "begin isolation level repeatable read read only; set local idle_in_transaction_session_timeout = 0"
    )
    head = await holder.fetchval("select max(position) from log.domain_event")
    counts: Counter[type] = Counter()
    print("ready", flush=True)
    async with await PostgresEventLog.connect(url) as log:
        replaying = asyncio.create_task(_replay_for_ever(log, head, counts))
        await asyncio.to_thread(sys.stdin.read)
        replaying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await replaying
    await holder.close()
    print(counts.total(), flush=True)


async def _replay_for_ever(log: PostgresEventLog, head: int, counts: Counter[type]) -> None:
    while True:
        async with aclosing(follow(log, Lane.LANE_DOMAIN, page_size=2_000)) as pages:
            async for page in pages:
                for event in page.events:
                    counts[type(event.message)] += 1
                if page.scanned_to >= head:
                    break


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
