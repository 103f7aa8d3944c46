"""Settings of the lineage service, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr

from runyard_eventlog.segment_seals import SealingSettings
from runyard_servicekit.settings import ServiceSettings


class LineageSettings(ServiceSettings):
    """Where the services are that own the boxes of a record, and when the log is sealed."""

    service_token: SecretStr = Field(min_length=1)
    """This service's own token, for calls to the other services."""
    scheduler_address: str = Field(min_length=1)
    artifact_address: str = Field(min_length=1)
    metrics_address: str = Field(min_length=1)
    cost_address: str = Field(min_length=1)
    segment_key_file: Path | None = None
    """Private key that signs segments (PEM, mode 0600). Without it or an archive nothing is sealed."""
    sealing_events_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Events of a full segment."""
    sealing_age_seconds_max: float = Field(default=600, gt=0)
    """A segment that is not full is sealed when its oldest event is as old as this."""
    sealing_look_seconds: float = Field(default=30, gt=0)
    """Time between two looks at the log."""

    @property
    def seals(self) -> bool:
        """Say whether this service seals the log."""
        return self.segment_key_file is not None and bool(self.archive_url.get_secret_value())

    @property
    def sealing(self) -> SealingSettings:
        """Say when a segment is full."""
        return SealingSettings(
            self.sealing_events_max, age_max=timedelta(seconds=self.sealing_age_seconds_max)
        )
