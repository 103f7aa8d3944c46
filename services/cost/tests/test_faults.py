from __future__ import annotations

import asyncio

import grpc
import pytest

from runyard.cost.v1 import cost_service_pb2 as pb
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_engines import Postgres

from .yard import Yard, new_id, release, reserve

pytestmark = pytest.mark.engines

PRICE = Price(unit=PriceUnit.PRICE_UNIT_NODE_HOUR, micro_usd_per_hour=1_000_000)


async def test_the_service_answers_again_after_the_database_was_killed(
    own_yard: Yard, own_postgres: Postgres
) -> None:
    request = pb.SetPriceRequest(request_id=new_id(), price=PRICE)
    request.price.effective_from.GetCurrentTime()
    request.price.effective_from.seconds -= 10**8
    first = await own_yard.cost.SetPrice(request)
    await reserve(own_yard.log, "r1", 0)
    end = await release(own_yard.log, "r1", 60)
    before = await own_yard.run_cost("r1", end)

    assert own_postgres.process is not None
    own_postgres.process.kill()
    await own_postgres.process.wait()
    with pytest.raises(grpc.aio.AioRpcError) as away:
        await own_yard.cost.SetPrice(request, timeout=20)
    assert away.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as away:
        await own_yard.run_cost("r1", 0)
    assert away.value.code() == grpc.StatusCode.UNAVAILABLE

    await own_postgres.start()
    await own_postgres.ready()
    assert await until_answered(own_yard.cost.SetPrice, request) == first
    again = pb.GetRunCostRequest(run_id="r1", read=ReadOptions(min_position=end))
    assert (await own_yard.cost.GetRunCost(again)).cost == before.cost
    later = await release_after(own_yard)
    assert (await own_yard.run_cost("r2", later)).cost.micro_usd == 1_000_000


async def release_after(yard: Yard) -> int:
    await reserve(yard.log, "r2", 120)
    return await release(yard.log, "r2", 180)


async def until_answered(
    call: grpc.aio.UnaryUnaryMultiCallable[pb.SetPriceRequest, pb.SetPriceResponse],
    request: pb.SetPriceRequest,
) -> pb.SetPriceResponse:
    """Retry as a client does: UNAVAILABLE means to try again."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await call(request)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
