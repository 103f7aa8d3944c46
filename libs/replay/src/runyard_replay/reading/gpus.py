"""Every node with its GPUs and who held them, as of a position.

Where the log has an index, leases are not read from the first on. The index says how many were held: these
are looked for among the newest, back from the position. It takes what the scheduler sees to: a lease is
reserved once and released once, on a node that enrolled before. Where what is found does not fit, all events
of nodes are folded, as they are without an index.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import GpuState
from runyard.node.v1.events_pb2 import NodeGpusReleased, NodeGpusReserved
from runyard.node.v1.types_pb2 import Node
from runyard_contracts.ids import Position, StreamName, stream_id, stream_name
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import BY_NAME
from runyard_core.fan_out import fan_out
from runyard_eventlog.port import EventFilter, EventLog
from runyard_eventlog.stream_index import stream_index_of
from runyard_replay.folding.leases import LEASE_TYPES
from runyard_replay.folding.nodes import ForeignProcesses, apply_to_node, foreign_after
from runyard_replay.reading.pages import read_pages
from runyard_replay.views import readable

_PREFIX = "runyard.node."
_OTHER_TYPES = tuple(sorted(name for name in BY_NAME if name.startswith(_PREFIX) and name not in LEASE_TYPES))
WALK_EVENTS = 2_000
"""Of a page on the way back."""
_QUIET_NODES_MAX = 200
"""Nodes without any of the leases looked at, whose newest events are looked up; with more, all is folded."""
_NODES_AT_ONCE = 3


async def gpus_as_of(
    event_log: EventLog, position: int, *, skipped: int = 0, limit: int | None = None
) -> GpuState:
    """Give nodes by name, with who held their GPUs and what processes of nobody's attempt were on them.

    Args:
        event_log: what to read.
        position: of the domain lane.
        skipped: nodes at the front that are left out.
        limit: most nodes to give; None for all.

    Raises:
        Unavailable: the log did not answer in time.
    """
    fold = await _indexed(event_log, position) or await _fold(event_log, position, (_PREFIX,))
    names = sorted(fold.nodes)[skipped:]
    shown = names[:limit]
    return GpuState(
        nodes=[fold.nodes[name] for name in shown],
        foreign_processes=[process for name in shown for process in fold.foreign[name].values()],
        more_node_count=len(names) - len(shown),
    )


@dataclass(slots=True)
class _Nodes:
    """Folds events of nodes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    foreign: dict[str, ForeignProcesses] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    """Of their streams."""

    def apply(self, event: RecordedEvent) -> None:
        node_id = stream_id(event.envelope.stream)
        node = self.nodes.get(node_id)
        if node is None:
            node = self.nodes[node_id] = Node(node_id=node_id)
        apply_to_node(node, event)
        self.foreign[node_id] = foreign_after(self.foreign.get(node_id, {}), event)
        self.versions[node_id] = event.envelope.stream_version


@dataclass(slots=True)
class _Newest:
    """Goes through leases from the newest back."""

    held: dict[tuple[str, str], RecordedEvent] = field(default_factory=dict)
    """By node and lease: reservations without a release, the newest first."""
    released: set[tuple[str, str]] = field(default_factory=set)
    """Those whose reservation is further back."""
    last_positions: dict[str, int] = field(default_factory=dict)
    """Of the newest event of each node."""
    is_whole: bool = False
    """It went back to the first event."""

    def add(self, event: RecordedEvent) -> bool:
        """Go on with the event before; False for one that cannot be, or that this version cannot read."""
        message, node_id = readable(event), stream_id(event.envelope.stream)
        if not isinstance(message, NodeGpusReserved | NodeGpusReleased):
            return False
        self.last_positions.setdefault(node_id, event.position)
        lease = (node_id, message.lease_id)
        if isinstance(message, NodeGpusReleased):
            if lease in self.released or lease in self.held:
                return False
            self.released.add(lease)
        elif lease in self.released:
            self.released.remove(lease)
        elif lease in self.held:
            return False
        else:
            self.held[lease] = event
        return True


async def _fold(event_log: EventLog, position: int, types: Sequence[str]) -> _Nodes:
    fold = _Nodes()
    pages = read_pages(event_log, Lane.LANE_DOMAIN, after=0, to=position, wanted=EventFilter(types=types))
    async with aclosing(pages):
        async for page in pages:
            for event in page.events:
                if readable(event) is not None:
                    fold.apply(event)
    return fold


async def _indexed(event_log: EventLog, position: int) -> _Nodes | None:
    """Fold what else happened to nodes, and the leases that were held; None where it takes all events."""
    held_count = await _held_count(event_log, position)
    newest = None if held_count is None else await _newest(event_log, position, held_count)
    if newest is None:
        return None
    fold = await _fold(event_log, position, _OTHER_TYPES)
    last = newest.last_positions
    quiet = [] if newest.is_whole else [node_id for node_id in fold.nodes if node_id not in last]
    if not last.keys() <= fold.nodes.keys() or len(quiet) > _QUIET_NODES_MAX:
        return None

    async def look_up(node_id: str) -> RecordedEvent | None:
        return await _last_event(event_log, node_id, fold.versions[node_id], position)

    found = [event for event in await fan_out(_NODES_AT_ONCE, look_up, quiet) if event is not None]
    if any(readable(event) is None for event in found):
        return None
    last |= {stream_id(event.envelope.stream): event.position for event in found}
    before = {node_id: node.position for node_id, node in fold.nodes.items()}
    for event in reversed(newest.held.values()):
        fold.apply(event)
    for node_id, node in fold.nodes.items():
        node.position = max(before[node_id], last.get(node_id, 0))
    return fold


async def _held_count(event_log: EventLog, position: int) -> int | None:
    """Count the leases that were held; None where there is no index that tells it."""
    index = await stream_index_of(event_log)
    if index is None:
        return None
    # Of a stream that there is not, so all are elsewhere.
    (_, reserved), (_, released) = await asyncio.gather(
        *(index.counts(type_name, StreamName(""), position) for type_name in LEASE_TYPES)
    )
    # A partition may have been detached meanwhile.
    return reserved - released if await stream_index_of(event_log) is not None else None


async def _newest(event_log: EventLog, position: int, held_count: int) -> _Newest | None:
    """Go back until so many reservations without a release are found; None where these do not fit."""
    newest, high = _Newest(), position
    wanted = EventFilter(types=LEASE_TYPES)
    while high > 0:
        page = await event_log.read(
            Lane.LANE_DOMAIN,
            to_position=Position(high),
            filter=wanted,
            limit=WALK_EVENTS,
            descending=True,
        )
        if not all(newest.add(event) for event in page.events):
            return None
        high = page.scanned_to - 1
        if len(newest.held) >= held_count:
            break
    newest.is_whole = high <= 0
    return newest if len(newest.held) == held_count else None


async def _last_event(event_log: EventLog, node_id: str, version: int, to: int) -> RecordedEvent | None:
    """Give the newest event of a node behind a version that it has, up to a position; None if there is none.

    Versions have no gaps, so it takes some twenty reads of one event for a thousand behind that version.
    """
    stream, found = stream_name("node", node_id), None

    async def at(wanted: int) -> RecordedEvent | None:
        events = await event_log.read_stream(
            stream, after_version=wanted - 1, to_position=Position(to), limit=1
        )
        return events[0] if events else None

    step = 1
    while (event := await at(version + step)) is not None:
        version, found, step = version + step, event, 2 * step
    missing = version + step
    while missing - version > 1:
        middle = (version + missing) // 2
        event = await at(middle)
        if event is None:
            missing = middle
        else:
            version, found = middle, event
    return found
