from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1 import cost_service_pb2 as pb
from runyard.cost.v1.cost_service_pb2_grpc import CostServiceStub
from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard_eventlog.port import EventFilter
from runyard_servicekit.channels import service_channel

from .yard import AGENT_TOKEN, START, Yard, new_id, queue, reason, release, reserve

pytestmark = pytest.mark.engines

H100 = [("GPU-a", "H100")]
TWO_H100 = [("GPU-a", "H100"), ("GPU-b", "H100")]
GPU_HOUR = PriceUnit.PRICE_UNIT_GPU_HOUR
NODE_HOUR = PriceUnit.PRICE_UNIT_NODE_HOUR
H100_PRICE = Price(gpu_model="H100", unit=GPU_HOUR, micro_usd_per_hour=2_500_000, note="list price")
NODE_PRICE = Price(node_id="node-1", unit=NODE_HOUR, micro_usd_per_hour=4_000_000)


async def test_a_run_costs_its_lease_and_every_term_says_why(yard: Yard) -> None:
    price = (await yard.set_price(H100_PRICE)).price
    await queue(yard.log, "r1")
    await reserve(yard.log, "r1", 0, gpus=TWO_H100)
    end = await release(yard.log, "r1", 30)
    answer = await yard.run_cost("r1", end)
    cost = answer.cost
    assert answer.position == end
    assert (cost.micro_usd, cost.gpu_milliseconds, cost.node_milliseconds) == (
        2_500_000,
        3_600_000,
        1_800_000,
    )
    assert not cost.has_unpriced_time
    assert [(term.gpu_uuid, term.micro_usd, term.price_id) for term in cost.terms] == [
        ("GPU-a", 1_250_000, price.price_id),
        ("GPU-b", 1_250_000, price.price_id),
    ]
    term = cost.terms[0]
    assert term.explanation == "30 min of GPU H100 on node-1 at $2.50 an hour: $1.25"
    assert (term.start.ToDatetime(tzinfo=START.tzinfo), term.running) == (START, False)
    assert (term.lease_id, term.attempt, term.node_id) == ("lease-r1-1", 1, "node-1")
    page = await yard.log.read(
        Lane.LANE_DOMAIN, filter=EventFilter(categories=["node", "price"]), to_position=end
    )
    by_type = {event.type: event.envelope.event_id for event in page.events}
    assert list(term.event_ids) == [
        by_type["runyard.node.gpus_reserved"],
        by_type["runyard.node.gpus_released"],
        by_type["runyard.price.set"],
    ]


async def test_runs_on_one_node_share_its_price(yard: Yard) -> None:
    await yard.set_price(NODE_PRICE)
    await reserve(yard.log, "r1", 0)
    await reserve(yard.log, "r2", 30)
    await release(yard.log, "r1", 60)
    end = await release(yard.log, "r2", 90)
    first, second = [(await yard.run_cost(run_id, end)).cost for run_id in ("r1", "r2")]
    assert [(term.share_ppm, term.micro_usd) for term in first.terms] == [
        (1_000_000, 2_000_000),
        (500_000, 1_000_000),
    ]
    assert first.micro_usd + second.micro_usd == 6_000_000


async def test_every_attempt_is_paid_for(yard: Yard) -> None:
    await yard.set_price(H100_PRICE)
    await reserve(yard.log, "r1", 0, gpus=H100)
    await release(yard.log, "r1", 6)
    await reserve(yard.log, "r1", 10, gpus=H100, node_id="node-2", attempt=2)
    end = await release(yard.log, "r1", 22, node_id="node-2", attempt=2)
    cost = (await yard.run_cost("r1", end)).cost
    assert [(term.attempt, term.node_id, term.micro_usd) for term in cost.terms] == [
        (1, "node-1", 250_000),
        (2, "node-2", 500_000),
    ]


