"""Decides what may go into the price book."""

from __future__ import annotations

import re
from dataclasses import dataclass

from google.protobuf.message import Message

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price, PriceUnit
from runyard_contracts.ids import is_name
from runyard_core.decider import Decider
from runyard_core.errors import InvalidInput

MICRO_USD_PER_HOUR_MAX = 10**12
"""A million dollars an hour."""

NOTE_LENGTH_MAX = 1_000
"""Longest note."""

_GPU_MODEL = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_EARLIEST_SECONDS = 0
_LATEST_SECONDS = 4_102_444_800
"""The year 2100."""


@dataclass(frozen=True, slots=True)
class SetPrice:
    """Add a line to the price book."""

    price: Price


@dataclass(frozen=True, slots=True)
class PriceState:
    """One line of the price book: a price id is set once."""

    is_set: bool = False


def check_price(price: Price) -> None:
    """Refuse what cannot be a line of the price book.

    Raises:
        InvalidInput: BAD_PRICE_SCOPE, BAD_PRICE_UNIT, BAD_PRICE_AMOUNT, BAD_PRICE_TIME or BAD_PRICE_NOTE.
    """
    if price.node_id and price.gpu_model:
        raise _invalid("BAD_PRICE_SCOPE", "gpu_model", "a price is for a node or a GPU model, not for both")
    if price.node_id and not is_name(price.node_id):
        raise _invalid("BAD_PRICE_SCOPE", "node_id", f"{price.node_id[:80]!r} is not a node id")
    if price.gpu_model and _GPU_MODEL.fullmatch(price.gpu_model) is None:
        raise _invalid("BAD_PRICE_SCOPE", "gpu_model", "want 1 to 200 characters without controls")
    if price.unit not in (PriceUnit.PRICE_UNIT_GPU_HOUR, PriceUnit.PRICE_UNIT_NODE_HOUR):
        raise _invalid("BAD_PRICE_UNIT", "unit", "want PRICE_UNIT_GPU_HOUR or PRICE_UNIT_NODE_HOUR")
    if price.gpu_model and price.unit == PriceUnit.PRICE_UNIT_NODE_HOUR:
        raise _invalid("BAD_PRICE_UNIT", "unit", "a GPU model has GPU-hours; price the node instead")
    if not 0 <= price.micro_usd_per_hour <= MICRO_USD_PER_HOUR_MAX:
        raise _invalid(
            "BAD_PRICE_AMOUNT",
            "micro_usd_per_hour",
            f"{price.micro_usd_per_hour} is not within 0 to {MICRO_USD_PER_HOUR_MAX} micro-dollars",
        )
    if not _EARLIEST_SECONDS <= price.effective_from.seconds <= _LATEST_SECONDS:
        raise _invalid("BAD_PRICE_TIME", "effective_from", "want a time from 1970 to 2100")
    if len(price.note) > NOTE_LENGTH_MAX:
        raise _invalid("BAD_PRICE_NOTE", "note", f"longer than {NOTE_LENGTH_MAX} characters")
    if "\0" in price.note:
        raise _invalid("BAD_PRICE_NOTE", "note", "it has a NUL character")


def decide(state: PriceState, command: SetPrice) -> list[Message]:
    """Give the event of a new line; none when it is there."""
    return [] if state.is_set else [PriceSet(price=command.price)]


def evolve(state: PriceState, event: Message) -> PriceState:
    """Give the state after an event."""
    return PriceState(is_set=True) if isinstance(event, PriceSet) else state


def _invalid(code: str, field: str, problem: str) -> InvalidInput:
    return InvalidInput(f"price.{field}: {problem}", code=code, field_violations={f"price.{field}": problem})


PRICE: Decider[PriceState, SetPrice, Message] = Decider(initial=PriceState(), decide=decide, evolve=evolve)
