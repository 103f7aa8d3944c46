"""The graph in memory, gathered from events: for a log that no service has made tables of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter

from runyard_contracts.recorded import RecordedEvent
from runyard_replay.graph.facts import EdgeKey, facts
from runyard_replay.graph.rows import EdgeRow, VertexKey, VertexRow, described_after, edges_told


class GatheredGraph:
    """Fills ``Graph``. It is as of the last event that it was given, so positions are not looked at."""

    def __init__(self) -> None:
        """Start before the first event."""
        self._vertices: dict[VertexKey, VertexRow] = {}
        self._edges: set[EdgeKey] = set()
        self._up: dict[VertexKey, list[EdgeRow]] = defaultdict(list)
        self._down: dict[VertexKey, list[EdgeRow]] = defaultdict(list)
        self._runs: dict[tuple[str, int], str] = {}
        self._last_numbers: dict[str, int] = {}

    def apply(self, event: RecordedEvent) -> None:
        """Go on with the next event."""
        things, edges, numbered = facts(event.envelope, self._vertices.get)
        for thing in things:
            key: VertexKey = thing[:2]
            self._vertices[key] = described_after(thing, self._vertices.get(key), event.position)
        for columns in edges_told([key for key in edges if key not in self._edges], event):
            edge = EdgeRow(*columns)
            self._edges.add(edge.key)
            self._up[edge.source_kind, edge.source_id].append(edge)
            self._down[edge.target_kind, edge.target_id].append(edge)
        if numbered is not None:
            project, number, run_id = numbered
            self._runs[project, number] = run_id
            self._last_numbers[project] = number

    async def edges_up(self, sources: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:  # noqa: ARG002 - see the class
        """See ``Graph.edges_up``."""
        order = attrgetter("position", "relation", "target_kind", "target_id", "role")
        return [edge for key in sources for edge in sorted(self._up[key], key=order)][:limit]

    async def edges_down(self, targets: Sequence[VertexKey], position: int, limit: int) -> list[EdgeRow]:  # noqa: ARG002 - see the class
        """See ``Graph.edges_down``."""
        order = attrgetter("position", "relation", "source_kind", "source_id", "role")
        return [edge for key in targets for edge in sorted(self._down[key], key=order)][:limit]

    async def vertices(self, keys: Sequence[VertexKey], position: int) -> dict[VertexKey, VertexRow]:  # noqa: ARG002 - see the class
        """See ``Graph.vertices``."""
        return {key: self._vertices[key] for key in keys if key in self._vertices}

    async def starting_with(
        self,
        prefix: str,
        kinds: Sequence[int],
        position: int,  # noqa: ARG002 - see the class
        limit: int,
    ) -> list[VertexKey]:
        """See ``Graph.starting_with``."""
        return sorted(key for key in self._vertices if key[0] in kinds and key[1].startswith(prefix))[:limit]

    async def with_id(
        self,
        vertex_id: str,
        kinds: Sequence[int],
        position: int,  # noqa: ARG002 - see the class
        limit: int,
    ) -> list[VertexKey]:
        """See ``Graph.with_id``."""
        return sorted((kind, vertex_id) for kind in kinds if (kind, vertex_id) in self._vertices)[:limit]

    async def run_by_number(self, project: str, number: int | None, position: int) -> str | None:  # noqa: ARG002 - see the class
        """See ``Graph.run_by_number``."""
        wanted = self._last_numbers.get(project) if number is None else number
        return None if wanted is None else self._runs.get((project, wanted))
