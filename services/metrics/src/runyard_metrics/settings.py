"""Settings of the metrics service, from the environment. Prefix RUNYARD_."""

from __future__ import annotations

from runyard_servicekit.settings import ServiceSettings


class MetricsSettings(ServiceSettings):
    """Nothing beyond what every service has."""
