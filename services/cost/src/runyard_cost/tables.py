"""The read model of the cost service. Append-only: one row for each (key, position), never updated.

Money is not kept: a price that is set later for an earlier time restates the past, so costs are computed
from leases and prices when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from runyard_core.projection import TableSpec


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A line of the price book."""

    price_id: str
    node_id: str
    gpu_model: str
    unit: int
    """Number of a runyard.cost.v1.PriceUnit."""
    micro_usd_per_hour: int
    effective_from_ms: int
    """Milliseconds since 1970."""
    note: str
    event_id: str
    position: int


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """The time for which an attempt holds GPUs and a slot of a node."""

    node_id: str
    lease_id: str
    run_id: str
    attempt: int
    gpu_uuids: tuple[str, ...]
    gpu_models: tuple[str, ...]
    """One for each GPU."""
    reserved_at_ms: int
    """Milliseconds since 1970, by the scheduler's clock, like the next one."""
    released_at_ms: int | None
    reserved_event_id: str
    released_event_id: str
    """Empty while it holds them."""
    position: int


@dataclass(frozen=True, slots=True)
class RunLeaseRow:
    """Where to find a lease of a run."""

    run_id: str
    lease_id: str
    node_id: str
    position: int


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run that there is, whether it ever held anything or not."""

    run_id: str
    project: str
    position: int


@dataclass(frozen=True, slots=True)
class ProjectRunRow:
    """A run of a project that held something."""

    project: str
    run_id: str
    first_leased_at_ms: int
    position: int


PRICES = TableSpec(name="price", row_class=PriceRow, key=("price_id",))
LEASES = TableSpec(name="lease", row_class=LeaseRow, key=("node_id", "lease_id"))
RUN_LEASES = TableSpec(name="run_lease", row_class=RunLeaseRow, key=("run_id", "lease_id"))
RUNS = TableSpec(name="run", row_class=RunRow, key=("run_id",))
PROJECT_RUNS = TableSpec(name="project_run", row_class=ProjectRunRow, key=("project", "run_id"))
