"""The names under which the yard's gate hands connections on: one address, one authority, several ways in.

Whoever connects asks for one of these names when it opens TLS (server name indication); the certificate holds
all of them, whatever the address is called.
"""

from __future__ import annotations

from typing import Final

_DOMAIN: Final = "runyard.internal"

SCHEDULER: Final = f"scheduler.{_DOMAIN}"
ARTIFACT: Final = f"artifact.{_DOMAIN}"
METRICS: Final = f"metrics.{_DOMAIN}"
COST: Final = f"cost.{_DOMAIN}"
LINEAGE: Final = f"lineage.{_DOMAIN}"
BUS: Final = f"bus.{_DOMAIN}"
STORE: Final = f"store.{_DOMAIN}"

NAMES: Final = (SCHEDULER, ARTIFACT, METRICS, COST, LINEAGE, BUS, STORE)


def service_name(service: str) -> str:
    """Give the name of a service, "metrics"."""
    return f"{service}.{_DOMAIN}"
