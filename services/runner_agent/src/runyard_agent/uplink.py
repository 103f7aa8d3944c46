"""The agent's side of the Attach stream: leases and stops come down, renewals and reports go up.

The stream may break at any moment and is opened anew for ever. What matters survives it: reports wait on
disk until acknowledged, and grants and stops that are still wanted come again after each Welcome.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import grpc

from runyard.agent.v1.agent_service_pb2 import (
    AttachRequest,
    AttachResponse,
    AttemptReport,
    ForeignProcess,
    HandsOnOrder,
    HeldAttempt,
    Hello,
    LeaseGrant,
    LeaseRenewal,
    LeaseRenewed,
    StopOrder,
    Welcome,
)
from runyard.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from runyard.node.v1.types_pb2 import NodeInventory
from runyard_agent.gate import Gate, open_channel
from runyard_contracts import gate as gate_names
from runyard_core.retry import Backoff, Retries
from runyard_core.task_group import TaskGroup

logger = logging.getLogger(__name__)

_WELCOME_SECONDS_MAX = 15.0
_WRITE_SECONDS_MAX = 15.0
_SILENT_HEARTBEATS_MAX = 3
_SILENT_SECONDS_MIN = 10.0
_LASTING_SECONDS = 10.0
_BACKOFF = Backoff(first_seconds=0.2, seconds_max=15.0)
_INVENTORY_SECONDS = 60.0
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

AttachCall = grpc.aio.StreamStreamCall[AttachRequest, AttachResponse]


class Attempts(Protocol):
    """What the uplink needs to know of the attempts, and whom it tells."""

    def held(self) -> Sequence[HeldAttempt]:
        """Give everything that we hold."""
        ...

    def pending_reports(self) -> Iterable[AttemptReport]:
        """Give the reports that nobody has acknowledged, in the order to send."""
        ...

    async def grant(self, grant: LeaseGrant, expires_at_boottime_seconds: float) -> None:
        """Take an attempt on; nothing happens when it is held."""
        ...

    def stop(self, order: StopOrder) -> None:
        """End an attempt."""
        ...

    def fence(self, fenced: HeldAttempt) -> None:
        """End an attempt that is not wanted any more."""
        ...

    def renew(self, lease_id: str, sent_at_boottime_seconds: float) -> None:
        """Count a lease from the moment at which its renewal was sent."""
        ...

    def acknowledge(self, report_id: str, rejected_reason: str) -> None:
        """The log has a report, or will never take it."""
        ...


class SilentSchedulerError(Exception):
    """The stream is open, but the scheduler does not answer on it."""


class Uplink:
    """Keeps the stream to the scheduler open."""

    def __init__(
        self,
        address: str,
        token: str,
        node_id: str,
        inventory: Callable[[], Awaitable[NodeInventory]],
        attempts: Attempts,
        gate: Gate | None = None,
    ) -> None:
        """Prepare; nothing is sent before ``run``."""
        self._address = address
        self._gate = gate
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._node_id = node_id
        self._inventory = inventory
        self._attempts = attempts
        self._news = asyncio.Event()
        self._held_changed = asyncio.Event()
        self._inventory_changed = asyncio.Event()
        self._foreign: dict[str, ForeignProcess] = {}
        self.hands_on_ordered: Callable[[HandsOnOrder], None] = lambda _: None
        """Called when a hands-on session waits for us; must return at once."""

    def open_own_channel(self) -> grpc.aio.Channel:
        """Open a connection to the scheduler that shares nothing with the one that carries leases."""
        options = (*_CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        return open_channel(self._address, self._gate, gate_names.SCHEDULER, options)

    def reports_changed(self) -> None:
        """Say that there is a report to send."""
        self._news.set()

    def held_changed(self) -> None:
        """Say that an attempt was taken on: renew at once, so that the scheduler knows."""
        self._held_changed.set()

    def inventory_changed(self) -> None:
        """Say that the machine has changed: a GPU that failed must not wait for the next look."""
        self._inventory_changed.set()

    def tell_foreign(self, process: ForeignProcess) -> None:
        """Tell of a process that is not ours; kept until acknowledged, not over a restart."""
        self._foreign[process.report_id] = process
        self._news.set()

    async def run(self) -> None:
        """Attach for ever: one stream after the other, until cancelled."""
        # A stream that ends at once counts as a failure: two agents of one name must not race.
        retries = Retries("attaching to the scheduler", _BACKOFF, logger)
        async with open_channel(self._address, self._gate, gate_names.SCHEDULER, _CHANNEL_OPTIONS) as channel:
            stub: AgentServiceStub = AgentServiceStub(channel)
            while True:
                session = _Session(
                    self._attempts,
                    self._inventory,
                    self._news,
                    self._held_changed,
                    self._inventory_changed,
                    self._foreign,
                    self.hands_on_ordered,
                    retries.succeeded,
                )
                try:
                    call = stub.Attach(metadata=self._metadata)
                    hello = Hello(
                        node_id=self._node_id,
                        inventory=await self._inventory(),
                        held_attempts=self._attempts.held(),
                    )
                    await session.run(call, hello)
                except* _BREAKS as errors:
                    if session.has_lasted:
                        retries.succeeded()
                    await retries.pause(errors, _reason(errors))


# A write to a stream that has just ended is an InvalidStateError.
_BREAKS = (grpc.aio.AioRpcError, SilentSchedulerError, TimeoutError, OSError, asyncio.InvalidStateError)


class _Session:
    """One stream, from Hello to its end."""

    def __init__(
        self,
        attempts: Attempts,
        inventory: Callable[[], Awaitable[NodeInventory]],
        news: asyncio.Event,
        held_changed: asyncio.Event,
        inventory_changed: asyncio.Event,
        foreign: dict[str, ForeignProcess],
        hands_on_ordered: Callable[[HandsOnOrder], None],
        lasts: Callable[[], None],
    ) -> None:
        self._attempts = attempts
        self._inventory = inventory
        self._news = news
        self._held_changed = held_changed
        self._inventory_changed = inventory_changed
        self._foreign = foreign
        self._hands_on_ordered = hands_on_ordered
        self._lasts = lasts
        self._sent_reports: set[str] = set()
        self._sent_at: dict[int, float] = {}
        self._renewed_from = _boottime()
        self._heard_at = time.monotonic()
        self._writing = asyncio.Lock()
        self._welcome_at = math.inf

    @property
    def has_lasted(self) -> bool:
        """Whether the scheduler has heard us for a while."""
        return time.monotonic() - self._welcome_at > _LASTING_SECONDS

    async def run(self, call: AttachCall, hello: Hello) -> None:
        """Speak until the stream breaks; always ends by an error."""
        try:
            self._renewed_from = _boottime()
            await self._write(call, AttachRequest(hello=hello))
            async with asyncio.timeout(_WELCOME_SECONDS_MAX):
                first = await _read(call)
            if first.WhichOneof("message") != "welcome":
                raise SilentSchedulerError(f"expected Welcome, got {first.WhichOneof('message')}")
            self._take_welcome(first.welcome)
            async with TaskGroup() as group:
                group.create_task(self._listen(call))
                group.create_task(self._renew(call, first.welcome.heartbeat_milliseconds / 1000))
                group.create_task(self._send_reports(call))
                group.create_task(self._tell_inventory(call, hello.inventory))
        finally:
            call.cancel()

    def _take_welcome(self, welcome: Welcome) -> None:
        self._welcome_at = time.monotonic()
        logger.info("attached to the scheduler")
        for fenced in welcome.fenced_attempts:
            self._attempts.fence(fenced)

    async def _listen(self, call: AttachCall) -> None:
        while True:
            response = await _read(call)
            self._heard_at = time.monotonic()
            if self.has_lasted:
                self._lasts()
            match response.WhichOneof("message"):
                case "lease_grant":
                    grant = response.lease_grant
                    await self._attempts.grant(grant, self._renewed_from + grant.lease_milliseconds / 1000)
                case "lease_renewed":
                    self._take_renewed(response.lease_renewed)
                case "stop_order":
                    self._attempts.stop(response.stop_order)
                case "report_acknowledged":
                    acknowledged = response.report_acknowledged
                    self._foreign.pop(acknowledged.report_id, None)
                    self._attempts.acknowledge(acknowledged.report_id, acknowledged.rejected_reason)
                case "hands_on_order":
                    self._hands_on_ordered(response.hands_on_order)
                case other:
                    logger.warning("the scheduler said something that this agent does not know: %s", other)

    def _take_renewed(self, renewed: LeaseRenewed) -> None:
        sent_at = self._sent_at.pop(renewed.sequence, None)
        if sent_at is not None:
            self._renewed_from = sent_at
            for lease_id in renewed.lease_ids:
                self._attempts.renew(lease_id, sent_at)
        for fenced in renewed.fenced_attempts:
            self._attempts.fence(fenced)

    async def _renew(self, call: AttachCall, heartbeat_seconds: float) -> None:
        silent_seconds_max = max(_SILENT_SECONDS_MIN, heartbeat_seconds * _SILENT_HEARTBEATS_MAX)
        sequence = 0
        while True:
            sequence += 1
            self._held_changed.clear()
            self._sent_at[sequence] = _boottime()
            renewal = LeaseRenewal(sequence=sequence, held_attempts=self._attempts.held())
            await self._write(call, AttachRequest(lease_renewal=renewal))
            try:
                async with asyncio.timeout(heartbeat_seconds):
                    await self._held_changed.wait()
            except TimeoutError:
                pass
            silent_seconds = time.monotonic() - self._heard_at
            if silent_seconds > silent_seconds_max:
                raise SilentSchedulerError(f"nothing was heard for {silent_seconds:.0f} s")

    async def _send_reports(self, call: AttachCall) -> None:
        while True:
            self._news.clear()
            for report in self._attempts.pending_reports():
                if report.report_id not in self._sent_reports:
                    self._sent_reports.add(report.report_id)
                    await self._write(call, AttachRequest(report=report))
            for process in list(self._foreign.values()):
                if process.report_id not in self._sent_reports:
                    self._sent_reports.add(process.report_id)
                    await self._write(call, AttachRequest(foreign_process=process))
            await self._news.wait()

    async def _tell_inventory(self, call: AttachCall, told: NodeInventory) -> None:
        """Tell when the machine has changed: a daemon that came up, a GPU that went away."""
        while True:
            try:
                async with asyncio.timeout(_INVENTORY_SECONDS):
                    await self._inventory_changed.wait()
            except TimeoutError:
                pass
            self._inventory_changed.clear()
            now = await self._inventory()
            # Free space alone is no news: it changes with every byte.
            now.disk_free_bytes = told.disk_free_bytes
            if now != told:
                told = now
                await self._write(call, AttachRequest(inventory=now))

    async def _write(self, call: AttachCall, request: AttachRequest) -> None:
        # One at a time: the stream takes no second write before the first is through.
        async with asyncio.timeout(_WRITE_SECONDS_MAX), self._writing:
            await call.write(request)


async def _read(call: AttachCall) -> AttachResponse:
    response = await call.read()
    if isinstance(response, AttachResponse):
        return response
    raise SilentSchedulerError(
        f"the scheduler closed the stream: {await call.details() or await call.code()}"
    )


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_reason(inner) for inner in error.exceptions)
    return str(error) or type(error).__name__
