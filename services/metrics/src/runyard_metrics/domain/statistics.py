"""Running minimum, sum and maximum of a quantity, so that a statistic never needs the samples again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """Figures of all samples so far. Without samples, all are 0."""

    count: int = 0
    low: float = 0.0
    total: float = 0.0
    high: float = 0.0

    @property
    def mean(self) -> float:
        """Arithmetic mean; 0 without samples."""
        return self.total / self.count if self.count else 0.0

    def with_samples(self, samples: Iterable[float]) -> Extent:
        """Give the figures with more samples counted in, in the order given."""
        count, low, total, high = self.count, self.low, self.total, self.high
        for sample in samples:
            low = sample if count == 0 or sample < low else low
            high = sample if count == 0 or sample > high else high
            total += sample
            count += 1
        return Extent(count, low, total, high)

    def merged(self, other: Extent) -> Extent:
        """Give the figures of both sets of samples together."""
        if not self.count or not other.count:
            return self if self.count else other
        return Extent(
            self.count + other.count,
            min(self.low, other.low),
            self.total + other.total,
            max(self.high, other.high),
        )

    def with_counts(self, counts: Iterable[float]) -> Extent:
        """Go on with readings of a counter: low is the first, high the last, total what it grew by.

        A counter that falls was started anew, so it grew by what it shows.
        """
        count, low, total, high = self.count, self.low, self.total, self.high
        for reading in counts:
            if count == 0:
                low = reading
            else:
                total += reading - high if reading >= high else reading
            high = reading
            count += 1
        return Extent(count, low, total, high)


def counted_over(parts: Sequence[Extent]) -> Extent:
    """Give the figures of a counter from those of parts of its readings, one or more, in order of time.

    What it grew by between two parts counts as far as it rose above everything read before, less what another
    part saw of that. So nothing counts twice, also where a clock gives the parts in a wrong order; then some
    of what grew in between may be missing.
    """
    total, highest = sum(part.total for part in parts), parts[0].high
    for part in parts[1:]:
        seen = sum(max(0.0, min(each.high, part.low) - max(each.low, highest)) for each in parts)
        total += max(0.0, part.low - highest - seen)
        highest = max(highest, part.high)
    return Extent(sum(part.count for part in parts), parts[0].low, total, highest)
