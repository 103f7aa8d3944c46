"""Where log, archive, bus and gate are: written by the supervisor for commands on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from runyard_embedded.home import Home, write_private


@dataclass(frozen=True, slots=True)
class Sightings:
    """Access to log, archive and bus, and what others call the gate."""

    database_url: str = field(repr=False)
    """For the role runyard_reader."""
    admin_database_url: str = field(repr=False)
    """For detaching old partitions, which no service may."""
    archive_url: str = field(repr=False)
    nats_url: str
    relay_password: str = field(repr=False)
    gate_address: str = ""
    """host:port; empty when the yard has no gate."""


def write_sightings(home: Home, sightings: Sightings) -> None:
    """Keep them in a file that only the owner reads."""
    write_private(home.folder / "sightings.json", asdict(sightings))


def read_sightings(home: Home) -> Sightings:
    """Read what the running yard's supervisor wrote."""
    return Sightings(**json.loads((home.folder / "sightings.json").read_text(encoding="utf-8")))
