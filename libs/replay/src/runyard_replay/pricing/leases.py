"""Prices lease intervals: integers only, the time line cut wherever a price or the sharing of a node changes.

Times are milliseconds since 1970, so that the durations of the pieces of an interval sum to its own. A
term's money is rounded once, half to even, to whole micro-dollars, when everything of it is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from runyard.cost.v1.types_pb2 import PriceUnit
from runyard_replay.pricing.price_book import PriceBook, PriceLine

WHOLE_PPM = 1_000_000
HOUR_MS = 3_600_000

# Looked up once: the enum looks names up in its descriptor.
_NODE_HOUR = PriceUnit.PRICE_UNIT_NODE_HOUR


@dataclass(frozen=True, slots=True)
class HeldGpu:
    """A GPU that a lease holds."""

    uuid: str
    model: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The time for which an attempt held GPUs and a slot of a node."""

    lease_id: str
    run_id: str
    attempt: int
    node_id: str
    gpus: tuple[HeldGpu, ...]
    reserved_at_ms: int
    released_at_ms: int | None
    """None while it holds them."""
    event_ids: tuple[str, ...]
    """Of the reservation and, when it is over, of the release."""

    def end_ms(self, horizon_ms: int) -> int:
        """Give the end of the interval that is priced at a moment; never before its start."""
        end_ms = horizon_ms if self.released_at_ms is None else min(self.released_at_ms, horizon_ms)
        return max(self.reserved_at_ms, end_ms)

    def is_running(self, horizon_ms: int) -> bool:
        """Say whether it holds its GPUs at a moment."""
        return self.released_at_ms is None or self.released_at_ms > horizon_ms


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of a cost: a stretch of a lease with one price and one share."""

    lease: Lease
    gpu: HeldGpu | None
    """None for a price of the node."""
    start_ms: int
    end_ms: int
    is_running: bool
    """True when the lease went on at the moment that was priced up to."""
    price: PriceLine | None
    """None when no price applies."""
    share_ppm: int
    """Part of the price that this lease bears; the whole of it for a GPU-hour price."""
    shared_with: tuple[Lease, ...] = ()
    """The other leases on the node, when they decide the share."""

    @property
    def milliseconds(self) -> int:
        """Length of the stretch."""
        return self.end_ms - self.start_ms

    @property
    def micro_usd(self) -> int:
        """Money, rounded half to even; 0 without a price."""
        if self.price is None:
            return 0
        numerator = self.price.micro_usd_per_hour * self.milliseconds * self.share_ppm
        return divide_half_even(numerator, HOUR_MS * WHOLE_PPM)


def price_node(
    node_id: str, leases: Iterable[Lease], book: PriceBook, horizon_ms: int
) -> Mapping[str, Sequence[Term]]:
    """Price all leases of a node up to a moment; gives the terms of each lease id, in order of time.

    Leases must include every one that overlaps those of interest: they decide how the node is shared.
    """
    ordered = sorted(leases, key=lambda lease: (lease.reserved_at_ms, lease.lease_id))
    models = {gpu.model for lease in ordered for gpu in lease.gpus}
    cuts = book.changes_ms(node_id, models)
    for lease in ordered:
        cuts |= {lease.reserved_at_ms, lease.end_ms(horizon_ms)}
    growing = {lease.lease_id: _GrowingTerms() for lease in ordered}
    active: list[Lease] = []
    started = 0
    start_ms = 0
    for cut_ms in sorted(cuts):
        for lease, pieces in zip(active, _price_slice(node_id, active, book, start_ms), strict=True):
            growing[lease.lease_id].extend(pieces, start_ms, cut_ms)
        active = [lease for lease in active if lease.end_ms(horizon_ms) > cut_ms]
        while started < len(ordered) and ordered[started].reserved_at_ms <= cut_ms:
            if ordered[started].end_ms(horizon_ms) > cut_ms:
                active.append(ordered[started])
            started += 1
        start_ms = cut_ms
    return {lease.lease_id: growing[lease.lease_id].finish(lease, horizon_ms) for lease in ordered}


def apportion(weights: Sequence[int]) -> list[int]:
    """Split a whole by weights into parts per million that sum to exactly one million, or all 0.

    Largest remainders get what rounding down left over; the earlier one of equals goes first.
    """
    total = sum(weights)
    if total == 0:
        return [0] * len(weights)
    shares = [weight * WHOLE_PPM // total for weight in weights]
    left_over = WHOLE_PPM - sum(shares)
    by_remainder = sorted(range(len(weights)), key=lambda index: -(weights[index] * WHOLE_PPM % total))
    for index in by_remainder[:left_over]:
        shares[index] += 1
    return shares


def divide_half_even(numerator: int, denominator: int) -> int:
    """Divide integers (denominator above 0) and round half to even."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient


