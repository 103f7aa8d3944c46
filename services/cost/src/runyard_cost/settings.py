"""Settings of the cost service: those that every service has, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from runyard_servicekit.settings import ServiceSettings


class CostSettings(ServiceSettings):
    """What the cost service needs."""
