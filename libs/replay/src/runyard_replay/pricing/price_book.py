"""Which price applies: the most specific scope wins, then the newest line of the price book."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from runyard.cost.v1.types_pb2 import PriceUnit


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One line of the price book."""

    price_id: str
    node_id: str
    """Empty unless the line is for one node."""
    gpu_model: str
    """Empty unless the line is for one GPU model. Both empty: the default."""
    unit: PriceUnit.ValueType
    micro_usd_per_hour: int
    effective_from_ms: int
    """Milliseconds since 1970."""
    position: int
    """Of its event; the later one of two lines with the same scope and time wins."""
    event_id: str


Scope = tuple[str, str]
"""node id and GPU model, either or both empty."""

DEFAULT_SCOPE: Scope = ("", "")


class PriceBook:
    """All lines, ordered so that the one that applies is found at once.

    A scope has one price at a time, its line with the newest ``effective_from``, whatever its unit. What
    holds no GPU has no GPU-hours, so only node-hour lines apply to it.
    """

    def __init__(self, lines: Iterable[PriceLine]) -> None:
        """Order the lines."""
        self._any: dict[Scope, list[PriceLine]] = defaultdict(list)
        self._node_hour: dict[Scope, list[PriceLine]] = defaultdict(list)
        for line in sorted(lines, key=lambda line: (line.effective_from_ms, line.position)):
            scope = (line.node_id, line.gpu_model)
            self._any[scope].append(line)
            if line.unit == PriceUnit.PRICE_UNIT_NODE_HOUR:
                self._node_hour[scope].append(line)

    def of_gpu(self, node_id: str, gpu_model: str, at_ms: int) -> PriceLine | None:
        """Give the line for a GPU of a node: the node's, else its model's, else the default."""
        for scope in ((node_id, ""), ("", gpu_model), DEFAULT_SCOPE):
            if line := _newest(self._any.get(scope, ()), at_ms):
                return line
        return None

    def of_slot(self, node_id: str, at_ms: int) -> PriceLine | None:
        """Give the line for a slot without GPUs: the node's node-hour line, else the default one."""
        for scope in ((node_id, ""), DEFAULT_SCOPE):
            if line := _newest(self._node_hour.get(scope, ()), at_ms):
                return line
        return None

    def changes_ms(self, node_id: str, gpu_models: Iterable[str]) -> set[int]:
        """Give every moment at which a price on a node may change, in milliseconds since 1970."""
        scopes = {(node_id, ""), DEFAULT_SCOPE, *(("", model) for model in gpu_models)}
        return {line.effective_from_ms for scope in scopes for line in self._any.get(scope, ())}


def _newest(lines: list[PriceLine] | tuple[()], at_ms: int) -> PriceLine | None:
    index = bisect_right(lines, at_ms, key=lambda line: line.effective_from_ms)
    return lines[index - 1] if index else None
