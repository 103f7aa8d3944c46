"""Settings of the lineage service, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from pydantic import Field

from runyard_servicekit.settings import ServiceSettings


class LineageSettings(ServiceSettings):
    """Where the services are that own the boxes of a record."""

    scheduler_address: str = Field(min_length=1)
    artifact_address: str = Field(min_length=1)
    metrics_address: str = Field(min_length=1)
    cost_address: str = Field(min_length=1)
