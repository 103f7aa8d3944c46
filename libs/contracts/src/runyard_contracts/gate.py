"""The names under which the yard's gate hands connections on: one address, one certificate, four ways in.

A machine asks for one of these names when it opens TLS (server name indication); the certificate holds all of
them, whatever the address is called.
"""

from __future__ import annotations

from typing import Final

SCHEDULER: Final = "scheduler.runyard.internal"
ARTIFACT: Final = "artifact.runyard.internal"
BUS: Final = "bus.runyard.internal"
STORE: Final = "store.runyard.internal"

NAMES: Final = (SCHEDULER, ARTIFACT, BUS, STORE)
