"""Leases and the price book as they were at a position.

Where the log has an index, it says where leases began and ended. All of these events are looked at, as whose
a lease is stands in its payload, but of each only what decides a cost is parsed, of a hundred as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing

from google.protobuf.message import DecodeError

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.lease_glance_pb2 import LeaseGlances
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard_contracts.ids import StreamName
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import event_type_of
from runyard_core.fan_out import fan_out
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.stream_index import PAYLOADS_EACH, PAYLOADS_TOGETHER, StreamIndex, stream_index_of
from runyard_replay.folding.leases import EVENT_TYPES, LEASE_TYPES, PRICE_TYPE, LeaseFold
from runyard_replay.reading.pages import read_pages
from runyard_replay.views import UNREADABLE

_PAYLOADS_AT_ONCE = 3
_RESERVED_VERSION, _RELEASED_VERSION = (
    event_type_of(message).schema_version for message in (NodeGpusReserved, NodeGpusReleased)
)


async def lease_fold(event_log: EventLog, position: int, project: str = "") -> LeaseFold:
    """Fold the price book and leases up to a position.

    Args:
        event_log: what to read.
        position: of the domain lane.
        project: whose sums are wanted, and nobody else's; leases that have no part in them may be left out.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await _indexed(event_log, position, project) or await _fold(event_log, position, EVENT_TYPES)


async def price_fold(event_log: EventLog, position: int) -> LeaseFold:
    """Fold the price book alone.

    Raises:
        Unavailable: the log did not answer in time.
    """
    return await _fold(event_log, position, (PRICE_TYPE,))


async def _fold(event_log: EventLog, position: int, types: Sequence[str]) -> LeaseFold:
    fold = LeaseFold()
    pages = read_pages(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=EventFilter(types=types))
    async with aclosing(pages):
        async for page in pages:
            for event in page.events:
                _apply(fold, event)
    return fold


def _apply(fold: LeaseFold, event: RecordedEvent) -> None:
    try:
        fold.apply(event)
    except UNREADABLE:
        return


async def _indexed(event_log: EventLog, position: int, project: str) -> LeaseFold | None:
    """Fold what the index leads to; None where there is none that knows all of the lane."""
    index = await stream_index_of(event_log)
    if index is None:
        return None
    fold = await price_fold(event_log, position)
    if not fold.has_node_prices():
        fold.only_project = project
    # Of a stream that there is not, so all are elsewhere.
    (_, reserved), (_, released) = await asyncio.gather(
        *(index.positions(type_name, StreamName(""), 1, position) for type_name in LEASE_TYPES)
    )
    ends = frozenset(released)
    positions = sorted((*reserved, *released))
    parts = [positions[start : start + PAYLOADS_EACH] for start in range(0, len(positions), PAYLOADS_EACH)]
    for start in range(0, len(parts), _PAYLOADS_AT_ONCE):
        some = parts[start : start + _PAYLOADS_AT_ONCE]
        found = await fan_out(_PAYLOADS_AT_ONCE, index.payloads, some)
        for part, groups in zip(some, found, strict=True):
            await _glance(fold, index, part, groups, ends)
    # A partition may have been detached meanwhile.
    return fold if await stream_index_of(event_log) is not None else None


async def _glance(
    fold: LeaseFold, index: StreamIndex, part: Sequence[int], groups: Sequence[bytes], ends: Collection[int]
) -> None:
    """Let a fold go on with the events at some positions; those that cannot be glanced at are read."""
    for start, payloads in zip(range(0, len(part), PAYLOADS_TOGETHER), groups, strict=True):
        together = part[start : start + PAYLOADS_TOGETHER]
        glances = _glanced(payloads, [position in ends for position in together])
        if glances is None:
            for event in await index.events(together):
                _apply(fold, event)
            continue
        for position, event_id, occurred_at, lease in zip(
            together, glances.event_id, glances.occurred_at, glances.data, strict=True
        ):
            if position in ends:
                fold.release(lease.lease_id, event_id, occurred_at)
            else:
                fold.reserve(lease, event_id, occurred_at)
        # Others have their turn between.
        await asyncio.sleep(0)


def _glanced(payloads: bytes, is_end: Sequence[bool]) -> LeaseGlances | None:
    """Parse events together; None where one has not each field once, or is of another schema version."""
    try:
        glances = LeaseGlances.FromString(payloads)
    except DecodeError:
        return None
    versions = [_RELEASED_VERSION if ends else _RESERVED_VERSION for ends in is_end]
    counts = {len(glances.event_id), len(glances.occurred_at), len(glances.data), len(is_end)}
    return glances if len(counts) == 1 and glances.schema_version == versions else None