class _GrowingTerms:
    """The terms of one lease while the time line is walked."""

    def __init__(self) -> None:
        self._pieces: list[Term] = []
        """Without their times, which grow."""
        self._spans: list[tuple[int, int]] = []
        """From when to when each of them is, in milliseconds since 1970."""
        self._open: list[int] = []
        """Indexes of those that reach up to now."""

    def extend(self, pieces: Iterable[Term], start_ms: int, end_ms: int) -> None:
        """Add the pieces of a stretch; what only goes on becomes longer."""
        reaching = []
        for piece in pieces:
            for index in self._open:
                if self._pieces[index] == piece:
                    self._spans[index] = (self._spans[index][0], end_ms)
                    reaching.append(index)
                    break
            else:
                reaching.append(len(self._pieces))
                self._pieces.append(piece)
                self._spans.append((start_ms, end_ms))
        self._open = reaching

    def finish(self, lease: Lease, horizon_ms: int) -> Sequence[Term]:
        """Give the terms, the last ones marked as running if the lease is."""
        running = self._open if lease.is_running(horizon_ms) else ()
        return [
            replace(piece, start_ms=span[0], end_ms=span[1], is_running=index in running)
            for index, (piece, span) in enumerate(zip(self._pieces, self._spans, strict=True))
        ]


def _price_slice(
    node_id: str, active: Sequence[Lease], book: PriceBook, at_ms: int
) -> Sequence[Sequence[Term]]:
    """Price a stretch in which nothing changes, for each lease; the terms carry no times yet."""
    own_pieces: list[list[Term]] = [[] for _ in active]
    node_gpu_counts = [0] * len(active)
    node_line: PriceLine | None = None
    for index, lease in enumerate(active):
        for gpu in lease.gpus:
            line = book.of_gpu(node_id, gpu.model, at_ms)
            if line is not None and line.unit == _NODE_HOUR:
                # A node has one node-hour price at a time: GPU models cannot have one.
                node_line = line
                node_gpu_counts[index] += 1
            else:
                own_pieces[index].append(_piece(lease, gpu, line, WHOLE_PPM))
    if node_line is None and all(lease.gpus for lease in active):
        # Nobody pays for a part of the node.
        return own_pieces
    shares = _node_shares(active, node_gpu_counts)
    for index, lease in enumerate(active):
        others = (*active[:index], *active[index + 1 :])
        if not lease.gpus:
            line = book.of_slot(node_id, at_ms)
            own_pieces[index].append(_piece(lease, None, line, shares[index], others))
        elif node_gpu_counts[index]:
            own_pieces[index].append(_piece(lease, None, node_line, shares[index], others))
    return own_pieces


def _node_shares(active: Sequence[Lease], node_gpu_counts: Sequence[int]) -> Sequence[int]:
    """Split the node by GPUs held; by slots, one a lease, when nobody holds any."""
    held_count = sum(len(lease.gpus) for lease in active)
    if held_count == 0:
        return apportion([1] * len(active))
    # GPUs that have a price of their own keep their part of the node, so that nobody else pays for it.
    return apportion([*node_gpu_counts, held_count - sum(node_gpu_counts)])[:-1]


def _piece(
    lease: Lease, gpu: HeldGpu | None, line: PriceLine | None, share_ppm: int, others: tuple[Lease, ...] = ()
) -> Term:
    return Term(
        lease=lease,
        gpu=gpu,
        start_ms=0,
        end_ms=0,
        is_running=False,
        price=line,
        share_ppm=share_ppm,
        shared_with=others,
    )
