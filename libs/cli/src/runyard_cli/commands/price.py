"""``runyard price``: the price book, in dollars an hour."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from runyard.cost.v1.cost_service_pb2 import (
    ListPricesRequest,
    ListPricesResponse,
    SetPriceRequest,
    SetPriceResponse,
)
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard.run.v1.scheduler_service_pb2 import ListNodesRequest
from runyard_cli import output
from runyard_cli.examples import examples
from runyard_cli.history.moments import time_of
from runyard_cli.output import is_json, output_option, say_json, say_list
from runyard_cli.pages import PAGE_SIZE, every_page
from runyard_cli.price_lines import PRICE_HEADINGS, price_rows
from runyard_cli.session import converse
from runyard_cli.table import say_table
from runyard_client import Client, ClientError
from runyard_contracts.ids import uuid7


class TimeType(click.ParamType[Timestamp]):
    """A time in ISO 8601, of this machine's zone unless it says; prices hold from a millisecond on."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Timestamp:
        """Read one."""
        if isinstance(value, Timestamp):
            return value
        found = time_of(str(value).strip())
        if found is None:
            self.fail(f"{value!r}: want a time like 2026-11-01 or 2026-11-22T13:50:00.25Z", param, ctx)
        return found.time


@click.group("price", epilog=examples("price list", "price set 2.50 --per gpu-hour"))
def command() -> None:
    """The price book: what an hour of a GPU or node costs, from a time on."""


@command.command(
    "set",
    epilog=examples(
        "price set 2.50 --per gpu-hour",
        "price set 4.10 --per node-hour --node gpu-1 --from 2026-11-01 --note 'new contract'",
    ),
)
@click.argument("usd_per_hour", metavar="USD")
@click.option(
    "--per", type=click.Choice(["gpu-hour", "node-hour"]), required=True, help="What an hour is of."
)
@click.option("--node", default="", metavar="NODE", help="Only this machine.")
@click.option("--gpu-model", default="", metavar="MODEL", help="Only this GPU model (see `runyard gpus`).")
@click.option(
    "--from",
    "effective_from",
    type=TimeType(),
    metavar="TIME",
    help="From when on, by default now: 2026-11-01, or what `price list --output json` says of the price "
    "that it takes the place of.",
)
@click.option("--note", default="", metavar="TEXT", help="Why, for people.")
@output_option
def set_price(
    usd_per_hour: str, per: str, node: str, gpu_model: str, effective_from: Timestamp | None, note: str
) -> None:
    """Set a price of USD an hour. Without --node or --gpu-model it is the default for all.

    A past time restates the past, up to the next price for the same machines. To put a wrong price right,
    give exactly the time from which the wrong one holds.
    """
    if node and gpu_model:
        raise click.UsageError("--node and --gpu-model do not go together: set two prices")
    price = Price(
        node_id=node,
        gpu_model=gpu_model,
        unit=PriceUnit.PRICE_UNIT_GPU_HOUR if per == "gpu-hour" else PriceUnit.PRICE_UNIT_NODE_HOUR,
        micro_usd_per_hour=micro_usd(usd_per_hour),
        note=note,
    )
    if effective_from is None:
        price.effective_from.GetCurrentTime()
    else:
        price.effective_from.CopyFrom(effective_from)

    async def ask(client: Client) -> tuple[SetPriceResponse, str]:
        answer = await client.costs.SetPrice(SetPriceRequest(request_id=uuid7(), price=price))
        return answer, "" if is_json() else await _of_nothing_yet(client, price)

    answer, remark = converse(ask)
    if is_json():
        say_json(answer)
        return
    _say_prices([answer.price])
    if remark:
        output.note(output.safe(remark))


@command.command("list", epilog=examples("price list", "price list --output json"))
@output_option
def list_prices() -> None:
    """List the price book."""

    async def ask(client: Client) -> ListPricesResponse:
        return await every_page(client.costs.ListPrices, ListPricesRequest(page_size=PAGE_SIZE))

    answer = converse(ask)
    nothing = "no prices yet: `runyard price set USD --per gpu-hour` sets one"
    say_list(answer, answer.prices, _say_prices, nothing=nothing)


async def _of_nothing_yet(client: Client, price: Price) -> str:
    """Say that no machine has this price yet: maybe it is ahead of its machine, maybe the name is wrong."""
    if not (price.node_id or price.gpu_model):
        return ""
    try:
        request = ListNodesRequest(page_size=PAGE_SIZE)
        nodes = (await every_page(client.scheduler.ListNodes, request)).nodes
    except ClientError:
        # The price is set; who else answers is another matter.
        return ""
    if price.node_id and all(node.node_id != price.node_id for node in nodes):
        return f"no node {price.node_id} is known yet: `runyard nodes` names them"
    models = {gpu.model for node in nodes for gpu in node.inventory.gpus}
    if price.gpu_model and price.gpu_model not in models:
        return f"no GPU {price.gpu_model!r} is known yet; there are {', '.join(sorted(models)) or 'none'}"
    return ""


def micro_usd(text: str) -> int:
    """Read dollars, exactly: "2.5" is 2,500,000 micro-dollars."""
    try:
        amount = Decimal(text.removeprefix("$")) * 1_000_000
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount != amount.to_integral_value() or amount > 10**15:
        raise click.BadParameter(
            f"{text!r}: want dollars and at most six decimals, like 2.50", param_hint="USD"
        )
    return int(amount)


def _say_prices(prices: Sequence[Price]) -> None:
    say_table(PRICE_HEADINGS, price_rows(prices), right=(1,))
