"""First station: gRPC requests become checked commands and queries, results become responses."""

# ruff: noqa: ARG002 - gRPC hands every method a context

from __future__ import annotations

import hashlib
from typing import Any

import grpc

from runyard.cost.v1 import cost_service_pb2 as pb
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceServicer
from runyard.cost.v1.types_pb2 import Price
from runyard_contracts.ids import Position, is_name
from runyard_core.errors import InvalidInput, NotFound
from runyard_cost.costs import Costs, Moment
from runyard_cost.handlers import Handlers, Request
from runyard_cost.moment import PricedMoments
from runyard_cost.queries import CostQueries, LeasedRun, NotedPrice
from runyard_replay.pricing.explanation import at, cost_of
from runyard_replay.pricing.totals import Totals, total
from runyard_servicekit.auth import require_role
from runyard_servicekit.context import command_id, request_context
from runyard_servicekit.paging import PageToken, decode_page_token, encode_page_token, page_query, page_size

RpcContext = grpc.aio.ServicerContext[Any, Any]

RUN_ID_LENGTH_MAX = 200

_SERVICE = "cost"


class CostServicer(CostServiceServicer):
    """Serves runyard.cost.v1.CostService."""

    def __init__(
        self, handlers: Handlers, costs: Costs, queries: CostQueries, moments: PricedMoments
    ) -> None:
        """Hand requests to these."""
        self._handlers = handlers
        self._costs = costs
        self._queries = queries
        self._moments = moments

    async def SetPrice(self, request: pb.SetPriceRequest, context: RpcContext) -> pb.SetPriceResponse:
        """Add a line to the price book; see the proto."""
        require_role("client", "service")
        asked = Request(
            command_id=command_id(_SERVICE, "SetPrice", request.request_id),
            digest=hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
            context=request_context(_SERVICE),
        )
        price, position = await self._handlers.set_price(request.price, asked)
        return pb.SetPriceResponse(price=price, position=position)

    async def ListPrices(self, request: pb.ListPricesRequest, context: RpcContext) -> pb.ListPricesResponse:
        """List the price book, newest event first; see the proto."""
        limit = page_size(request.page_size)
        query = page_query("ListPrices", read=request.read)
        token = decode_page_token(request.page_token, query, like=(0,))
        if token is None:
            position, before = (await self._moments.shown(request.read)).position, None
        else:
            position, before = Position(token.position), Position(token.after[0])
        found = await self._queries.prices(position, before=before, limit=limit + 1)
        shown = found[:limit]
        following = ""
        if len(found) > limit:
            last = PageToken(position=position, after=(shown[-1].line.position,))
            following = encode_page_token(last, query)
        return pb.ListPricesResponse(
            prices=[_price_message(noted) for noted in shown], next_page_token=following
        )

    async def GetRunCost(self, request: pb.GetRunCostRequest, context: RpcContext) -> pb.GetRunCostResponse:
        """Give the cost of a run with every term; see the proto."""
        if not 0 < len(request.run_id) <= RUN_ID_LENGTH_MAX:
            raise InvalidInput("run_id: want a run's id", field_violations={"run_id": "missing or too long"})
        moment = await self._moments.shown(request.read)
        terms = (await self._costs.terms_of_runs([request.run_id], moment)).get(request.run_id, ())
        if not terms and not await self._queries.has_run(request.run_id, moment.position):
            raise NotFound(f"there is no run {request.run_id}", code="RUN_NOT_FOUND")
        return pb.GetRunCostResponse(cost=cost_of(terms), position=moment.position)

    async def ListRunCosts(
        self, request: pb.ListRunCostsRequest, context: RpcContext
    ) -> pb.ListRunCostsResponse:
        """List what the runs of a project cost, newest first; see the proto."""
        _check_project(request.project)
        query = page_query("ListRunCosts", request.project, read=request.read)
        limit = page_size(request.page_size)
        token = decode_page_token(request.page_token, query, like=(0, "", 0))
        if token is None:
            moment, after = await self._moments.shown(request.read), None
        else:
            leased_at_ms, run_id, horizon_ms = token.after
            moment = Moment(Position(token.position), horizon_ms)
            after = LeasedRun(run_id, leased_at_ms)
        found = await self._queries.leased_runs(
            request.project, moment.position, after=after, limit=limit + 1
        )
        shown = found[:limit]
        terms = await self._costs.terms_of_runs([run.run_id for run in shown], moment)
        following = ""
        if len(found) > limit:
            place = (shown[-1].first_leased_at_ms, shown[-1].run_id, moment.horizon_ms)
            following = encode_page_token(PageToken(position=moment.position, after=place), query)
        return pb.ListRunCostsResponse(
            costs=[_run_cost(run, total(terms.get(run.run_id, ()))) for run in shown],
            next_page_token=following,
        )

    async def GetProjectCost(
        self, request: pb.GetProjectCostRequest, context: RpcContext
    ) -> pb.GetProjectCostResponse:
        """Sum a project; see the proto."""
        _check_project(request.project)
        moment = await self._moments.shown(request.read)
        runs = await self._queries.leased_runs(request.project, moment.position)
        terms = await self._costs.terms_of_runs([run.run_id for run in runs], moment)
        totals = sum((total(of_run) for of_run in terms.values()), start=Totals())
        return pb.GetProjectCostResponse(
            micro_usd=totals.micro_usd,
            gpu_milliseconds=totals.gpu_milliseconds,
            node_milliseconds=totals.node_milliseconds,
            run_count=len(runs),
            has_unpriced_time=totals.has_unpriced_time,
        )


def _check_project(project: str) -> None:
    if not is_name(project):
        raise InvalidInput(
            f"project: {project[:80]!r} is not a project name",
            code="BAD_PROJECT",
            field_violations={"project": "not a name"},
        )


def _run_cost(run: LeasedRun, totals: Totals) -> pb.RunCost:
    message = pb.RunCost(
        run_id=run.run_id,
        micro_usd=totals.micro_usd,
        gpu_milliseconds=totals.gpu_milliseconds,
        node_milliseconds=totals.node_milliseconds,
        has_unpriced_time=totals.has_unpriced_time,
    )
    message.first_leased_at.FromDatetime(at(run.first_leased_at_ms))
    return message


def _price_message(noted: NotedPrice) -> Price:
    line = noted.line
    price = Price(
        price_id=line.price_id,
        node_id=line.node_id,
        gpu_model=line.gpu_model,
        unit=line.unit,
        micro_usd_per_hour=line.micro_usd_per_hour,
        note=noted.note,
    )
    price.effective_from.FromDatetime(at(line.effective_from_ms))
    return price
