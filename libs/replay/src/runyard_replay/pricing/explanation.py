"""Says in a sentence what a term of a cost is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from runyard.cost.v1.types_pb2 import Cost, CostTerm
from runyard_contracts.answer_size import items_that_fit
from runyard_replay.pricing.leases import HOUR_MS, WHOLE_PPM, Term
from runyard_replay.pricing.totals import total

TERMS_BYTES_MAX = 4 << 20
"""Of one cost: some 10,000 terms. A message holds four times as much."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def cost_of(terms: Sequence[Term]) -> Cost:
    """Sum terms and write each with its sentence; of more than ``TERMS_BYTES_MAX`` the last ones."""
    totals = total(terms)
    shown = items_that_fit(map(term_message, reversed(terms)), bytes_max=TERMS_BYTES_MAX).items
    return Cost(
        micro_usd=totals.micro_usd,
        terms=reversed(shown),
        left_out_term_count=len(terms) - len(shown),
        gpu_milliseconds=totals.gpu_milliseconds,
        node_milliseconds=totals.node_milliseconds,
        has_unpriced_time=totals.has_unpriced_time,
    )


def term_message(term: Term) -> CostTerm:
    """Write a term with everything that it rests on."""
    lease, price = term.lease, term.price
    message = CostTerm(
        run_id=lease.run_id,
        attempt=lease.attempt,
        lease_id=lease.lease_id,
        node_id=lease.node_id,
        gpu_uuid=term.gpu.uuid if term.gpu else "",
        gpu_model=term.gpu.model if term.gpu else "",
        running=term.is_running,
        share_ppm=term.share_ppm,
        micro_usd=term.micro_usd,
        event_ids=lease.event_ids,
        explanation=explain(term),
    )
    message.start.FromDatetime(at(term.start_ms))
    message.end.FromDatetime(at(term.end_ms))
    if price is not None:
        message.price_id = price.price_id
        message.unit = price.unit
        message.micro_usd_per_hour = price.micro_usd_per_hour
        message.event_ids.append(price.event_id)
    for other in term.shared_with:
        message.event_ids.extend(other.event_ids)
    return message


def explain(term: Term) -> str:
    """Say what a term is: "30 min of GPU H100 on node-1 at $2.50 an hour: $1.25"."""
    what = (
        f"GPU {term.gpu.model or term.gpu.uuid} on {term.lease.node_id}" if term.gpu else term.lease.node_id
    )
    sentence = f"{duration_text(term.milliseconds)} of {what}"
    if term.price is None:
        sentence += ": no price is set for it"
    else:
        sentence += f" at {money_text(term.price.micro_usd_per_hour)} an hour"
        if term.shared_with:
            sentence += _sharing_text(term)
        sentence += f": {money_text(term.micro_usd)}"
    return sentence + (" so far" if term.is_running else "")


def duration_text(milliseconds: int) -> str:
    """Write a duration: "2 h 5 min", "12.25 s"."""
    hours, rest_ms = divmod(milliseconds, HOUR_MS)
    minutes, rest_ms = divmod(rest_ms, 60_000)
    seconds, rest_ms = divmod(rest_ms, 1_000)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    if seconds or rest_ms or not parts:
        parts.append(f"{f'{seconds}.{rest_ms:03}'.rstrip('0').rstrip('.')} s")
    return " ".join(parts)


def money_text(micro_usd: int) -> str:
    """Write money with two to six decimals: "$2.50", "$0.000694"."""
    dollars, micros = divmod(micro_usd, 1_000_000)
    text = f"{micros:06}"
    return f"${dollars}.{text[:2]}{text[2:].rstrip('0')}"


def at(milliseconds: int) -> datetime:
    """Give the time of milliseconds since 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _sharing_text(term: Term) -> str:
    percent = f"{term.share_ppm * 100 / WHOLE_PPM:.4f}".rstrip("0").rstrip(".")
    holders = [term.lease, *term.shared_with]
    held_count = sum(len(lease.gpus) for lease in holders)
    if held_count:
        return f", {percent} % of it for {len(term.lease.gpus)} of {held_count} GPUs held"
    return f", {percent} % of it as one of {len(holders)} runs on the node"
