"""The Docker daemon of the node: one bounded adapter around the ``docker`` package, with our errors."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import docker
import docker.errors
from docker.utils import parse_repository_tag

from runyard_agent.blocking import BlockingPool
from runyard_core.errors import NotFound, RunyardError, Unavailable

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

_CALL_SECONDS_MAX = 60.0
_PING_SECONDS_MAX = 5.0
# Of Docker 20.10, the oldest that is supported here.
_API_VERSION = "1.41"
_PULL_SECONDS_MAX = 6 * 3600.0
# Pulls wait for a registry: they have threads of their own, so that a kill never waits for one.
_CONTROL_THREADS = 4
_PULL_THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the daemon has."""

    reference: str
    """As asked for."""
    id: str
    """Digest of its configuration: "sha256:..."."""
    repo_digests: tuple[str, ...]
    """What registries know it by; empty for one that was built or loaded here."""


class DockerDaemon:
    """Calls to one daemon. Errors of the daemon are NotFound, Unavailable (try again), or RunyardError."""

    def __init__(self, client: docker.DockerClient) -> None:
        """Take over a client that has answered."""
        self.api: docker.APIClient = client.api
        self._client = client
        self._control = BlockingPool("docker", thread_count=_CONTROL_THREADS)
        self._pulls = BlockingPool("docker-pull", thread_count=_PULL_THREADS)
        self.version = ""
        self.warnings: tuple[str, ...] = ()

    async def look(self) -> None:
        """Learn the daemon's version and what it cannot do here."""
        self.version = str((await self.call(self.api.version))["Version"])
        warnings = []
        if not (await self.call(self.api.info)).get("LiveRestoreEnabled"):
            warnings.append(
                'A restart of the Docker daemon ends runs in containers: set "live-restore" in it.'
            )
        if os.geteuid() != 0:
            warnings.append(
                "The agent is not root: outputs that a container keeps to its own user cannot be collected."
            )
        self.warnings = tuple(warnings)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of ``api`` in a thread.

        Raises:
            NotFound: there is no such container or image.
            Unavailable: the daemon does not answer.
            RunyardError: DOCKER_REFUSED, the daemon says no; the message is its own.
        """
        return await self._control.run(_CALL_SECONDS_MAX, _translated(function), *args, **kwargs)

    async def image(self, reference: str, *, tell: Tell = lambda _: None) -> Image:
        """Give an image, pulled when the daemon does not have it; ``tell`` gets a line when it must be.

        Raises:
            Unavailable: IMAGE_UNAVAILABLE, with what the daemon says.
        """
        try:
            return await self._known_image(reference)
        except NotFound:
            tell(f"pulling image {reference}")
        except RunyardError as error:
            raise _image_unavailable(reference, error) from error
        try:
            await self._pulls.run(_PULL_SECONDS_MAX, _translated(self._pull), reference)
            return await self._known_image(reference)
        except RunyardError as error:
            raise _image_unavailable(reference, error) from error

    async def gateway(self, network: str) -> str:
        """Give the address by which containers of a network reach this machine; empty when they cannot.

        Raises:
            NotFound: there is no such network. Unavailable: the daemon does not answer.
        """
        if network in {"host", "none"}:
            return "127.0.0.1" if network == "host" else ""
        found = await self.call(self.api.inspect_network, network)
        configs = (found.get("IPAM") or {}).get("Config") or []
        return next((str(each["Gateway"]) for each in configs if "." in each.get("Gateway", "")), "")

    def close(self) -> None:
        """Take no more calls and close the connections."""
        self._control.close()
        self._pulls.close()
        self._client.close()

    async def _known_image(self, reference: str) -> Image:
        found = await self.call(self.api.inspect_image, reference)
        return Image(reference, str(found["Id"]), tuple(found.get("RepoDigests") or ()))

    def _pull(self, reference: str) -> None:
        repository, tag = parse_repository_tag(reference)
        for line in self.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise Unavailable(str(line["error"]))


async def open_docker() -> DockerDaemon | str:
    """Connect to the daemon of this machine; gives a sentence that says why when none can be used."""
    address = os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS)
    if not address.startswith("unix://"):
        return f"Docker is not used: DOCKER_HOST is {address}, and only a local daemon can share our folders."
    try:
        # First by ourselves: the package would leave its socket open when nobody listens.
        async with asyncio.timeout(_PING_SECONDS_MAX):
            _, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        writer.close()
        await writer.wait_closed()
    except OSError as error:
        return f"Docker is not used: no daemon answers at {address} ({error})."
    # With a version given it does not ask for one here, in this thread.
    daemon = DockerDaemon(
        docker.DockerClient(base_url=address, version=_API_VERSION, timeout=_CALL_SECONDS_MAX)
    )
    try:
        await daemon.look()
    except RunyardError as error:
        daemon.close()
        return f"Docker is not used: {error}."
    return daemon


def _translated(function: Callable[P, T]) -> Callable[P, T]:
    """Give the function with the errors of ``docker`` and its transport in ours."""

    @functools.wraps(function)
    def translated(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except docker.errors.NotFound as error:
            raise NotFound(_explanation(error)) from error
        except docker.errors.APIError as error:
            raise RunyardError(_explanation(error), code="DOCKER_REFUSED") from error
        # Its transport's errors are OSErrors.
        except (docker.errors.DockerException, OSError) as error:
            raise Unavailable(f"the Docker daemon does not answer: {error}") from error

    return translated


def _explanation(error: docker.errors.APIError) -> str:
    return " ".join(str(error.explanation or error).split())


def _image_unavailable(reference: str, error: RunyardError) -> Unavailable:
    return Unavailable(f"image {reference!r} cannot be had: {error}", code="IMAGE_UNAVAILABLE")
