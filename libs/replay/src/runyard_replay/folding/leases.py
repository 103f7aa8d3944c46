"""What costs are computed from: leases and the price book, folded from the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Cost, Price
from runyard.history.v1.history_service_pb2 import ProjectCostState, RunCostState
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.pricing.explanation import cost_of
from runyard_replay.pricing.leases import HeldGpu, Lease, Term, price_node
from runyard_replay.pricing.price_book import PriceBook, PriceLine

EVENT_TYPES = ("runyard.price.set", "runyard.node.gpus_reserved", "runyard.node.gpus_released")


@dataclass(slots=True)
class LeaseFold:
    """Folds leases and prices in the order of the log."""

    leases: dict[str, Lease] = field(default_factory=dict)
    """By lease id."""
    prices: dict[str, tuple[Price, PriceLine]] = field(default_factory=dict)
    """By price id, oldest first."""
    project_of_run: dict[str, str] = field(default_factory=dict)

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        match event.message:
            case PriceSet() as price_set:
                price = price_set.price
                self.prices[price.price_id] = (price, price_line(price, event))
            case NodeGpusReserved() as reserved:
                self.project_of_run.setdefault(reserved.run_id, reserved.project)
                self.leases[reserved.lease_id] = _lease(reserved, event)
            case NodeGpusReleased() as released:
                lease = self.leases.get(released.lease_id)
                if lease is not None and lease.released_at_ms is None:
                    self.leases[released.lease_id] = replace(
                        lease,
                        released_at_ms=milliseconds_of(event.envelope.occurred_at),
                        event_ids=(*lease.event_ids, event.envelope.event_id),
                    )
            case _:
                pass

    def lines(self) -> list[PriceLine]:
        """Give the recorded price book, oldest first."""
        return [line for _, line in self.prices.values()]

    def newest_prices(self) -> list[Price]:
        """Give the recorded price book as people are shown it, newest first: from which millisecond on."""
        shown = []
        for price, line in reversed(self.prices.values()):
            each = Price()
            each.CopyFrom(price)
            each.effective_from.FromMilliseconds(line.effective_from_ms)
            shown.append(each)
        return shown

    def costs(
        self, run_ids: Iterable[str], lines: Iterable[PriceLine], horizon_ms: int
    ) -> Mapping[str, Cost]:
        """Price the leases of runs up to a moment; runs that held nothing are left out."""
        wanted = set(run_ids)
        book = PriceBook(lines)
        by_node: dict[str, list[Lease]] = defaultdict(list)
        for lease in self.leases.values():
            by_node[lease.node_id].append(lease)
        terms: dict[str, list[Term]] = defaultdict(list)
        for node_id in sorted(by_node):
            leases = by_node[node_id]
            if wanted.isdisjoint(lease.run_id for lease in leases):
                continue
            priced = price_node(node_id, leases, book, horizon_ms)
            for lease in leases:
                if lease.run_id in wanted:
                    terms[lease.run_id].extend(priced[lease.lease_id])
        for of_run in terms.values():
            of_run.sort(key=lambda term: (term.lease.attempt, term.lease.node_id, term.start_ms))
        return {run_id: cost_of(of_run) for run_id, of_run in terms.items()}

    def runs_of(self, project: str) -> Sequence[str]:
        """Give the runs of a project that held something, newest first."""
        first: dict[str, int] = {}
        for lease in self.leases.values():
            if self.project_of_run.get(lease.run_id) == project:
                first[lease.run_id] = min(lease.reserved_at_ms, first.get(lease.run_id, lease.reserved_at_ms))
        return sorted(first, key=lambda run_id: (first[run_id], run_id), reverse=True)

    def project_cost(self, project: str, horizon_ms: int) -> ProjectCostState:
        """Give what a project cost up to a moment."""
        run_ids = self.runs_of(project)
        costs = self.costs(run_ids, self.lines(), horizon_ms)
        return ProjectCostState(
            project=project,
            micro_usd=sum(cost.micro_usd for cost in costs.values()),
            gpu_milliseconds=sum(cost.gpu_milliseconds for cost in costs.values()),
            node_milliseconds=sum(cost.node_milliseconds for cost in costs.values()),
            run_count=len(run_ids),
            has_unpriced_time=any(cost.has_unpriced_time for cost in costs.values()),
            runs=[
                RunCostState(
                    run_id=run_id,
                    micro_usd=costs[run_id].micro_usd,
                    running=any(term.running for term in costs[run_id].terms),
                )
                for run_id in run_ids
                if run_id in costs
            ],
        )


def price_line(price: Price, event: RecordedEvent | None = None, *, position: int = 0) -> PriceLine:
    """Give the line that a price means; one that was never recorded has a place of its caller's choice."""
    return PriceLine(
        price_id=price.price_id,
        node_id=price.node_id,
        gpu_model=price.gpu_model,
        unit=price.unit,
        micro_usd_per_hour=price.micro_usd_per_hour,
        effective_from_ms=milliseconds_of(price.effective_from),
        position=position if event is None else event.position,
        event_id="" if event is None else event.envelope.event_id,
    )


def milliseconds_of(time: Timestamp) -> int:
    """Give a time as milliseconds since 1970, rounded down."""
    return time.seconds * 1_000 + time.nanos // 1_000_000


def _lease(reserved: NodeGpusReserved, event: RecordedEvent) -> Lease:
    models = (*reserved.gpu_models, *("" for _ in reserved.gpu_uuids))
    return Lease(
        lease_id=reserved.lease_id,
        run_id=reserved.run_id,
        attempt=reserved.attempt,
        node_id=reserved.node_id,
        gpus=tuple(HeldGpu(uuid, model) for uuid, model in zip(reserved.gpu_uuids, models, strict=False)),
        reserved_at_ms=milliseconds_of(event.envelope.occurred_at),
        released_at_ms=None,
        event_ids=(event.envelope.event_id,),
    )
