from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.event.v1.envelope_pb2 import Envelope, Lane
from runyard.metric.v1.batches_pb2 import LogChunkRecorded
from runyard_contracts.ids import deterministic_id
from runyard_contracts.subjects import telemetry_subject
from runyard_metrics.domain.spools import (
    RefusedBatchError,
    Spool,
    SpoolKey,
    moved,
    spool_of,
    take,
    within_bytes,
    without,
)

from .sent_events import envelope_of

SUBJECT = telemetry_subject("node-1", "log")


def _spool(committed: int) -> Spool[str]:
    return Spool(committed=committed)


def _envelope() -> Envelope:
    return envelope_of(LogChunkRecorded(), 1)


def test_a_batch_belongs_to_the_spool_of_its_stream() -> None:
    assert spool_of(_envelope(), SUBJECT) == SpoolKey("node-1", "s1")
    assert SpoolKey("node-1", "s1").stream == "telemetry-node-1.s1"


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({}, telemetry_subject("node-2", "log")),
        ({}, "runyard.telemetry.node-1"),
        ({"source": "/agents/node-2"}, SUBJECT),
        ({"stream": "run-1"}, SUBJECT),
        ({"stream": "telemetry-node-1"}, SUBJECT),
        ({"stream": "telemetry-.s1"}, SUBJECT),
        ({"stream_version": 2}, SUBJECT),
        ({"stream_version": 0, "event_id": deterministic_id("node-1", "s1", 0)}, SUBJECT),
        ({"event_id": "0190c4b0-0000-7000-8000-000000000000"}, SUBJECT),
        ({"lane": Lane.LANE_DOMAIN}, SUBJECT),
    ],
)
def test_a_batch_that_is_not_what_its_subject_proves_is_refused(
    change: dict[str, str | int], subject: str
) -> None:
    envelope = _envelope()
    for name, value in change.items():
        setattr(envelope, name, value)
    with pytest.raises(RefusedBatchError):
        spool_of(envelope, subject)


@given(st.permutations(range(1, 11)), st.lists(st.integers(1, 10), max_size=10), st.integers(1, 4))
def test_any_order_and_repetition_of_delivery_appends_each_batch_once_in_order(
    order: list[int], repeated: list[int], run_length_max: int
) -> None:
    spool: Spool[int] = Spool(committed=0)
    appended: list[int] = []
    for sequence in [*order, *repeated]:
        delivered = [(sequence, sequence)]
        while True:
            taken = take(spool, delivered, run_length_max=run_length_max, waiting_max=100)
            spool, delivered = taken.spool, []
            if not taken.run:
                break
            appended.extend(taken.run)
            spool, done = moved(spool, taken.run[-1])
            assert done == taken.run
    assert appended == list(range(1, 11))
    assert not spool.waiting


def test_a_batch_that_the_log_has_is_a_duplicate() -> None:
    taken = take(_spool(3), [(3, "c"), (4, "d")], run_length_max=9, waiting_max=9)
    assert taken.duplicates == ["c"]
    assert taken.run == ["d"]


def test_a_batch_after_a_hole_waits() -> None:
    taken = take(_spool(3), [(5, "e")], run_length_max=9, waiting_max=9)
    assert not taken.run
    assert not taken.duplicates
    assert taken.spool.waiting == {5: "e"}


def test_the_newer_of_two_deliveries_is_kept() -> None:
    spool = take(_spool(0), [(2, "old")], run_length_max=9, waiting_max=9).spool
    assert take(spool, [(2, "new")], run_length_max=9, waiting_max=9).spool.waiting == {2: "new"}


def test_waiting_batches_are_bounded_and_the_nearest_are_kept() -> None:
    delivered = [(sequence, "x") for sequence in range(9, 1, -1)]
    taken = take(_spool(0), delivered, run_length_max=9, waiting_max=3)
    assert sorted(taken.spool.waiting) == [2, 3, 4]


def test_waiting_batches_are_bounded_by_bytes_and_the_nearest_are_kept() -> None:
    spool = Spool(committed=1, waiting={9: "x", 3: "xx", 6: "xxx", 7: "x"})
    assert [sorted(within_bytes(spool, bytes_max, len).waiting) for bytes_max in (0, 1, 2, 5, 6, 7)] == [
        [], [], [3], [3, 6], [3, 6, 7], [3, 6, 7, 9]
    ]  # fmt: skip


def test_a_mark_moved_by_somebody_else_frees_what_waited() -> None:
    spool, done = moved(Spool(committed=0, waiting={2: "b", 4: "d"}), 3)
    assert done == ["b"]
    assert spool == Spool(committed=3, waiting={4: "d"})


def test_a_hopeless_batch_is_forgotten_and_the_rest_waits() -> None:
    assert without(Spool(committed=0, waiting={1: "a", 2: "b"}), 1).waiting == {2: "b"}
