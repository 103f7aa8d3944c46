"""Columns of GPU samples say the same after the journey, and say little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.metric.v1.gpus_pb2 import GpuColumn, GpuQuantity
from runyard_contracts.gpu_columns import packed, packed_column, unpacked, unpacked_column

CLOCK = GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ
VALUES = st.integers(-(2**62), 2**62 - 1)


@given(width=st.integers(1, 3), rows=st.integers(1, 4), data=st.data())
def test_what_was_packed_is_what_is_unpacked(width: int, rows: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(VALUES, min_size=width * rows, max_size=width * rows))
    assert unpacked(packed(values, width), width, rows) == values


def test_a_column_in_which_nothing_changes_has_one_row() -> None:
    assert packed([3, 4, 3, 4, 3, 4], 2) == [3, 4]
    assert packed([3, 4, 3, 5], 2) == [3, 4, 0, 1]


def test_a_column_holds_only_gpus_that_offer_it() -> None:
    column = packed_column(CLOCK, [{0: 1980, 2: 345}, {0: 1975, 2: 345}], 3)
    assert list(column.gpu_indices) == [0, 2]
    assert unpacked_column(column, 3, 2) == {0: [1980, 1975], 2: [345, 345]}
    assert not packed_column(CLOCK, [{0: 1, 1: 2}], 2).gpu_indices


@pytest.mark.parametrize(
    "column", [GpuColumn(values=[1, 2, 3]), GpuColumn(values=[1], gpu_indices=[2]), GpuColumn()]
)
def test_a_column_that_does_not_fit_its_batch_is_refused(column: GpuColumn) -> None:
    with pytest.raises(ValueError, match="a column has"):
        unpacked_column(column, 2, 2)
