"""How far a spool is in the log, found in the log alone."""

from __future__ import annotations

from runyard_contracts.ids import EventId, deterministic_id
from runyard_eventlog.port import EventLog
from runyard_metrics.domain.spools import SpoolKey


async def mark_in_log(event_log: EventLog, key: SpoolKey, known: int) -> int:
    """Find the last sequence that the log has of a spool, at or after a known one.

    Event ids follow from node, spool and sequence, and a stream has no gaps, so doubling steps and halving
    find the end in about 2 log2(n) look-ups, without a read model and without reading the stream.

    Raises:
        Unavailable: the log did not answer in time.
    """

    async def has(sequence: int) -> bool:
        event_id = EventId(deterministic_id(key.node_id, key.spool_id, sequence))
        return await event_log.find(event_id) is not None

    low, step = known, 1
    while await has(low + step):
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await has(middle) else (low, middle)
    return low
