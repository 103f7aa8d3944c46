"""Computes costs from leases and prices as the log had them, up to a moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runyard_contracts.ids import Position
from runyard_cost.queries import CostQueries
from runyard_replay.pricing.leases import Lease, Term, price_node
from runyard_replay.pricing.price_book import PriceBook


@dataclass(frozen=True, slots=True)
class Moment:
    """What a cost is computed from, and up to when."""

    position: Position
    """Later events are not looked at."""
    horizon_ms: int
    """Leases that still run are priced up to here; milliseconds since 1970."""


class Costs:
    """Prices the leases of runs."""

    def __init__(self, queries: CostQueries) -> None:
        """Read leases and prices with these."""
        self._queries = queries

    async def terms_of_runs(self, run_ids: Iterable[str], moment: Moment) -> Mapping[str, Sequence[Term]]:
        """Give the terms of each of these runs that held something, in order of attempt and time.

        Raises:
            Unavailable: the database does not answer (READ_MODEL_UNREACHABLE).
        """
        book = PriceBook(noted.line for noted in await self._queries.prices(moment.position))
        leases = await self._queries.leases_of_runs(run_ids, moment.position)
        by_node: dict[str, list[Lease]] = defaultdict(list)
        for lease in leases:
            by_node[lease.node_id].append(lease)
        terms: dict[str, list[Term]] = defaultdict(list)
        for node_id in sorted(by_node):
            wanted = by_node[node_id]
            from_ms = min(lease.reserved_at_ms for lease in wanted)
            to_ms = max(lease.end_ms(moment.horizon_ms) for lease in wanted)
            beside = await self._queries.leases_of_node(node_id, from_ms, to_ms, moment.position)
            # In a thread, so that a long history does not hold other calls up.
            priced = await asyncio.to_thread(price_node, node_id, beside, book, moment.horizon_ms)
            for lease in wanted:
                terms[lease.run_id].extend(priced.get(lease.lease_id, ()))
        for of_run in terms.values():
            of_run.sort(key=lambda term: (term.lease.attempt, term.lease.node_id, term.start_ms))
        return terms
