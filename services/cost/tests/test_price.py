from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard_core.errors import InvalidInput
from runyard_cost.domain.price import MICRO_USD_PER_HOUR_MAX, PRICE, SetPrice, check_price
from runyard_testkit import given

GPU_HOUR = PriceUnit.PRICE_UNIT_GPU_HOUR
NODE_HOUR = PriceUnit.PRICE_UNIT_NODE_HOUR
NOON = Timestamp(seconds=1_800_000_000)


def test_a_line_is_set_once() -> None:
    price = Price(price_id="p", unit=GPU_HOUR, micro_usd_per_hour=1, effective_from=NOON)
    given(PRICE).when(SetPrice(price)).then(PriceSet(price=price)).when(SetPrice(price)).then_nothing()


@pytest.mark.parametrize(
    "price",
    [
        Price(unit=GPU_HOUR, effective_from=NOON),
        Price(unit=NODE_HOUR, node_id="node-1", micro_usd_per_hour=MICRO_USD_PER_HOUR_MAX),
        Price(unit=GPU_HOUR, gpu_model="NVIDIA H100 80GB HBM3", note="n" * 1_000),
        Price(unit=GPU_HOUR, gpu_model="L" * 200, effective_from=Timestamp(seconds=0)),
        Price(unit=GPU_HOUR, micro_usd_per_hour=10**12, effective_from=Timestamp(seconds=4_102_444_800)),
    ],
)
def test_a_good_line_is_taken(price: Price) -> None:
    check_price(price)


@pytest.mark.parametrize(
    ("price", "code"),
    [
        (Price(unit=GPU_HOUR, node_id="node-1", gpu_model="L4"), "BAD_PRICE_SCOPE"),
        (Price(unit=GPU_HOUR, node_id="Node 1"), "BAD_PRICE_SCOPE"),
        (Price(unit=GPU_HOUR, gpu_model="L\0"), "BAD_PRICE_SCOPE"),
        (Price(unit=GPU_HOUR, gpu_model="L" * 201), "BAD_PRICE_SCOPE"),
        (Price(), "BAD_PRICE_UNIT"),
        (Price(unit=NODE_HOUR, gpu_model="L4"), "BAD_PRICE_UNIT"),
        (Price(unit=GPU_HOUR, micro_usd_per_hour=-1), "BAD_PRICE_AMOUNT"),
        (Price(unit=GPU_HOUR, micro_usd_per_hour=10**12 + 1), "BAD_PRICE_AMOUNT"),
        (Price(unit=GPU_HOUR, effective_from=Timestamp(seconds=-1)), "BAD_PRICE_TIME"),
        (Price(unit=GPU_HOUR, effective_from=Timestamp(seconds=4_102_444_801)), "BAD_PRICE_TIME"),
        (Price(unit=GPU_HOUR, note="n" * 1_001), "BAD_PRICE_NOTE"),
        (Price(unit=GPU_HOUR, note="half a year\0"), "BAD_PRICE_NOTE"),
    ],
)
def test_a_bad_line_is_refused_by_its_field(price: Price, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_price(price)
    assert refused.value.code == code
    assert all(field.startswith("price.") for field in refused.value.field_violations)
