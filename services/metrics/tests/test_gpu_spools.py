"""What several spools of one node say of its GPUs, in whichever order the log took them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runyard.metric.v1.batches_pb2 import GpuSamplesRecorded
from runyard.metric.v1.metric_service_pb2 import Statistic
from runyard_contracts.recorded import RecordedEvent
from runyard_metrics.domain.spools import SpoolKey
from runyard_metrics.gpu_answers import gpu_statistics, reading_messages
from runyard_metrics.projections.telemetry import TelemetryProjection
from runyard_metrics.tables import GPU_READING, GPU_USAGE, GpuUsageRow
from runyard_testkit.projecting import fold

from .sent_events import AT, committed, gpu_samples

OLD, NEW = SpoolKey("node-1", "s2"), SpoolKey("node-1", "s1")
"""The agent was installed anew: the names of spools say nothing of their order."""
NOW = round(AT.timestamp() * 1000)


def _energy(first_seconds: int, *millijoules: int) -> GpuSamplesRecorded:
    """Make a batch of one GPU that a run holds: readings of its counter, a second apart."""
    batch = gpu_samples("r1", rows=len(millijoules))
    batch.times_unix_milliseconds[:] = [1000 * (first_seconds + row) for row in range(len(millijoules))]
    batch.energy_millijoules[:] = millijoules
    return batch


def _statistics(events: Sequence[RecordedEvent]) -> dict[str, Statistic]:
    newest: dict[tuple[object, ...], GpuUsageRow] = {}
    for row in fold(TelemetryProjection(), events).rows(GPU_USAGE):
        newest[GPU_USAGE.key_of(row)] = row
    found = list(gpu_statistics(newest[key] for key in sorted(newest, key=repr)))
    statistics = {each.name: each for each in found}
    assert len(found) == len(statistics), "a GPU has two figures of one name"
    return statistics


def test_energy_is_counted_once_when_an_older_spool_is_committed_after_a_newer_one() -> None:
    old = (OLD, _energy(100, 5_000_000, 5_000_100))
    new = [(NEW, _energy(200, 5_000_300, 5_000_400)), (NEW, _energy(202, 5_000_500, 5_000_600))]
    for batches in ([old, *new], [*new, old], [new[0], old, new[1]]):
        energy = _statistics(committed(batches))["gpu_energy_millijoules_total"]
        assert (energy.max, energy.sample_count) == (600, 6)


@st.composite
def _interleavings(draw: st.DrawFn) -> tuple[list[tuple[SpoolKey, GpuSamplesRecorded]], random.Random]:
    """Batches of several spools as the node made them, counters that at times begin anew, and an order."""
    grown = draw(st.lists(st.integers(0, 50), min_size=1, max_size=12))
    spool_starts = draw(st.sets(st.integers(1, 12)))
    resets = draw(st.sets(st.integers(1, 12)))
    batches, spool, reading = [], SpoolKey("node-1", "0"), 1_000_000
    for place, growth in enumerate(grown):
        if place in spool_starts:
            spool = SpoolKey("node-1", str(97 - place))
        reading = growth if place in resets else reading + growth
        # A reading of 0 says that the card has no such counter.
        batches.append((spool, _energy(2 * place, reading + 1, reading + 1 + growth)))
        reading += growth
    return batches, draw(st.randoms(use_true_random=False))


@given(_interleavings())
def test_figures_are_the_same_in_whichever_order_spools_are_committed(
    drawn: tuple[list[tuple[SpoolKey, GpuSamplesRecorded]], random.Random],
) -> None:
    made, order = drawn
    shuffled = order.sample([spool for spool, _ in made], k=len(made))
    following = {spool: iter([batch for each, batch in made if each == spool]) for spool, _ in made}
    committed_so = [(spool, next(following[spool])) for spool in shuffled]
    as_made, as_committed = _statistics(committed(made)), _statistics(committed(committed_so))
    assert as_committed == as_made
    # Never more than the counter showed between two looks, whatever is missing.
    readings = [reading for _, batch in made for reading in batch.energy_millijoules]
    most = sum(after - before if after >= before else after for before, after in pairwise(readings))
    assert as_made["gpu_energy_millijoules_total"].max <= most


@given(st.permutations([0, 1, 2]))
def test_a_clock_that_went_backwards_between_spools_counts_no_energy_twice(clock: list[int]) -> None:
    batches = [
        (SpoolKey("node-1", f"s{place}"), _energy(100 * time, 1_000 * place, 1_000 * place + 100))
        for place, time in enumerate(clock, start=1)
    ]
    energy = _statistics(committed(batches))["gpu_energy_millijoules_total"]
    # What grew between two spools may be missing, never what a spool saw.
    assert 300 <= energy.max <= 2_100


def _reading(seconds: int, temperature: int) -> GpuSamplesRecorded:
    batch = gpu_samples("r1", rows=1)
    batch.times_unix_milliseconds[0] = NOW + 1000 * seconds
    batch.temperature_celsius[0] = temperature
    return batch


def _newest(batches: Sequence[tuple[SpoolKey, GpuSamplesRecorded]]) -> tuple[int, int, int]:
    row = fold(TelemetryProjection(), committed(batches)).get(GPU_READING, "node-1")
    assert row is not None
    (reading,) = reading_messages(row)
    return (
        reading.temperature_celsius,
        reading.time.ToMilliseconds() - NOW,
        row.time_unix_milliseconds - NOW,
    )


def test_a_clock_that_was_far_ahead_does_not_freeze_the_newest_reading() -> None:
    ahead, right = (OLD, _reading(86_400, 40)), _reading(2, 50)
    # The reading says what the node said; as newest it counts from when the log took it.
    assert _newest([ahead]) == (40, 86_400_000, 1_000)
    assert _newest([ahead, (OLD, right)]) == (50, 2_000, 2_000)
    assert _newest([ahead, (NEW, right)]) == (50, 2_000, 2_000)


def test_the_newest_reading_of_a_spool_is_its_last_whatever_the_clock_says() -> None:
    assert _newest([(NEW, _reading(-10, 40)), (NEW, _reading(-3_610, 50))]) == (50, -3_610_000, -3_610_000)


def test_an_older_spool_that_is_committed_late_leaves_the_newest_reading() -> None:
    assert _newest([(NEW, _reading(1, 50)), (OLD, _reading(-60, 40))]) == (50, 1_000, 1_000)