async def test_a_later_price_restates_the_past_but_not_what_was_shown(yard: Yard) -> None:
    await yard.set_price(H100_PRICE)
    await reserve(yard.log, "r1", 0, gpus=H100)
    end = await release(yard.log, "r1", 60)
    dearer = await yard.set_price(Price(gpu_model="H100", unit=GPU_HOUR, micro_usd_per_hour=3_000_000))
    assert (await yard.run_cost("r1", dearer.position)).cost.micro_usd == 3_000_000
    then = ReadOptions(as_of=AsOf(position=end))
    before = await yard.cost.GetRunCost(pb.GetRunCostRequest(run_id="r1", read=then))
    assert (before.cost.micro_usd, before.position) == (2_500_000, end)


async def test_a_running_lease_is_priced_up_to_the_moment_shown(yard: Yard) -> None:
    await yard.set_price(Price(unit=NODE_HOUR, micro_usd_per_hour=1_000_000))
    start = await reserve(yard.log, "r1", 0)
    now = (await yard.run_cost("r1", start)).cost
    assert now.terms[0].running
    assert now.terms[0].explanation.endswith(" so far")
    # START lies in the past, so the lease runs for longer than a moment.
    [event] = (await yard.log.read(Lane.LANE_DOMAIN, after_position=start - 1)).events  # type: ignore[arg-type]
    recorded_at = event.envelope.recorded_at.ToDatetime(tzinfo=START.tzinfo)
    as_of = AsOf(position=start)
    shown = (
        await yard.cost.GetRunCost(pb.GetRunCostRequest(run_id="r1", read=ReadOptions(as_of=as_of)))
    ).cost
    assert shown.node_milliseconds == (recorded_at - START) // timedelta(milliseconds=1)
    at_time = AsOf()
    at_time.time.FromDatetime(recorded_at + timedelta(milliseconds=5))
    later = (
        await yard.cost.GetRunCost(pb.GetRunCostRequest(run_id="r1", read=ReadOptions(as_of=at_time)))
    ).cost
    assert shown.node_milliseconds <= later.node_milliseconds <= now.node_milliseconds


async def test_time_without_a_price_is_said_so(yard: Yard) -> None:
    await reserve(yard.log, "r1", 0, gpus=H100)
    end = await release(yard.log, "r1", 60)
    cost = (await yard.run_cost("r1", end)).cost
    assert (cost.micro_usd, cost.has_unpriced_time) == (0, True)
    assert cost.terms[0].explanation == "1 h of GPU H100 on node-1: no price is set for it"


async def test_a_run_that_held_nothing_costs_nothing_and_an_unknown_one_is_not_found(yard: Yard) -> None:
    queued = await queue(yard.log, "r1")
    assert not (await yard.run_cost("r1", queued)).cost.terms
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.run_cost("r2", queued)
    assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_a_repeated_request_gives_the_first_price_again(yard: Yard) -> None:
    request = pb.SetPriceRequest(request_id=new_id(), price=H100_PRICE)
    first = await yard.cost.SetPrice(request)
    assert first.price.price_id
    assert first.price.effective_from.seconds > 0
    assert await yard.cost.SetPrice(request) == first
    read = ReadOptions(min_position=first.position)
    listed = await yard.cost.ListPrices(pb.ListPricesRequest(read=read))
    assert len(listed.prices) == 1
    request.price.micro_usd_per_hour += 1
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.cost.SetPrice(request)
    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_a_price_holds_from_a_millisecond_on_wherever_it_is_shown(yard: Yard) -> None:
    wanted = Price(
        unit=NODE_HOUR, micro_usd_per_hour=1, effective_from=Timestamp(seconds=9, nanos=438_861_000)
    )
    answer = await yard.cost.SetPrice(pb.SetPriceRequest(request_id=new_id(), price=wanted))
    assert answer.price.effective_from == Timestamp(seconds=9, nanos=438_000_000)
    read = ReadOptions(min_position=answer.position)
    listed = await yard.cost.ListPrices(pb.ListPricesRequest(read=read))
    assert list(listed.prices) == [answer.price]
    (event,) = (await yard.log.read(Lane.LANE_DOMAIN)).events
    assert event.message == PriceSet(price=answer.price)


