from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_metrics.domain.thinning import thinned_indices

VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300)


@given(VALUES, st.integers(4, 50))
def test_a_thinned_series_keeps_limit_order_and_both_ends(values: list[float], points_max: int) -> None:
    chosen = thinned_indices(values, points_max)
    assert len(chosen) <= points_max
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < len(values) for index in chosen)
    if values:
        assert chosen[0] == 0
        assert chosen[-1] == len(values) - 1
    if len(values) <= points_max:
        assert len(chosen) == len(values)


@given(VALUES, st.integers(4, 50))
def test_a_thinned_series_keeps_the_lowest_and_highest_value(values: list[float], points_max: int) -> None:
    numbers = [value for value in values if not math.isnan(value)]
    kept = [values[index] for index in thinned_indices(values, points_max)]
    if numbers and len(numbers) == len(values):
        assert min(kept) == min(numbers)
        assert max(kept) == max(numbers)
    assert any(map(math.isnan, kept)) == any(map(math.isnan, values))


def test_one_spike_among_a_hundred_thousand_points_survives() -> None:
    values = [0.0] * 100_000
    values[65_432] = 9.0
    assert 65_432 in thinned_indices(values, 2_000)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="4 or more"):
        thinned_indices([1.0] * 10, 3)
