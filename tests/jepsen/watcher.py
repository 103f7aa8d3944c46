"""A child process that follows both lanes from where its history ends: ``python -m tests.jepsen.watcher``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from runyard.event.v1.envelope_pb2 import Lane
from runyard_contracts.ids import Position
from runyard_eventlog.doorbell import Doorbell
from runyard_eventlog.port import EventLog
from runyard_eventlog.subscriber import follow
from tests.jepsen.history import HistoryFile, Saw, last_seen, now_ns, read_history
from tests.jepsen.process_arguments import WatcherArguments, arguments_of
from tests.jepsen.writer import connected, text_of


async def watch(arguments: WatcherArguments) -> None:
    """Follow until killed."""
    path = Path(arguments.history)
    known = read_history(path)
    history = HistoryFile(path)
    bell = Doorbell()
    async with await connected(arguments.database_url) as log, asyncio.TaskGroup() as group:
        if arguments.nats_url:
            group.create_task(bell.serve(arguments.nats_url, "lineage", arguments.nats_password))
        for lane in (Lane.LANE_DOMAIN, Lane.LANE_TELEMETRY):
            after = Position(last_seen(known, lane))
            group.create_task(_watch_lane(log, lane, after, bell, history))


async def _watch_lane(
    log: EventLog, lane: Lane.ValueType, after: Position, bell: Doorbell, history: HistoryFile
) -> None:
    async for page in follow(log, lane, after_position=after, doorbell=bell):
        history.write(
            *(
                Saw(
                    lane=lane,
                    position=event.position,
                    event_id=event.envelope.event_id,
                    stream=event.envelope.stream,
                    version=event.envelope.stream_version,
                    text=text_of(event.envelope),
                    at_ns=now_ns(),
                )
                for event in page.events
            )
        )


if __name__ == "__main__":
    asyncio.run(watch(arguments_of(WatcherArguments, sys.argv[1])))
