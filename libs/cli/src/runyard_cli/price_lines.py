"""Lines of a price book."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard_cli.table import Row
from runyard_cli.words import exact_words, money_words

PRICE_HEADINGS = ("FOR", "PRICE", "PER", "FROM", "NOTE")
_UNIT_WORDS: Mapping[int, str] = {
    PriceUnit.PRICE_UNIT_GPU_HOUR: "GPU-hour",
    PriceUnit.PRICE_UNIT_NODE_HOUR: "node-hour",
}


def price_rows(prices: Iterable[Price]) -> list[Row]:
    """Give the lines of prices, each with the exact time from which it holds: who corrects it needs that."""
    return [
        (
            f"node {price.node_id}" if price.node_id else price.gpu_model or "all",
            money_words(price.micro_usd_per_hour),
            _UNIT_WORDS.get(price.unit, ""),
            exact_words(price.effective_from),
            price.note,
        )
        for price in prices
    ]
