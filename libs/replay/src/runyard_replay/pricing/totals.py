"""Sums the terms of costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runyard_replay.pricing.leases import Term


@dataclass(frozen=True, slots=True)
class Totals:
    """What terms come to."""

    micro_usd: int = 0
    gpu_milliseconds: int = 0
    """Of each GPU held."""
    node_milliseconds: int = 0
    """Of each lease, however many GPUs it held."""
    has_unpriced_time: bool = False
    """True when no price applied to some of it."""

    def __add__(self, other: Totals) -> Totals:
        """Give the sum of both."""
        return Totals(
            self.micro_usd + other.micro_usd,
            self.gpu_milliseconds + other.gpu_milliseconds,
            self.node_milliseconds + other.node_milliseconds,
            self.has_unpriced_time or other.has_unpriced_time,
        )


def total(terms: Iterable[Term]) -> Totals:
    """Sum terms; those of one lease must all be there, for its time to be counted once."""
    micro_usd = 0
    has_unpriced_time = False
    spans: dict[str, tuple[int, int, int]] = {}
    for term in terms:
        micro_usd += term.micro_usd
        has_unpriced_time |= term.price is None
        start_ms, end_ms, _ = spans.get(term.lease.lease_id, (term.start_ms, term.end_ms, 0))
        span = (min(start_ms, term.start_ms), max(end_ms, term.end_ms), len(term.lease.gpus))
        spans[term.lease.lease_id] = span
    return Totals(
        micro_usd=micro_usd,
        gpu_milliseconds=sum((end - start) * gpu_count for start, end, gpu_count in spans.values()),
        node_milliseconds=sum(end - start for start, end, _ in spans.values()),
        has_unpriced_time=has_unpriced_time,
    )
