"""A full spool gives up its oldest samples first and says so; lines and points are never given up."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf.message import Message

from runyard.event.v1.envelope_pb2 import Envelope
from runyard.metric.v1.batches_pb2 import (
    AttemptRef,
    GpuSamplesRecorded,
    HostSamplesRecorded,
    LogStream,
    SamplesMissing,
)
from runyard_agent.domain.batching import LogLine
from runyard_agent.spool import Spool
from runyard_agent.spool_file import SpoolRecord
from runyard_agent.telemetry import AttemptTelemetry, Telemetry
from runyard_agent.telemetry_envelope import Cause
from runyard_contracts.envelope import unwrap
from runyard_core.clock import ManualClock

pytestmark = pytest.mark.system

STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def open_spool(directory: Path, bytes_max: int = 1 << 30, segment_bytes: int = 4_000) -> Spool:
    return Spool(
        directory,
        lambda *_: ("missing", b""),
        bytes_max=bytes_max,
        segment_bytes=segment_bytes,
        node_id="node-1",
    )


class Node:
    """A node with one attempt that prints and is sampled."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        telemetry = Telemetry(spool, "node-1", ManualClock())
        self.node = telemetry
        self.attempt = AttemptTelemetry(telemetry, "run", 1, Cause("correlation", "00-trace"))
        self.line_count = 0

    def second(self, at: int) -> None:
        """One second: two lines, a sample of the host, one of a GPU."""
        for _ in range(2):
            self.line_count += 1
            self.attempt.write_lines([LogLine(f"line {self.line_count}", LogStream.LOG_STREAM_STDOUT, at)])
        host = HostSamplesRecorded(node_id="node-1", attempt=AttemptRef(run_id="run", attempt=1))
        gpu = GpuSamplesRecorded(node_id="node-1", gpu_uuids=["GPU-0"])
        for batch in (host, gpu):
            batch.times_unix_milliseconds.append(at)
        self.attempt.write_samples(host)
        self.node.record([gpu])


def read_all(spool: Spool) -> list[SpoolRecord]:
    found: list[SpoolRecord] = []
    while records := spool.read(found[-1].sequence if found else 0):
        found += records
    return found


def batches(records: list[SpoolRecord]) -> list[Message]:
    return [unwrap(Envelope.FromString(record.body)) for record in records]


async def test_oldest_samples_give_way_and_the_gap_is_told(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, bytes_max=200_000)
    node = Node(spool)
    seconds = 150
    for second in range(1, seconds + 1):
        node.second(1000 * second)
    await spool.sync()

    records = read_all(spool)

    assert [record.sequence for record in records] == list(range(1, spool.next_sequence))
    found = batches(records)
    missing = [batch for batch in found if isinstance(batch, SamplesMissing)]
    kept = [batch for batch in found if isinstance(batch, HostSamplesRecorded | GpuSamplesRecorded)]
    assert len(missing) + len(kept) == 2 * seconds
    assert len(missing) > 20
    # The oldest, and all that was never sampled is between them and the newest.
    assert max(batch.to_unix_milliseconds for batch in missing) <= min(
        batch.times_unix_milliseconds[0] for batch in kept
    )
    first = missing[0]
    assert (first.from_unix_milliseconds, first.sample_count, first.node_id) == (1000, 1, "node-1")
    assert "full" in first.reason
    assert missing[0].attempt.run_id == "run"
    lines = [line for batch in found for line in getattr(batch, "lines", ())]
    assert lines == [f"line {number}" for number in range(1, 2 * seconds + 1)]


async def test_room_for_more_seconds_is_made_than_without_thinning(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, bytes_max=200_000)
    node = Node(spool)
    seconds = 0
    while spool.has_room:
        seconds += 1
        node.second(1000 * seconds)

    bytes_each = 200_000 / seconds
    assert bytes_each < 0.75 * (await bytes_of_a_second(tmp_path / "other"))


async def bytes_of_a_second(directory: Path) -> float:
    spool = open_spool(directory)
    node = Node(spool)
    for second in range(100):
        node.second(1000 * second)
    return spool._segments.all_bytes / 100


async def test_what_was_given_out_keeps_its_bytes(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    node = Node(spool)
    for second in range(100):
        node.second(1000 * second)
    await spool.sync()
    before = read_all(spool)

    spool._make_room(1 << 30)

    assert read_all(spool) == before
    assert read_all(open_spool(tmp_path)) == before


async def test_marks_and_sequences_survive_thinning_and_a_kill(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    node = Node(spool)
    for second in range(100):
        node.second(1000 * second)
    await spool.sync()
    marks, following = dict(spool.marks), spool.next_sequence

    assert spool._make_room(1 << 30)
    again = open_spool(tmp_path)

    assert (dict(again.marks), again.next_sequence) == (marks, following)
    assert read_all(again) == read_all(spool)
    assert [record.sequence for record in read_all(again)] == list(range(1, following))
    assert not spool._make_room(1 << 30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(node: Node) -> int:
    """Let seconds pass until the disk is full; gives the time of the last."""
    at = 0
    while True:
        at += 1000
        try:
            node.second(at)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return at


async def test_full_disk_costs_samples_before_it_costs_anything_else(small_disk: Path) -> None:
    spool = open_spool(small_disk / "spool", segment_bytes=32_768)
    node = Node(spool)
    (small_disk / "somebody").write_bytes(b"x" * 500_000)
    at = fill(node)
    await spool.sync()

    records = read_all(spool)

    assert [record.sequence for record in records] == list(range(1, spool.next_sequence))
    found = batches(records)
    lines = [line for batch in found for line in getattr(batch, "lines", ())]
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    assert len(lines) >= 2 * (at // 1000) - 2
    assert len([batch for batch in found if isinstance(batch, SamplesMissing)]) > 50


async def test_full_disk_is_left_again_when_the_log_takes_what_is_there(small_disk: Path) -> None:
    spool = open_spool(small_disk / "spool", segment_bytes=32_768)
    node = Node(spool)
    fill(node)
    await spool.sync()
    spool._reserve._path.unlink(missing_ok=True)
    (small_disk / "last").write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * 4096))
    (small_disk / "last").unlink()
    last = read_all(spool)[-1].sequence

    async with asyncio.timeout(20):
        spool.commit(last)
        node.second(1)
        await spool.sync()

    assert read_all(spool)[-1].sequence > last - 1
    assert spool.has_room
