"""Settings of the scheduler, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from runyard_servicekit.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """What the scheduler needs beside what every service does."""

    heartbeat_seconds: float = Field(default=2.0, gt=0)
    """How often agents renew."""
    unreachable_seconds: float = Field(default=10.0, gt=0)
    """Silence after which a node counts as detached and its attempts as unreachable."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """Length of a lease, counted from each renewal."""
    requeue_margin_seconds: float = Field(default=15.0, ge=0)
    """Time that a node's shim gets, beside the run's stop grace, to end an attempt whose lease ran out."""
    hands_on_idle_seconds: float = Field(default=4 * 3600.0, gt=0)
    """A shell or forwarded port through which nothing passes for so long is closed."""
    gate_address: str = ""
    """host:port of the yard's gate as machines outside reach it; empty means that none can enroll."""
    gate_authority_file: Path | None = None
    """The certificate (PEM) that signs what the gate shows: tokens name it."""
