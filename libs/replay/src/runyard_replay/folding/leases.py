"""What costs are computed from: leases and the price book, folded from the log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.history.v1.history_service_pb2 import ProjectCostState, RunCostState
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard_contracts.glance import Glance
from runyard_contracts.recorded import RecordedEvent
from runyard_replay.pricing.leases import HeldGpu, Lease, Term, price_node
from runyard_replay.pricing.price_book import PriceBook, PriceLine
from runyard_replay.pricing.totals import total

_PRICED = Glance(PriceSet, PriceSet)
_RESERVED = Glance(NodeGpusReserved, NodeGpusReserved)
_RELEASED = Glance(NodeGpusReleased, NodeGpusReleased)
PRICE_TYPE = _PRICED.event_type
LEASE_TYPES = (_RESERVED.event_type, _RELEASED.event_type)
EVENT_TYPES = (PRICE_TYPE, *LEASE_TYPES)


class _Held(NamedTuple):
    """What a reservation says; a tenth of the time of a lease, which is made of it when one is priced."""

    node_id: str
    run_id: str
    attempt: int
    gpus: tuple[HeldGpu, ...]
    reserved_at_ms: int
    event_id: str


class _Given(NamedTuple):
    """What a release says."""

    released_at_ms: int | None
    event_ids: tuple[str, ...]


_NOT_GIVEN = _Given(None, ())


@dataclass(slots=True)
class LeaseFold:
    """Folds leases and prices in the order of the log."""

    only_project: str = ""
    """Whose leases are kept; empty for all. Those of others decide shares where a node has a price."""
    prices: dict[str, tuple[Price, PriceLine]] = field(default_factory=dict)
    """By price id, oldest first."""
    project_of_run: dict[str, str] = field(default_factory=dict)
    _held: dict[str, _Held] = field(default_factory=dict)
    """By lease id."""
    _given: dict[str, _Given] = field(default_factory=dict)
    """The same for those that are over."""
    _gpus: dict[tuple[str, ...], tuple[HeldGpu, ...]] = field(default_factory=dict)
    """By their UUIDs and models: leases of the same GPUs share them."""

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event.

        Raises:
            UndecodableEventError, NoUpcasterError: this version cannot read it.
        """
        envelope = event.envelope
        match envelope.type:
            case _RESERVED.event_type:
                self.reserve(_RESERVED.at(envelope), envelope.event_id, envelope.occurred_at)
            case _RELEASED.event_type:
                self.release(_RELEASED.at(envelope).lease_id, envelope.event_id, envelope.occurred_at)
            case _PRICED.event_type:
                self._set_price(_PRICED.at(envelope), event)
            case _:
                pass

    def _set_price(self, price_set: PriceSet, event: RecordedEvent) -> None:
        price = price_set.price
        self.prices[price.price_id] = (price, price_line(price, event))

    def reserve(self, reserved: NodeGpusReserved, event_id: str, occurred_at: Timestamp) -> None:
        """Go on with a reservation."""
        run_id, lease_id = reserved.run_id, reserved.lease_id
        project = self.project_of_run.setdefault(run_id, reserved.project)
        if self.only_project and project != self.only_project:
            self._held.pop(lease_id, None)
            return
        key = (*reserved.gpu_uuids, *reserved.gpu_models)
        gpus = self._gpus.get(key)
        if gpus is None or len(gpus) != len(reserved.gpu_uuids):
            gpus = self._gpus[key] = _gpus_of(reserved)
        self._held[lease_id] = _Held(
            reserved.node_id,
            run_id,
            reserved.attempt,
            gpus,
            milliseconds_of(occurred_at),
            event_id,
        )
        self._given.pop(lease_id, None)

    def release(self, lease_id: str, event_id: str, occurred_at: Timestamp) -> None:
        """Go on with a release."""
        if lease_id in self._held and lease_id not in self._given:
            self._given[lease_id] = _Given(milliseconds_of(occurred_at), (event_id,))

    def has_node_prices(self) -> bool:
        """Say whether what runs on a node together may share a price of it."""
        return any(line.unit == PriceUnit.PRICE_UNIT_NODE_HOUR for line in self.lines())

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

    def runs_of(self, project: str) -> Sequence[str]:
        """Give the runs of a project that held something, newest first."""
        project_of_run = self.project_of_run
        first: dict[str, int] = {}
        for held in self._held.values():
            run_id = held.run_id
            if project_of_run.get(run_id) == project:
                first[run_id] = min(held.reserved_at_ms, first.get(run_id, held.reserved_at_ms))
        return sorted(first, key=lambda run_id: (first[run_id], run_id), reverse=True)

    def project_cost(self, project: str, horizon_ms: int) -> ProjectCostState:
        """Give what a project cost up to a moment."""
        run_ids = self.runs_of(project)
        terms = self.terms(run_ids, self.lines(), horizon_ms)
        totals = {run_id: total(of_run) for run_id, of_run in terms.items()}
        return ProjectCostState(
            project=project,
            micro_usd=sum(of_run.micro_usd for of_run in totals.values()),
            gpu_milliseconds=sum(of_run.gpu_milliseconds for of_run in totals.values()),
            node_milliseconds=sum(of_run.node_milliseconds for of_run in totals.values()),
            run_count=len(run_ids),
            has_unpriced_time=any(of_run.has_unpriced_time for of_run in totals.values()),
            runs=[
                RunCostState(
                    run_id=run_id,
                    micro_usd=totals[run_id].micro_usd,
                    running=any(term.is_running for term in terms[run_id]),
                )
                for run_id in run_ids
                if run_id in totals
            ],
        )

    def terms(
        self, run_ids: Iterable[str], lines: Iterable[PriceLine], horizon_ms: int
    ) -> Mapping[str, Sequence[Term]]:
        """Price the leases of runs up to a moment, in order of attempt and time.

        Runs that held nothing are left out. Others on the same nodes may share what these cost.
        """
        wanted = set(run_ids)
        book = PriceBook(lines)
        node_ids = {held.node_id for held in self._held.values() if held.run_id in wanted}
        by_node: dict[str, list[Lease]] = defaultdict(list)
        for lease_id, held in self._held.items():
            if held.node_id in node_ids:
                by_node[held.node_id].append(self._lease(lease_id, held))
        terms: dict[str, list[Term]] = defaultdict(list)
        for node_id in sorted(by_node):
            priced = price_node(node_id, by_node[node_id], book, horizon_ms)
            for lease in by_node[node_id]:
                if lease.run_id in wanted:
                    terms[lease.run_id].extend(priced[lease.lease_id])
        for of_run in terms.values():
            of_run.sort(key=lambda term: (term.lease.attempt, term.lease.node_id, term.start_ms))
        return terms

    def _lease(self, lease_id: str, held: _Held) -> Lease:
        given = self._given.get(lease_id, _NOT_GIVEN)
        return Lease(
            lease_id=lease_id,
            run_id=held.run_id,
            attempt=held.attempt,
            node_id=held.node_id,
            gpus=held.gpus,
            reserved_at_ms=held.reserved_at_ms,
            released_at_ms=given.released_at_ms,
            event_ids=(held.event_id, *given.event_ids),
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


def _gpus_of(reserved: NodeGpusReserved) -> tuple[HeldGpu, ...]:
    models = (*reserved.gpu_models, *("" for _ in reserved.gpu_uuids))
    return tuple(HeldGpu(uuid, model) for uuid, model in zip(reserved.gpu_uuids, models, strict=False))
