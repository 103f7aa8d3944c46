from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runyard_metrics.domain.coverage import Coverage, LineRange, coverage_of

RANGES = st.builds(
    lambda first, count: LineRange(first, first + count), st.integers(1, 60), st.integers(0, 15)
)


def _lines(ranges: tuple[LineRange, ...]) -> set[int]:
    return {line for each in ranges for line in range(each.first, each.last + 1)}


@given(st.lists(RANGES, max_size=12), RANGES)
def test_missing_lines_are_exactly_those_not_had(added: list[LineRange], wanted: LineRange) -> None:
    coverage = Coverage()
    had: set[int] = set()
    for each in added:
        coverage = coverage.with_range(each)
        had |= _lines((each,))
    assert _lines(coverage.ranges) == had
    assert coverage.line_count == len(had)
    missing = coverage.missing_of(wanted)
    assert _lines(missing) == _lines((wanted,)) - had
    assert sum(each.line_count for each in missing) == len(_lines(missing))
    assert coverage.last == max(had, default=0)


@given(st.lists(RANGES, max_size=12))
def test_ranges_are_in_order_and_never_touch(added: list[LineRange]) -> None:
    coverage = Coverage()
    for each in added:
        coverage = coverage.with_range(each)
    for left, right in zip(coverage.ranges, coverage.ranges[1:], strict=False):
        assert left.last + 1 < right.first


@given(st.lists(RANGES, min_size=1, max_size=12), st.integers(1, 40))
def test_the_first_of_the_last_n_lines_skips_holes(added: list[LineRange], line_count: int) -> None:
    coverage = Coverage()
    for each in added:
        coverage = coverage.with_range(each)
    had = sorted(_lines(coverage.ranges))
    wanted = had[-line_count] if line_count <= len(had) else 1
    assert coverage.first_of_last(line_count) == wanted


def test_a_coverage_survives_its_columns() -> None:
    coverage = coverage_of((1, 10), (4, 12))
    assert coverage.ranges == (LineRange(1, 4), LineRange(10, 12))
