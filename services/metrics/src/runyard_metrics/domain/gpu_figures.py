"""The running figures that are kept of each GPU of an attempt, and how samples are counted in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

from runyard_metrics.domain.gpu_readings import THROTTLE_REASONS, Readings
from runyard_metrics.domain.statistics import Extent, counted_over

Figures = Mapping[str, Extent]
"""Name of a figure -> the figure."""

COUNTERS = frozenset(
    {
        "gpu_energy_millijoules",
        "gpu_ecc_corrected_errors",
        "gpu_ecc_uncorrected_errors",
        "gpu_pcie_replays",
        "gpu_nvlink_errors",
    }
)
"""Readings that only grow: their figure is how much they grew."""
THROTTLED = "gpu_throttled_percent"
POWER_CAPPED = "gpu_power_capped_percent"
_SHARES = {THROTTLED: 0x8 | 0x20 | 0x40 | 0x80, POWER_CAPPED: 0x4}
"""Shares of time and the reasons that count: what slows a GPU down, and the power cap, which is usual."""


def counted_in(figures: Figures, readings: Readings) -> dict[str, Extent]:
    """Give the figures with the readings of one GPU and batch counted in."""
    after = dict(figures)
    for name, values in readings.items():
        if name == THROTTLE_REASONS:
            for share, bits in _SHARES.items():
                percents = _percents(values, bits)
                after[share] = figures.get(share, Extent()).with_samples(percents)
        elif name in COUNTERS:
            after[name] = figures.get(name, Extent()).with_counts(map(float, values))
        else:
            after[name] = figures.get(name, Extent()).with_samples(map(float, values))
    return after


def joined(spools: Iterable[Figures]) -> dict[str, Extent]:
    """Give the figures of one GPU from those of each spool that tells of it.

    Args:
        spools: in the order in which the node filled them. The log may have taken them in any other.
    """
    parts: dict[str, list[Extent]] = {}
    for figures in spools:
        for name, extent in figures.items():
            parts.setdefault(name, []).append(extent)
    return {
        name: counted_over(each) if name in COUNTERS else reduce(Extent.merged, each)
        for name, each in parts.items()
    }


def _percents(values: Sequence[int], bits: int) -> list[float]:
    return [100.0 if value & bits else 0.0 for value in values]
