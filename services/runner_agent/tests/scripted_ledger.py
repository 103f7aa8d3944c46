"""The metrics service's part around one agent: takes telemetry from a real bus, and remembers it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, StreamConfig

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.event.v1.envelope_pb2 import Envelope
from runyard.metric.v1.batches_pb2 import LogChunkRecorded, LogStream, MetricPointsRecorded
from runyard_contracts import subjects
from runyard_contracts.envelope import unwrap


async def create_stream(client: Client) -> None:
    config = StreamConfig(name=subjects.TELEMETRY_STREAM, subjects=[subjects.TELEMETRY_WILDCARD])
    await client.jetstream().add_stream(config)


class Ledger:
    """Takes telemetry as the metrics service does: in order for each spool, then publishes the mark."""

    def __init__(self) -> None:
        self.batches: dict[tuple[str, int], bytes] = {}
        self.committed: dict[str, int] = {}
        self.duplicate_count = 0
        self.is_over = False
        self.news = asyncio.Condition()

    async def run(self, client: Client) -> None:
        jetstream = client.jetstream()
        subscription = await jetstream.pull_subscribe(
            subjects.TELEMETRY_WILDCARD, "ledger", stream=subjects.TELEMETRY_STREAM,
            # What a ledger that ends had fetched and did not take comes again to the next one after so long.
            config=ConsumerConfig(max_ack_pending=20_000, ack_wait=2),
        )  # fmt: skip
        while not self.is_over:
            try:
                messages = await subscription.fetch(200, timeout=0.5)
            except TimeoutError:
                continue
            for message in messages:
                await self._take(client, message)

    @asynccontextmanager
    async def listening(self, client: Client) -> AsyncIterator[None]:
        """Take telemetry while the block runs."""
        self.is_over = False
        consuming = asyncio.ensure_future(self.run(client))
        try:
            yield
        finally:
            # The client may swallow a cancellation; then it ends with its next fetch.
            self.is_over = True
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)

    async def _take(self, client: Client, message: Msg) -> None:
        envelope = Envelope.FromString(message.data)
        node_id, _, spool_id = envelope.stream.removeprefix("telemetry-").partition(".")
        key = (spool_id, envelope.stream_version)
        if key in self.batches:
            assert self.batches[key] == message.data, f"{key} came again with other bytes"
            self.duplicate_count += 1
        self.batches[key] = message.data
        mark = self.committed.get(spool_id, 0)
        while (spool_id, mark + 1) in self.batches:
            mark += 1
        self.committed[spool_id] = mark
        await message.ack()
        content = json.dumps({"spool_id": spool_id, "sequence": mark}).encode()
        await client.publish(subjects.committed_subject(node_id), content)
        async with self.news:
            self.news.notify_all()

    async def wait_for(self, spool_id: str, sequence: int, seconds: float = 40) -> None:
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: self.committed.get(spool_id, 0) >= sequence)

    def messages(self) -> Iterable[object]:
        for _, data in sorted(self.batches.items()):
            yield unwrap(Envelope.FromString(data))

    def lines(self, grant: LeaseGrant, *streams: LogStream.ValueType) -> list[str]:
        """Give the lines of an attempt by number; fails when one is missing or doubled."""
        found: dict[int, tuple[LogStream.ValueType, str]] = {}
        for message in self.messages():
            if isinstance(message, LogChunkRecorded) and message.attempt.run_id == grant.run_id:
                for index, line in enumerate(message.lines):
                    number = message.first_line_number + index
                    assert number not in found, f"line {number} came twice"
                    found[number] = (message.streams[index], line)
        assert sorted(found) == list(range(1, len(found) + 1)), "a line is missing"
        return [line for _, (stream, line) in sorted(found.items()) if stream in streams or not streams]

    def points(self, grant: LeaseGrant) -> list[tuple[str, float]]:
        return [
            (message.names[index], value)
            for message in self.messages()
            if isinstance(message, MetricPointsRecorded) and message.attempt.run_id == grant.run_id
            for index, value in zip(message.name_indices, message.values, strict=True)
        ]

    def point_times(self, grant: LeaseGrant) -> list[int]:
        return [
            time
            for message in self.messages()
            if isinstance(message, MetricPointsRecorded) and message.attempt.run_id == grant.run_id
            for time in message.times_unix_milliseconds
        ]
