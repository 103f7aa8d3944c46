"""What the operator of a node sets for all of its containers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContainerRules:
    """What the operator of the node sets for all containers."""

    network: str = "bridge"
    """Docker network; "none" cuts programs off."""
    capabilities: tuple[str, ...] = ()
    """Given back after all are dropped: "CHOWN", "SETUID" and the like, for images that install packages."""
    shared_memory_bytes: int = 0
    """Size of /dev/shm, over which data loaders pass batches; 0 means half of the machine's memory."""
    image_bytes_max: int = 0
    """What images that the agent pulled may take together; 0 means 100 GiB."""
