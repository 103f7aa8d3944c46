"""What the attempts of a node share: its name, its machine, and the ways to everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from runyard.node.v1.types_pb2 import NodeInventory
from runyard.run.v1.types_pb2 import Hardware
from runyard_agent.artifact_client import ArtifactClient
from runyard_agent.call_server import CallServer
from runyard_agent.content_cache import ContentCache
from runyard_agent.executors import Executors
from runyard_agent.input_sources import InputRules, InputSources
from runyard_agent.known_addresses import KnownAddresses
from runyard_agent.limits import AttemptRules
from runyard_agent.package_lists import PackageLists
from runyard_agent.sampling import Sampling
from runyard_core.clock import Clock


@dataclass(frozen=True, slots=True)
class Node:
    """What attempts use of their node."""

    node_id: str
    boot_id: str
    booted_at: datetime
    inventory: NodeInventory
    """As it was when the agent started."""
    executors: Executors
    artifact_client: ArtifactClient
    cache: ContentCache
    sampling: Sampling
    clock: Clock
    package_lists: PackageLists
    known_addresses: KnownAddresses = field(default_factory=KnownAddresses)
    input_rules: InputRules = field(default_factory=InputRules)
    attempt_rules: AttemptRules = field(default_factory=AttemptRules)
    calls: CallServer | None = None
    """Where programs reach the agent."""

    def input_sources(self, variables: Mapping[str, str]) -> InputSources:
        """Give the ways to the input files of an attempt with these variables; the caller closes them."""
        return InputSources(
            self.artifact_client, self.cache, self.input_rules, self.clock, variables, self.known_addresses
        )

    async def hardware(self, gpu_uuids: Sequence[str]) -> Hardware:
        """Say what an attempt with these GPUs was given."""
        inventory, gpus = self.inventory, self.sampling.gpus.gpus
        return Hardware(
            node_id=self.node_id,
            hostname=inventory.hostname,
            gpus=[gpu for gpu in await gpus.devices() if gpu.uuid in gpu_uuids],
            gpu_driver_version=gpus.driver_version,
            cuda_driver_version=gpus.cuda_version,
            cpu_model=inventory.cpu_model,
            cpu_count=inventory.cpu_count,
            memory_bytes=inventory.memory_bytes,
        )
