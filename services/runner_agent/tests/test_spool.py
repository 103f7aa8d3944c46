"""The spool keeps every record that was on the disk, and nothing twice, wherever its writer was killed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runyard_agent import spool as spool_module
from runyard_agent.spool import Spool
from runyard_agent.spool_file import SpoolRecord, decode_frames, encode_frame
from runyard_contracts.ids import SpoolId
from runyard_core.errors import Corrupt

pytestmark = pytest.mark.system

Body = tuple[str, bytes]


def filler(spool_id: SpoolId, sequence: int) -> Body:
    return "missing", f"lost {sequence} of {spool_id}".encode()


def open_spool(directory: Path, segment_bytes: int = 300) -> Spool:
    return Spool(directory, filler, segment_bytes=segment_bytes)


def read_all(spool: Spool, after: int = 0) -> list[SpoolRecord]:
    found: list[SpoolRecord] = []
    while records := spool.read(found[-1].sequence if found else after):
        found += records
    return found


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.segment"))


async def test_record_is_given_out_only_when_it_is_on_the_disk(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([("log", b"one")])

    assert spool.read(0) == []
    await spool.sync()
    assert spool.read(0) == [SpoolRecord(1, "log", b"one")]


async def test_reading_goes_on_after_any_sequence_and_across_segments(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(1, 51):
        spool.append([("log", b"x" * number), ("metric", b"y" * number)])
    await spool.sync()

    assert len(segments(tmp_path)) > 5
    for after in range(101):
        assert [record.sequence for record in read_all(spool, after)] == list(range(after + 1, 101))


async def test_record_larger_than_one_read_is_given_whole(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    body = os.urandom(3_000_000)
    spool.append([("log", body)])
    spool.append([("log", b"after")])
    await spool.sync()

    assert [record.body for record in read_all(spool)] == [body, b"after"]


async def test_committed_records_go_and_their_marks_stay(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(1, 31):
        spool.append([("log", b"x" * 50)], {"run-1": {"line": number}})
    await spool.sync()
    before = len(segments(tmp_path))

    spool.commit(29)
    spool.close()
    reopened = open_spool(tmp_path)

    assert len(segments(tmp_path)) < before
    assert reopened.committed_sequence == 29
    assert reopened.spool_id == spool.spool_id
    assert reopened.marks == {"run-1": {"line": 30}}
    assert [record.sequence for record in read_all(reopened)] == [30]
    assert reopened.append([("log", b"next")]) == 31


async def test_forgotten_mark_stays_forgotten(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append([("log", b"x")], {"run-1": {"line": 1}, "run-2": {"line": 2}})
    spool.append([], {"run-1": None})

    assert open_spool(tmp_path).marks == {"run-2": {"line": 2}}


async def test_full_spool_says_so_until_the_log_catches_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path, filler, bytes_max=500, segment_bytes=100)
    while spool.has_room:
        spool.append([("log", b"x" * 50)])
    await spool.sync()

    spool.commit(spool.next_sequence - 1)

    assert spool.has_room


async def test_damage_in_the_middle_is_filled_so_that_no_sequence_is_missing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(1, 31):
        spool.append([("log", b"x" * 50)], {"run-1": {"line": number}})
    await spool.sync()
    second = segments(tmp_path)[1]
    content = bytearray(second.read_bytes())
    content[20] ^= 0xFF
    second.write_bytes(content)

    records = read_all(open_spool(tmp_path))

    assert [record.sequence for record in records] == list(range(1, 31))
    lost = [record.sequence for record in records if record.kind == "missing"]
    assert lost
    assert lost[0] == int(second.stem)
    again = read_all(open_spool(tmp_path))
    assert again == records


async def test_spool_behind_the_log_begins_anew(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    spool.append([("log", b"x")], {"run-1": {"line": 1}})
    await spool.sync()

    with pytest.raises(Corrupt, match="old copy"):
        spool.commit(2)
    anew = open_spool(tmp_path / "spool")

    assert anew.spool_id != spool.spool_id
    assert (anew.next_sequence, anew.marks) == (1, {})


async def test_what_a_restored_log_lost_is_given_out_again(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, segment_bytes=10_000)
    for number in range(1, 31):
        spool.append([("log", b"x" * number)])
    await spool.sync()
    spool.commit(29)

    spool.go_back(12)
    spool.append([("log", b"new")])
    await spool.sync()

    assert [record.sequence for record in read_all(spool)] == list(range(13, 32))
    spool.close()
    assert open_spool(tmp_path, segment_bytes=10_000).committed_sequence == 12


async def test_spool_that_has_not_what_a_restored_log_lost_begins_anew(tmp_path: Path) -> None:
    spool = open_spool(tmp_path / "spool")
    for _ in range(30):
        spool.append([("log", b"x" * 50)])
    await spool.sync()
    spool.commit(29)

    with pytest.raises(Corrupt, match="was restored"):
        spool.go_back(2)
    anew = open_spool(tmp_path / "spool")

    assert anew.spool_id != spool.spool_id
    assert anew.next_sequence == 1


async def test_append_that_finds_no_space_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    spool.append([("log", b"before")])
    write = os.write

    def full_disk(descriptor: int, content: memoryview) -> int:
        if len(content) > 10:
            return write(descriptor, content[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        with pytest.raises(OSError, match="No space"):
            spool.append([("log", b"lost")])
    spool.append([("log", b"after")])
    await spool.sync()

    assert [record.body for record in read_all(spool)] == [b"before", b"after"]
    assert [record.body for record in read_all(open_spool(tmp_path))] == [b"before", b"after"]


INTEGERS = st.integers()


@given(
    frames=st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(["log", "gpu"]), st.binary(max_size=40)), max_size=3),
            st.dictionaries(
                st.text(max_size=5), st.none() | st.dictionaries(st.text(max_size=3), st.integers())
            ),
        ),
        max_size=4,
    ),
    cut=st.integers(min_value=0),
)
def test_torn_bytes_give_exactly_the_whole_frames_before_them(
    frames: list[tuple[list[Body], dict[str, dict[str, int] | None]]], cut: int
) -> None:
    encoded = []
    sequence = 1
    for records, marks in frames:
        encoded.append(encode_frame(sequence, records, marks))
        sequence += len(records)
    content = b"".join(encoded)
    cut %= len(content) + 1
    whole = 0
    while whole < len(encoded) and sum(map(len, encoded[: whole + 1])) <= cut:
        whole += 1

    found = list(decode_frames(content[:cut]))

    assert [[(record.kind, record.body) for record in frame.records] for frame in found] == [
        records for records, _ in frames[:whole]
    ]
    assert [dict(frame.marks) for frame in found] == [marks for _, marks in frames[:whole]]
    assert list(decode_frames(b"".join(encoded[:whole]) + b"\x00" * 64)) == found


class Life:
    """A spool that is killed and opened again, and what must be true of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spool = open_spool(directory)
        self.appended: list[bytes] = []
        self.durable = 0

    def append(self, count: int) -> None:
        bodies = [f"{len(self.appended) + index}:{os.urandom(8).hex()}".encode() for index in range(count)]
        self.appended += bodies
        self.spool.append([("log", body) for body in bodies], {"run": {"count": len(self.appended)}})

    async def sync(self) -> None:
        await self.spool.sync()
        self.durable = len(self.appended)

    def commit(self, part: int) -> None:
        # The log can only have what was sent, and only what is durable is ever sent.
        self.spool.commit(min(self.spool.committed_sequence + part, self.durable))

    def kill(self, cut: int, garbage: bytes) -> None:
        """Lose any number of bytes that were not synced, and leave any torn ones."""
        path = segments(self.directory)[-1]
        synced = 0
        for frame in decode_frames(path.read_bytes()):
            if frame.last_sequence <= max(self.durable, self._checkpointed()):
                synced += frame.bytes_count
        size = path.stat().st_size
        os.truncate(path, size - cut % (size - synced + 1))
        with path.open("ab") as file:
            file.write(garbage)
        self.spool = open_spool(self.directory)
        survived = self.spool.next_sequence - 1
        assert self.durable <= survived <= len(self.appended)
        del self.appended[survived:]
        self.durable = survived
        assert self.spool.marks.get("run", {"count": 0})["count"] == survived

    def _checkpointed(self) -> int:
        """Give what a checkpoint has put on the disk, too: one is written when some time has passed."""
        path = self.directory / "checkpoint.json"
        return int(json.loads(path.read_bytes())["through"]) if path.exists() else 0

    def check(self) -> None:
        committed = self.spool.committed_sequence
        found = read_all(self.spool, committed)
        assert [record.sequence for record in found] == list(range(committed + 1, self.durable + 1))
        assert [record.body for record in found] == self.appended[committed : self.durable]


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 4)),
    st.tuples(st.just("sync")),
    st.tuples(st.just("commit"), st.integers(0, 6)),
    st.tuples(st.just("kill"), st.integers(min_value=0), st.binary(max_size=12)),
)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 10.0])
@settings(max_examples=20, deadline=None)
@given(steps=st.lists(STEPS, max_size=25))
@example(steps=[("append", 3), ("sync",), ("append", 3), ("commit", 3), ("kill", 1, b"")])
async def test_nothing_durable_is_lost_or_changed_by_any_history_of_kills(
    steps: list[tuple[object, ...]], checkpoint_seconds: float
) -> None:
    with (
        mock.patch.object(spool_module, "_CHECKPOINT_SECONDS_MIN", checkpoint_seconds),
        tempfile.TemporaryDirectory() as folder,
    ):
        life = Life(Path(folder))
        for step in steps:
            match step:
                case ("append", int(count)):
                    life.append(count)
                case ("sync",):
                    await life.sync()
                case ("commit", int(part)):
                    life.commit(part)
                case ("kill", int(cut), bytes(garbage)):
                    life.kill(cut, garbage)
                case _:
                    raise AssertionError(step)
            life.check()
