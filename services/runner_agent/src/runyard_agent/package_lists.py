"""The lists of system packages in the records of attempts: stored once for all that found the same."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from runyard.run.v1.types_pb2 import Environment, Package
from runyard_agent.artifact_client import ArtifactClient
from runyard_core.errors import RunyardError

_STORE_SECONDS_MAX = 20.0

Tell = Callable[[str], None]


class PackageLists:
    """Moves the system's packages of an environment into the store; a machine or an image has hundreds."""

    def __init__(self, artifact_client: ArtifactClient) -> None:
        """Store by this client."""
        self._artifact_client = artifact_client
        self._stored: set[str] = set()

    async def share(self, environment: Environment, tell: Tell = lambda _: None) -> None:
        """Let the environment name the list of its system's packages by hash.

        While the store is away they stay where they are: the record is whole either way. ``tell`` hears it.
        """
        of_system = [each for each in environment.packages if each.kind]
        if not of_system:
            return
        content = list_content(of_system)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 not in self._stored:
            try:
                async with asyncio.timeout(_STORE_SECONDS_MAX):
                    await self._artifact_client.store_blob(content, sha256)
            except (RunyardError, TimeoutError) as error:
                tell(
                    f"the record holds the list of the system's packages itself, it cannot be stored: {error}"
                )
                return
            self._stored.add(sha256)
        of_interpreter = [each for each in environment.packages if not each.kind]
        del environment.packages[:]
        environment.packages.extend(of_interpreter)
        environment.system_packages_sha256 = sha256
        environment.system_package_count = len(of_system)


def list_content(packages: Sequence[Package]) -> bytes:
    """Write packages in the one form that is hashed; see ``Environment.system_packages_sha256``."""
    lines = sorted(f"{each.kind}\t{each.name}\t{each.version}\n" for each in packages)
    return "".join(lines).encode()
