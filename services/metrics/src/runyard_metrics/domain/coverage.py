"""Which line numbers of a log are had: merged ranges, so that a line that comes twice counts once.

An agent that died between reading and spooling reads lines again, and two spools of one node may be
committed in either order. The number of a line is its identity, so neither loses or doubles one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineRange:
    """Consecutive line numbers, both ends included."""

    first: int
    last: int

    @property
    def line_count(self) -> int:
        """Lines in the range."""
        return self.last - self.first + 1

    def __contains__(self, line: int) -> bool:
        """Say whether a line is in the range."""
        return self.first <= line <= self.last


@dataclass(frozen=True, slots=True)
class Coverage:
    """Disjoint ranges in rising order, never touching one another."""

    ranges: tuple[LineRange, ...] = ()

    @property
    def line_count(self) -> int:
        """Distinct lines had."""
        return sum(each.line_count for each in self.ranges)

    @property
    def last(self) -> int:
        """Highest line number had; 0 when there is none."""
        return self.ranges[-1].last if self.ranges else 0

    def missing_of(self, wanted: LineRange) -> tuple[LineRange, ...]:
        """Give the parts of a range that are not had yet, in rising order."""
        missing: list[LineRange] = []
        next_line = wanted.first
        for had in self.ranges[self._first_reaching(wanted.first) :]:
            if had.first > wanted.last:
                break
            if had.first > next_line:
                missing.append(LineRange(next_line, had.first - 1))
            next_line = max(next_line, had.last + 1)
        if next_line <= wanted.last:
            missing.append(LineRange(next_line, wanted.last))
        return tuple(missing)

    def with_range(self, added: LineRange) -> Coverage:
        """Give the coverage with a range added, merged with every range that it meets or touches."""
        start = self._first_reaching(added.first - 1)
        end = start
        first, last = added.first, added.last
        while end < len(self.ranges) and self.ranges[end].first <= last + 1:
            first, last = min(first, self.ranges[end].first), max(last, self.ranges[end].last)
            end += 1
        return Coverage((*self.ranges[:start], LineRange(first, last), *self.ranges[end:]))

    def first_of_last(self, line_count: int) -> int:
        """Give the number of the first of the last ``line_count`` lines; 1 when there are fewer."""
        wanted = line_count
        for had in reversed(self.ranges):
            if wanted <= had.line_count:
                return had.last - wanted + 1
            wanted -= had.line_count
        return 1

    def next_had(self, line: int) -> int | None:
        """Give the first line number had at or after one; None when there is none."""
        index = self._first_reaching(line)
        return max(line, self.ranges[index].first) if index < len(self.ranges) else None

    def _first_reaching(self, line: int) -> int:
        """Index of the first range that ends at or after a line."""
        return bisect_left(self.ranges, line, key=lambda each: each.last)


def coverage_of(firsts: Sequence[int], lasts: Sequence[int]) -> Coverage:
    """Read a coverage back from its two columns."""
    return Coverage(tuple(LineRange(first, last) for first, last in zip(firsts, lasts, strict=True)))
