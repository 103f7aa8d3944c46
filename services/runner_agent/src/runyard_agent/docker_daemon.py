"""The Docker daemon of the node: one bounded adapter around the ``docker`` package, with our errors."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

import docker
import docker.errors
from docker.utils import parse_repository_tag

from runyard.agent.v1.agent_service_pb2 import RegistryLogin
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.redaction import Redaction
from runyard_agent.domain.registry import pull_refused
from runyard_agent.own_container import OwnContainer, own_container, own_id
from runyard_contracts.images import registry_of
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
_SIOCGIFADDR = 0x8915

P = ParamSpec("P")
T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class WantedImage:
    """An image that a run asks for."""

    reference: str
    """As the run names it."""
    pin: str = ""
    """What an earlier attempt of the run found it to be: that and nothing else."""
    is_pulled_always: bool = False
    """Whether the registry is asked also when the daemon has an image of that name."""
    login: RegistryLogin | None = field(default=None, repr=False)
    """For its registry; None asks as nobody, or as the operator has set up for the agent's user."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the daemon has."""

    reference: str
    """As asked for."""
    id: str
    """Digest of its configuration: "sha256:..."."""
    repo_digests: tuple[str, ...]
    """What registries know it by; empty for one that was built or loaded here."""
    entrypoint: tuple[str, ...] = ()
    """What it would start of itself."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What it sets of itself."""
    was_pulled: bool = False
    """It was not here, or not to be taken from here, when it was asked for."""


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
        self.own: OwnContainer | None = None
        """Our own container, where we are in one of this daemon."""

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
        if own := own_id():
            # Not known here: another daemon's, and this one was only handed to it.
            with contextlib.suppress(NotFound):
                self.own = own_container(await self.call(self.api.inspect_container, own))
                warnings += self.own.warnings
        self.warnings = tuple(warnings)

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of ``api`` in a thread.

        Raises:
            NotFound: there is no such container or image.
            Unavailable: the daemon does not answer.
            RunyardError: DOCKER_REFUSED, the daemon says no; the message is its own.
        """
        return await self._control.run(_CALL_SECONDS_MAX, _translated(function), *args, **kwargs)

    async def image(self, wanted: WantedImage, *, tell: Tell = lambda _: None) -> Image:
        """Give an image, pulled when the daemon does not have it; ``tell`` gets a line when it must be.

        Raises:
            Unavailable: IMAGE_UNAVAILABLE, with what the daemon says.
        """
        name = wanted.pin or wanted.reference
        try:
            if not wanted.is_pulled_always or _is_id(name):
                with contextlib.suppress(NotFound):
                    return await self._known_image(wanted.reference, name)
            if _is_id(name):
                raise NotFound(f"the first attempt had {name}, which no registry knows and this node has not")
            tell(f"pulling image {name}")
            await self._pull_as(name, wanted.login)
            return replace(await self._known_image(wanted.reference, name), was_pulled=True)
        except RunyardError as error:
            raise _image_unavailable(wanted.reference, error) from error

    async def gateway(self, network: str) -> str:
        """Give the address by which containers of a network reach this machine; empty when they cannot.

        Raises:
            NotFound: there is no such network. Unavailable: the daemon does not answer.
        """
        if network in {"host", "none"}:
            return "127.0.0.1" if network == "host" else ""
        found = await self.call(self.api.inspect_network, network)
        return gateway_of(found)

    def close(self) -> None:
        """Take no more calls and close the connections."""
        self._control.close()
        self._pulls.close()
        self._client.close()

    async def _known_image(self, reference: str, name: str) -> Image:
        found = await self.call(self.api.inspect_image, name)
        config = found.get("Config") or {}
        return Image(
            reference,
            str(found["Id"]),
            tuple(found.get("RepoDigests") or ()),
            tuple(config.get("Entrypoint") or ()),
            dict(each.partition("=")[::2] for each in config.get("Env") or ()),
        )

    async def _pull_as(self, name: str, login: RegistryLogin | None) -> None:
        try:
            await self._pulls.run(_PULL_SECONDS_MAX, _translated(self._pull), name, login)
        except RunyardError as error:
            # A registry may say again what it was told.
            words = Redaction([login.password] if login is not None else []).of(error.message)
            refused = pull_refused(registry_of(name), words, has_login=login is not None)
            raise Unavailable(refused or words) from None

    def _pull(self, name: str, login: RegistryLogin | None) -> None:
        repository, tag = parse_repository_tag(name)
        # With none given, the package looks for one that the operator has left to this user.
        auth = None if login is None else {"username": login.username, "password": login.password}
        tag = tag or "latest"
        for line in self.api.pull(repository, tag=tag, auth_config=auth, stream=True, decode=True):
            if "error" in line:
                raise Unavailable(str(line["error"]))


def gateway_of(network: Mapping[str, Any]) -> str:
    """Give the gateway of a network that the daemon describes; empty where none is known.

    A daemon that has made its bridge anew names no gateway for it before it is started again (seen with
    20.10): then the bridge's own address is asked of the kernel.
    """
    configs = (network.get("IPAM") or {}).get("Config") or []
    named = next((str(each["Gateway"]) for each in configs if "." in each.get("Gateway", "")), "")
    bridge = (network.get("Options") or {}).get("com.docker.network.bridge.name", "")
    return named or (_address_of(bridge) if bridge else "")


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


def _address_of(interface: str) -> str:
    """Give the IPv4 address of an interface of this machine (netdevice(7)); empty where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", interface[:15].encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _explanation(error: docker.errors.APIError) -> str:
    return " ".join(str(error.explanation or error).split())


def _is_id(name: str) -> bool:
    """Say whether a name is the id of an image, which only a machine that has it knows."""
    return name.startswith("sha256:")


def _image_unavailable(reference: str, error: RunyardError) -> Unavailable:
    return Unavailable(f"image {reference!r} cannot be had: {error}", code="IMAGE_UNAVAILABLE")
