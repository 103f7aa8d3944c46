"""Thin a series for a chart: the lowest and the highest point of each bucket, and both ends.

Min/max and not an average or LTTB: what people look for in a training curve is its spikes, and a NaN. LTTB
keeps the look of a curve but may drop either. Buckets hold equal numbers of points, so a pause costs no
resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

POINTS_MIN = 4
"""Both ends and one bucket."""


def thinned_indices(values: Sequence[float], points_max: int) -> list[int]:
    """Choose at most ``points_max`` indices of a series, in rising order; all of them when they fit.

    The first and last point are always kept. A NaN counts as higher than everything, so it is not lost.

    Raises:
        ValueError: ``points_max`` is below 4.
    """
    if points_max < POINTS_MIN:
        raise ValueError(f"cannot thin to {points_max} points, want {POINTS_MIN} or more")
    count = len(values)
    if count <= points_max:
        return list(range(count))
    bucket_count = (points_max - 2) // 2
    inner_count = count - 2
    chosen = [0]
    for bucket in range(bucket_count):
        start = 1 + bucket * inner_count // bucket_count
        end = 1 + (bucket + 1) * inner_count // bucket_count
        inside = range(start, end)
        low = min(inside, key=lambda index: _rank(values[index]))
        high = max(inside, key=lambda index: _rank(values[index]))
        chosen.extend(sorted({low, high}))
    chosen.append(count - 1)
    return chosen


def _rank(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)
