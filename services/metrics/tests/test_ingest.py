"""What ingest does with deliveries, against the log in memory: any order, any repetition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from runyard.event.v1.envelope_pb2 import Lane
from runyard.metric.v1.batches_pb2 import AttemptRef, LogChunkRecorded, LogStream, MetricPointsRecorded
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.subjects import committed_subject, telemetry_subject
from runyard_core.clock import ManualClock
from runyard_eventlog.memory import MemoryEventLog
from runyard_metrics import ingest as ingest_module
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.ingest import Ingest
from runyard_metrics.marks import mark_in_log
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import LOG_CHUNK, LOG_PROGRESS, METRIC_SERIES
from runyard_testkit.projecting import fold

from .sent_events import envelope_of

RUN = AttemptRef(run_id="r1", attempt=1)
SPOOLS = (SpoolKey("node-1", "a"), SpoolKey("node-1", "b"), SpoolKey("node-2", "c"))


@dataclass
class Wire(Client):
    """Stands where the connection is: keeps what is published on it."""

    published: list[tuple[str, bytes]] = field(default_factory=list)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.published.append((subject, payload))

    def answers(self) -> dict[str, bytes]:
        return {subject: payload for subject, payload in self.published if subject.startswith("ack.")}

    def marks(self, node_id: str) -> list[dict[str, object]]:
        return [json.loads(data) for subject, data in self.published if subject == committed_subject(node_id)]


def message(wire: Wire, spool: SpoolKey, sequence: int, delivery: int = 0, node_id: str = "") -> Msg:
    """The delivery of a batch: odd ones are lines, even ones are points."""
    batch: LogChunkRecorded | MetricPointsRecorded
    if sequence % 2:
        batch = LogChunkRecorded(
            attempt=RUN,
            # Spools of one run interleave their lines; b repeats two lines of a.
            first_line_number=1 + sequence * 10 + 5 * SPOOLS.index(spool),
            lines=[f"{sequence}.{line}" for line in range(7)],
            streams=[LogStream.LOG_STREAM_STDOUT] * 7,
            times_unix_milliseconds=range(7),
        )
    else:
        batch = MetricPointsRecorded(
            attempt=RUN,
            names=["loss"],
            name_indices=[0],
            times_unix_milliseconds=[sequence],
            line_numbers=[sequence],
            values=[float(sequence)],
        )
    envelope = envelope_of(batch, sequence, spool)
    subject = telemetry_subject(node_id or spool.node_id, "log")
    reply = f"ack.{spool.spool_id}.{sequence}.{delivery}"
    return Msg(_client=wire, subject=subject, reply=reply, data=envelope.SerializeToString())


deliveries = st.lists(st.tuples(st.sampled_from(SPOOLS), st.integers(1, 8)), max_size=40)


@settings(max_examples=20)
@given(deliveries, st.permutations([(spool, sequence) for spool in SPOOLS for sequence in range(1, 9)]))
def test_any_order_and_repetition_of_delivery_gives_the_same_log_and_rows(
    early: list[tuple[SpoolKey, int]], order: list[tuple[SpoolKey, int]]
) -> None:
    async def scenario() -> None:
        wire, event_log = Wire(), MemoryEventLog()
        ingest = Ingest(event_log, wire)
        delivered = [*early, *order]
        for start in range(0, len(delivered), 5):
            group = enumerate(delivered[start : start + 5], start=start)
            await ingest.handle(
                [message(wire, spool, sequence, number) for number, (spool, sequence) in group]
            )
        for spool in SPOOLS:
            stored = await event_log.read_stream(spool.stream)
            assert [event.envelope.stream_version for event in stored] == list(range(1, 9))
            # The last delivery of each batch is acknowledged, so that none comes for ever.
            for sequence in range(1, 9):
                last = max(i for i, each in enumerate(delivered) if each == (spool, sequence))
                assert wire.answers()[f"ack.{spool.spool_id}.{sequence}.{last}"] == b""
        assert {mark["spool_id"]: mark["sequence"] for mark in wire.marks("node-1")} == {"a": 8, "b": 8}
        page = await event_log.read(Lane.LANE_TELEMETRY)
        assert len(page.events) == 24
        await _check_rows(page.events)

    asyncio.run(scenario())


async def _check_rows(events: Sequence[RecordedEvent]) -> None:
    folded = fold(TelemetryProjection(), events)
    lines: dict[int, str] = {}
    for row in folded.rows(LOG_CHUNK):
        chunk = LogChunkRecorded.FromString(row.payload)
        for number, line in enumerate(chunk.lines, start=chunk.first_line_number):
            assert number not in lines
            lines[number] = line
    expected = {
        1 + sequence * 10 + 5 * index + line
        for index in range(len(SPOOLS))
        for sequence in (1, 3, 5, 7)
        for line in range(7)
    }
    assert set(lines) == expected
    progress = folded.get(LOG_PROGRESS, "r1", 1)
    loss = folded.get(METRIC_SERIES, "r1", 1, "loss")
    assert progress is not None
    assert loss is not None
    assert progress.line_count == len(expected)
    # All three tell of the points of the same four lines.
    assert (loss.point_count, loss.low, loss.high, loss.last_value) == (4, 2.0, 8.0, 8.0)


async def test_nothing_is_acknowledged_before_its_predecessor_is_in_the_log() -> None:
    wire = Wire()
    ingest = Ingest(MemoryEventLog(), wire)
    await ingest.handle([message(wire, SPOOLS[0], 2), message(wire, SPOOLS[0], 3)])
    assert not wire.answers()
    assert wire.marks("node-1") == [{"spool_id": "a", "sequence": 0}]
    await ingest.handle([message(wire, SPOOLS[0], 1)])
    assert len(wire.answers()) == 3
    assert wire.marks("node-1")[-1] == {"spool_id": "a", "sequence": 3}


async def test_a_batch_of_another_node_is_refused_and_never_delivered_again() -> None:
    wire, event_log = Wire(), MemoryEventLog()
    ingest = Ingest(event_log, wire)
    await ingest.handle([message(wire, SPOOLS[0], 1, node_id="node-2")])
    assert wire.answers() == {"ack.a.1.0": b"+TERM"}
    assert (await event_log.head()).telemetry_position == 0
    assert ingest.refused_count == 1


async def test_garbage_is_refused() -> None:
    wire = Wire()
    ingest = Ingest(MemoryEventLog(), wire)
    await ingest.handle(
        [Msg(_client=wire, subject="runyard.telemetry.n.log", reply="ack.x", data=b"\xff\xff")]
    )
    assert wire.answers() == {"ack.x": b"+TERM"}


async def test_a_batch_that_the_log_can_never_take_is_refused_and_the_others_of_its_spool_wait() -> None:
    wire, event_log = Wire(), MemoryEventLog()
    ingest = Ingest(event_log, wire)
    broken = envelope_of(LogChunkRecorded(), 2, SPOOLS[0])
    broken.correlation_id = ""
    subject = telemetry_subject("node-1", "log")
    hopeless = Msg(_client=wire, subject=subject, reply="ack.hopeless", data=broken.SerializeToString())
    await ingest.handle([message(wire, SPOOLS[0], 3), hopeless, message(wire, SPOOLS[0], 1)])
    assert wire.answers() == {"ack.a.1.0": b"", "ack.hopeless": b"+TERM"}
    assert (await event_log.head()).telemetry_position == 1


async def test_batches_of_a_stuck_spool_are_given_back_so_that_other_nodes_go_on() -> None:
    wire, clock = Wire(), ManualClock()
    ingest = Ingest(MemoryEventLog(), wire, clock=clock)
    await ingest.handle([message(wire, SPOOLS[0], 2)])
    clock.advance(timedelta(seconds=59))
    await ingest.handle([message(wire, SPOOLS[0], 3)])
    assert not wire.answers()
    clock.advance(timedelta(seconds=1))
    await ingest.handle([message(wire, SPOOLS[0], 4)])
    assert sorted(wire.answers()) == ["ack.a.2.0", "ack.a.3.0", "ack.a.4.0"]
    # The agent still has them: once the missing one comes, it sends them again.
    await ingest.handle([message(wire, SPOOLS[0], sequence, 1) for sequence in (1, 2, 3, 4)])
    assert wire.marks("node-1")[-1] == {"spool_id": "a", "sequence": 4}


async def test_batches_that_wait_are_bounded_by_bytes_over_all_spools_and_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, event_log = Wire(), MemoryEventLog()
    ingest = Ingest(event_log, wire)
    # Room for two batches of each of the two spools that wait; the third does not wait.
    held = [message(wire, spool, sequence) for spool in SPOOLS[:2] for sequence in (2, 3)]
    monkeypatch.setattr(ingest_module, "WAITING_BYTES_MAX", sum(len(each.data) for each in held) + 4)
    await ingest.handle([*held, *(message(wire, SPOOLS[0], sequence) for sequence in (4, 5))])
    await ingest.handle([message(wire, SPOOLS[2], sequence) for sequence in range(1, 9)])
    await ingest.handle([message(wire, spool, 1) for spool in SPOOLS[:2]])
    in_log = [len(await event_log.read_stream(spool.stream)) for spool in SPOOLS]
    assert in_log == [3, 3, 8]
    assert "ack.a.4.0" not in wire.answers()
    await ingest.handle([message(wire, SPOOLS[0], sequence, 1) for sequence in (4, 5)])
    assert len(await event_log.read_stream(SPOOLS[0].stream)) == 5


async def test_two_instances_on_one_consumer_append_each_batch_once() -> None:
    wire, event_log = Wire(), MemoryEventLog()
    one, other = Ingest(event_log, wire), Ingest(event_log, wire)
    await one.handle([message(wire, SPOOLS[0], 1), message(wire, SPOOLS[0], 4)])
    await other.handle([message(wire, SPOOLS[0], 2), message(wire, SPOOLS[0], 3)])
    await one.handle([message(wire, SPOOLS[0], 2, 1), message(wire, SPOOLS[0], 5)])
    stored = await event_log.read_stream(SPOOLS[0].stream)
    assert [event.envelope.stream_version for event in stored] == [1, 2, 3, 4, 5]
    assert len(wire.answers()) == 6


@given(st.integers(0, 70), st.integers(0, 70))
def test_the_mark_is_found_in_the_log_alone(in_log: int, known: int) -> None:
    async def scenario() -> int:
        event_log = MemoryEventLog()
        wire = Wire()
        if in_log:
            batches = [message(wire, SPOOLS[0], sequence) for sequence in range(1, in_log + 1)]
            await Ingest(event_log, wire).handle(batches)
        return await mark_in_log(event_log, SPOOLS[0], min(known, in_log))

    assert asyncio.run(scenario()) == in_log
