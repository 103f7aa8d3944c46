"""Carries the service's one command out: a line for the price book."""

from __future__ import annotations

from dataclasses import dataclass

from runyard.cost.v1.events_pb2 import PriceSet
from runyard.cost.v1.types_pb2 import Price
from runyard_contracts.envelope import Context
from runyard_contracts.ids import CommandId, Position, deterministic_id, stream_name
from runyard_core.clock import Clock
from runyard_cost.domain.price import PRICE, SetPrice, check_price
from runyard_cost.projections.leases import milliseconds_of
from runyard_eventlog.handler import execute, load
from runyard_eventlog.port import EventLog


@dataclass(frozen=True, slots=True)
class Request:
    """Who asked for a command, and how a repetition of it is known."""

    command_id: CommandId
    digest: bytes
    """SHA-256 of the request."""
    context: Context


class Handlers:
    """The service's commands."""

    def __init__(self, event_log: EventLog, clock: Clock) -> None:
        """Append to this log."""
        self._log = event_log
        self._clock = clock

    async def set_price(self, wanted: Price, request: Request) -> tuple[Price, Position]:
        """Add a line to the price book, from now on unless it says when; gives it with its position.

        It holds from a whole millisecond on.

        Raises:
            InvalidInput: it cannot be a line; see ``check_price``.
            IdReused: the request id came before with other content.
            Unavailable: the log did not answer in time; repeating the request is safe.
        """
        now = self._clock.now()
        price = Price()
        price.CopyFrom(wanted)
        # The same request always means the same line.
        price.price_id = deterministic_id("price", request.command_id)
        if not price.HasField("effective_from"):
            price.effective_from.FromDatetime(now)
        check_price(price)
        # Time is paid for in milliseconds, so nobody shall read a finer one.
        price.effective_from.FromMilliseconds(milliseconds_of(price.effective_from))
        stream = stream_name("price", price.price_id)
        executed = await execute(
            self._log,
            stream,
            PRICE,
            SetPrice(price),
            request.context,
            command_id=request.command_id,
            now=now,
            request_digest=request.digest,
        )
        for event in await load(self._log, stream):
            if isinstance(event.message, PriceSet):
                return event.message.price, executed.position
        raise AssertionError(f"stream {stream} has no price.set")