async def test_a_price_whose_note_has_a_nul_stops_nothing(yard: Yard) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await yard.set_price(Price(unit=GPU_HOUR, micro_usd_per_hour=1, note="half\0 a year"))
    assert reason(refused.value) == "BAD_PRICE_NOTE"
    at = await queue(yard.log, "r1")
    assert (await yard.run_cost("r1", at)).position >= at


async def test_an_agent_may_not_set_prices(yard: Yard) -> None:
    async with service_channel(yard.address, AGENT_TOKEN) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await CostServiceStub(channel).SetPrice(pb.SetPriceRequest(request_id=new_id(), price=NODE_PRICE))
    assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_call_without_a_token_is_refused(yard: Yard) -> None:
    async with grpc.aio.insecure_channel(yard.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await CostServiceStub(channel).ListPrices(pb.ListPricesRequest())
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_bad_request_is_refused_with_its_reason(yard: Yard) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as bad_price:
        await yard.set_price(Price(unit=GPU_HOUR, micro_usd_per_hour=-1))
    assert reason(bad_price.value) == "BAD_PRICE_AMOUNT"
    with pytest.raises(grpc.aio.AioRpcError) as no_run:
        await yard.cost.GetRunCost(pb.GetRunCostRequest())
    assert no_run.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as unstorable:
        await yard.cost.GetRunCost(pb.GetRunCostRequest(run_id="r\0"))
    assert reason(unstorable.value) == "NUL_IN_TEXT"
    with pytest.raises(grpc.aio.AioRpcError) as no_project:
        await yard.cost.GetProjectCost(pb.GetProjectCostRequest(project="No Name"))
    assert reason(no_project.value) == "BAD_PROJECT"
    with pytest.raises(grpc.aio.AioRpcError) as ahead:
        await yard.run_cost("r1", 1_000_000)
    assert reason(ahead.value) == "POSITION_AHEAD"


async def test_a_project_is_the_sum_of_its_runs_and_pages_show_one_moment(yard: Yard) -> None:
    await yard.set_price(NODE_PRICE)
    for number in range(5):
        await reserve(yard.log, f"r{number}", 60 * number)
        end = await release(yard.log, f"r{number}", 60 * number + 30)
    await reserve(yard.log, "other", 600, project="other")
    end = await release(yard.log, "other", 630)
    request = pb.ListRunCostsRequest(project="digits", page_size=2, read=ReadOptions(min_position=end))
    costs: list[pb.RunCost] = []
    while True:
        page = await yard.cost.ListRunCosts(request)
        costs += page.costs
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        # A price that is set between two pages belongs to another moment.
        await yard.set_price(Price(node_id="node-1", unit=NODE_HOUR, micro_usd_per_hour=9_000_000))
    assert [(cost.run_id, cost.micro_usd) for cost in costs] == [
        (f"r{number}", 2_000_000) for number in reversed(range(5))
    ]
    assert costs[0].first_leased_at.ToDatetime(tzinfo=START.tzinfo) == START + timedelta(hours=4)
    then = ReadOptions(as_of=AsOf(position=end))
    project = await yard.cost.GetProjectCost(pb.GetProjectCostRequest(project="digits", read=then))
    assert (project.micro_usd, project.run_count, project.node_milliseconds) == (10_000_000, 5, 9_000_000)
    nothing = await yard.cost.GetProjectCost(pb.GetProjectCostRequest(project="empty", read=then))
    assert nothing == pb.GetProjectCostResponse()


async def test_prices_are_listed_newest_first(yard: Yard) -> None:
    for micro_usd in range(5):
        last = await yard.set_price(Price(unit=GPU_HOUR, micro_usd_per_hour=micro_usd, note=f"n{micro_usd}"))
    request = pb.ListPricesRequest(page_size=3, read=ReadOptions(min_position=last.position))
    first = await yard.cost.ListPrices(request)
    request.page_token = first.next_page_token
    second = await yard.cost.ListPrices(request)
    assert [price.note for price in (*first.prices, *second.prices)] == ["n4", "n3", "n2", "n1", "n0"]
    assert first.prices[0] == last.price
    assert not second.next_page_token
