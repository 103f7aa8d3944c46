"""Every byte that a program wrote becomes part of exactly one line, whenever the agent dies."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.metric.v1.batches_pb2 import LogChunkRecorded, LogStream, MetricPointsRecorded
from runyard_agent import file_watch, log_reader
from runyard_agent.domain.redaction import Redaction
from runyard_agent.log_reader import LogReader
from runyard_agent.spool import Spool
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_agent.telemetry_envelope import Cause
from runyard_contracts.envelope import unwrap
from runyard_contracts.ids import deterministic_id
from runyard_core.clock import ManualClock
from runyard_core.retry import Backoff

STDOUT, STDERR = LogStream.LOG_STREAM_STDOUT, LogStream.LOG_STREAM_STDERR


class Life:
    """One life of the agent over the files of an attempt."""

    def __init__(self, directory: Path, bytes_max: int = 1 << 30) -> None:
        self.spool = Spool(directory / "spool", lambda *_: ("missing", b""), bytes_max=bytes_max)
        self.telemetry = AttemptTelemetry(
            Telemetry(self.spool, "node-1", ManualClock()), "run", 1, Cause("correlation", "00-trace")
        )
        self.reader = LogReader(directory / "stdout", directory / "stderr", self.telemetry)

    async def read_to_the_end(self) -> None:
        ended = asyncio.Event()
        ended.set()
        await self.reader.follow(ended)

    async def envelopes(self) -> list[Envelope]:
        await self.spool.sync()
        found: list[Envelope] = []
        while records := self.spool.read(found[-1].stream_version if found else 0):
            found += [Envelope.FromString(record.body) for record in records]
        return found

    async def lines(self) -> list[tuple[int, LogStream.ValueType, str]]:
        return [
            (chunk.first_line_number + index, chunk.streams[index], line)
            for envelope in await self.envelopes()
            if isinstance(chunk := unwrap(envelope), LogChunkRecorded)
            for index, line in enumerate(chunk.lines)
        ]


async def test_lines_of_both_streams_are_numbered_together(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"one\ntwo")
    (tmp_path / "stderr").write_bytes(b"three\n")
    life = Life(tmp_path)
    life.telemetry.write_status("preparing")

    await life.read_to_the_end()

    assert await life.lines() == [
        (1, LogStream.LOG_STREAM_STATUS, "preparing"),
        (2, STDOUT, "one"),
        (3, STDERR, "three"),
        (4, STDOUT, "two"),
    ]
    mark = life.telemetry.telemetry_mark()
    assert (mark.log_line_count, mark.last_sequence) == (4, life.spool.next_sequence - 1)


async def test_a_line_with_a_secret_keeps_its_points(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b'{"loss": 0.5, "pin": 12345678}\n')
    life = Life(tmp_path)
    life.telemetry.redaction = Redaction(["12345678"])

    await life.read_to_the_end()

    assert await life.lines() == [(1, STDOUT, '{"loss": 0.5, "pin": ***}')]
    found = [unwrap(envelope) for envelope in await life.envelopes()]
    [points] = [each for each in found if isinstance(each, MetricPointsRecorded)]
    assert (list(points.names), list(points.values)) == (["loss"], [0.5])
    assert dict(points.json_values) == {"pin": '"***"'}


async def test_what_a_program_writes_after_it_emptied_its_output_is_read(tmp_path: Path) -> None:
    """As "> /dev/stderr" and "tee /dev/stderr" do, where that is a file."""
    stderr = tmp_path / "stderr"
    stderr.write_bytes(b"one\ntwo\nthr")
    life = Life(tmp_path)
    await life.reader._read_once()

    for content in (b"short\n", b"as long\n", b"as wide\n", b"longer than all that was there before\nx\n"):
        stderr.write_bytes(content)
        await life.reader._read_once()
    stderr.write_bytes(b"last\n")
    # The next life of the agent knows how far it was read, not what was there.
    life.spool.close()
    again = Life(tmp_path)
    await again.read_to_the_end()

    lines = await again.lines()
    assert [line for _, stream, line in lines if stream == STDERR] == [
        *("one", "two", "thr", "short", "as long", "as wide"),
        *("longer than all that was there before", "x", "last"),
    ]
    told = [line for _, stream, line in lines if stream == LogStream.LOG_STREAM_STATUS]
    assert len(told) == 2
    assert "has emptied its own stderr" in told[0]
    assert ">&2" in told[0]


async def test_what_is_written_over_what_was_read_is_not_read_again(tmp_path: Path) -> None:
    stdout = tmp_path / "stdout"
    stdout.write_bytes(b"x" * 100 + b"\ntwo\nthree\n")
    life = Life(tmp_path)
    await life.reader._read_once()
    with stdout.open("r+b") as file:
        file.seek(105)
        file.write(b"THREE\nfour\n")
    await life.read_to_the_end()

    assert [line for _, _, line in await life.lines()] == ["x" * 100, "two", "three", "four"]


async def test_metric_lines_are_points_with_their_line_number(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b'start\n{"loss": 0.5, "acc": 1}\n')
    (tmp_path / "stderr").write_bytes(b'{"not": 1}\n')
    life = Life(tmp_path)

    await life.read_to_the_end()

    batches = [unwrap(envelope) for envelope in await life.envelopes()]
    (points,) = [batch for batch in batches if isinstance(batch, MetricPointsRecorded)]
    assert (list(points.names), list(points.values)) == (["loss", "acc"], [0.5, 1.0])
    assert list(points.line_numbers) == [2, 2]
    assert life.telemetry.telemetry_mark().metric_point_count == 2


async def test_envelopes_name_node_spool_and_sequence(tmp_path: Path) -> None:
    (tmp_path / "stdout").write_bytes(b"line\n")
    life = Life(tmp_path)

    await life.read_to_the_end()

    (envelope,) = await life.envelopes()
    assert envelope.event_id == deterministic_id("node-1", life.spool.spool_id, 1)
    assert envelope.stream == f"telemetry-node-1.{life.spool.spool_id}"
    assert (envelope.stream_version, envelope.source) == (1, "/agents/node-1")
    assert (envelope.correlation_id, envelope.traceparent) == ("correlation", "00-trace")


@pytest.mark.parametrize("seed", range(8))
async def test_killed_at_any_moment_no_line_is_lost_or_doubled(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(log_reader, "_READ_BYTES", chance.choice([7, 64, 4096]))
    monkeypatch.setattr(log_reader, "_REST_SECONDS", 0.0)
    expected = [f"line {number} {'x' * chance.randrange(60)}" for number in range(300)]
    data = "\n".join(expected).encode()
    written = 0
    while written < len(data):
        step = chance.randrange(1, 4000)
        with (tmp_path / "stdout").open("ab") as file:
            file.write(data[written : written + step])
        written += step
        life = Life(tmp_path)
        for _ in range(chance.randrange(30)):
            await life.reader._read_once()
        if chance.random() < 0.5:
            await life.spool.sync()
        # Killed here: what is in its memory is gone, what it wrote to its file is there.
        life.spool._segments.close()
        for source in life.reader._sources:
            source.close()

    last = Life(tmp_path)
    await last.read_to_the_end()

    lines = await last.lines()
    assert [text for _, _, text in lines] == expected
    assert [number for number, _, _ in lines] == list(range(1, 301))


async def test_full_spool_makes_lines_wait_in_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_NO_ROOM_SECONDS", 0.01)
    (tmp_path / "stdout").write_bytes(b"waits\n")
    life = Life(tmp_path, bytes_max=400)
    life.telemetry.write_status("x" * 300)
    await life.spool.sync()
    reading = asyncio.ensure_future(life.read_to_the_end())
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not reading.done()

    monkeypatch.setattr(life.spool, "_bytes_max", 10_000)
    await reading

    assert (await life.lines())[-1][2] == "waits"


async def test_full_disk_makes_lines_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_BACKOFF", Backoff(0.01, 0.01))
    (tmp_path / "stdout").write_bytes(b"waits\n")
    life = Life(tmp_path)
    append = life.spool.append
    failures = iter([OSError(28, "No space left on device")] * 3)

    def failing(*arguments: object) -> int:
        for failure in failures:
            raise failure
        return append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(life.spool, "append", failing)
    await life.read_to_the_end()

    assert [text for _, _, text in await life.lines()] == ["waits"]


async def test_forgotten_attempt_leaves_no_mark(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.telemetry.write_status("line")

    life.telemetry.forget()

    assert dict(Life(tmp_path).spool.marks) == {}


async def test_a_line_wakes_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_SECONDS", 3600.0)
    life, ended = Life(tmp_path), asyncio.Event()
    seen: asyncio.Queue[int] = asyncio.Queue()
    life.reader.on_lines = lambda lines: seen.put_nowait(len(lines))
    async with asyncio.timeout(40):
        following = asyncio.ensure_future(life.reader.follow(ended))
        with (tmp_path / "stdout").open("ab", buffering=0) as file:
            for _ in range(3):
                file.write(b"line\n")
                while await seen.get() == 0:
                    pass
        ended.set()
        await following


async def test_without_a_watch_the_reader_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "LOOK_SECONDS_DEAF", 0.001)
    monkeypatch.setattr(file_watch, "_watch_of", lambda _: -1)
    life, ended = Life(tmp_path), asyncio.Event()
    seen: asyncio.Queue[int] = asyncio.Queue()
    life.reader.on_lines = lambda lines: seen.put_nowait(len(lines))
    async with asyncio.timeout(40):
        following = asyncio.ensure_future(life.reader.follow(ended))
        (tmp_path / "stdout").write_bytes(b"line\n")
        while await seen.get() == 0:
            pass
        ended.set()
        await following
