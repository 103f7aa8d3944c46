"""The read model of the cost service. Append-only: one row for each (key, position), never updated.

Money is not kept: a price that is set later for an earlier time restates the past, so costs are computed
from leases and prices when somebody asks.
"""

from __future__ import annotations

from typing import NamedTuple

from runyard_core.projection import TableSpec


class PriceRow(NamedTuple):
    """A line of the price book."""

    price_id: str
    position: int
    node_id: str
    gpu_model: str
    unit: int
    """Number of a runyard.cost.v1.PriceUnit."""
    micro_usd_per_hour: int
    effective_from_ms: int
    """Milliseconds since 1970."""
    note: str
    event_id: str


class LeaseRow(NamedTuple):
    """The time for which an attempt holds GPUs and a slot of a node."""

    node_id: str
    lease_id: str
    position: int
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


class RunLeaseRow(NamedTuple):
    """Where to find a lease of a run."""

    run_id: str
    lease_id: str
    position: int
    node_id: str


class RunRow(NamedTuple):
    """A run that there is, whether it ever held anything or not."""

    run_id: str
    position: int
    project: str


class ProjectRunRow(NamedTuple):
    """A run of a project that held something."""

    project: str
    run_id: str
    position: int
    first_leased_at_ms: int


PRICES = TableSpec(name="price", row_class=PriceRow, key=("price_id",), is_read=False)
LEASES = TableSpec(name="lease", row_class=LeaseRow, key=("node_id", "lease_id"))
RUN_LEASES = TableSpec(name="run_lease", row_class=RunLeaseRow, key=("run_id", "lease_id"), is_read=False)
RUNS = TableSpec(name="run", row_class=RunRow, key=("run_id",))
PROJECT_RUNS = TableSpec(name="project_run", row_class=ProjectRunRow, key=("project", "run_id"))
