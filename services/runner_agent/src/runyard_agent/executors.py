"""The two ways to run an attempt on this node, and what each needs before it can start."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard.run.v1.types_pb2 import Environment, Executor
from runyard_agent import config_files, environment
from runyard_agent.call_server import LOOPBACK
from runyard_agent.config_files import IN_CONTAINER, Directories
from runyard_agent.container_rules import ContainerRules
from runyard_agent.environment.shared import ENVIRONMENT_BYTES_MAX
from runyard_agent.limits import IN_GROUP, MachineLimits
from runyard_agent.runtime import Runtime
from runyard_agent.runtime_process import ProcessRuntime, private_view_problem
from runyard_contracts import agent_controls
from runyard_core.errors import Unavailable

if TYPE_CHECKING:
    from runyard_agent.docker_daemon import DockerDaemon, WantedImage

Tell = Callable[[str], None]

_DOCKER_SOCKET = Path("/var/run/docker.sock")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an attempt's program will find around it."""

    variables: Mapping[str, str]
    """Its whole environment. May hold secrets."""
    record: Environment
    """The same for the record, without secrets."""
    image: str = ""
    """Container only: id of the image."""
    venv: Path | None = None
    """Process only."""
    has_private_view: bool = False
    """Process only."""


class ExecutorOnNode(Protocol):
    """One way to run attempts."""

    runtime: Runtime

    def directories(self, attempt_directory: Path) -> Directories:
        """Say where the program finds its folders."""
        ...

    async def call_host(self) -> str:
        """Give the address of this machine at which programs reach their agent; empty when there is none."""
        ...

    async def surround(self, grant: LeaseGrant, attempt_directory: Path, tell: Tell) -> Surroundings:
        """Make ready what the program will find around it; its code is checked out.

        Raises:
            RunyardError: ENVIRONMENT_UNAVAILABLE or IMAGE_UNAVAILABLE.
        """
        ...


class ProcessExecutor:
    """Runs attempts as processes in virtual environments."""

    def __init__(
        self,
        cache_dir: Path,
        path_variable: str,
        *,
        view_problem: str = "",
        limits: MachineLimits | None = None,
        environment_bytes_max: int = ENVIRONMENT_BYTES_MAX,
    ) -> None:
        """Keep environments in a cache of a size; ``path_variable`` is the PATH that programs get.

        ``view_problem`` says why programs cannot have a private view of the file system here.
        """
        self._limits = limits or MachineLimits()
        self.runtime: Runtime = ProcessRuntime(self._limits)
        self._cache_dir = cache_dir
        self._path_variable = path_variable
        self._view_problem = view_problem
        self._environment_bytes_max = environment_bytes_max
        self._machine_packages = environment.MachinePackages(path_variable=path_variable)

    @classmethod
    async def open(
        cls,
        cache_dir: Path,
        path_variable: str,
        limits: MachineLimits,
        environment_bytes_max: int = ENVIRONMENT_BYTES_MAX,
    ) -> ProcessExecutor:
        """Make one for this machine, after a look at what it allows."""
        return cls(
            cache_dir,
            path_variable,
            view_problem=await private_view_problem(),
            limits=limits,
            environment_bytes_max=environment_bytes_max,
        )

    @property
    def warnings(self) -> Sequence[str]:
        """What programs go without here, one sentence each."""
        return (*self._view_warnings, *self._limits.warnings)

    @property
    def _view_warnings(self) -> Sequence[str]:
        if not self._view_problem:
            return ()
        problem = self._view_problem
        return (f"a process finds its folders by the VH_..._DIR variables only, not at /valohai: {problem}",)

    def directories(self, attempt_directory: Path) -> Directories:
        """Give the folders as the program sees them."""
        return Directories.below(attempt_directory) if self._view_problem else IN_CONTAINER

    async def call_host(self) -> str:
        """Give loopback: a process shares the machine's network."""
        return LOOPBACK

    async def surround(self, grant: LeaseGrant, attempt_directory: Path, tell: Tell) -> Surroundings:
        """Make the virtual environment."""
        resources = grant.spec.resources
        asked_limits = {"cpu": resources.cpu_millicores_max, "memory": resources.memory_bytes_max}
        for name, asked_limit in asked_limits.items():
            if asked_limit and self._limits.held[name] != IN_GROUP:
                tell(f"the {name} limit of this process is held by {self._limits.held[name]}")
        for warning in self._view_warnings:
            tell(warning)
        asked = config_files.variables(grant, self.directories(attempt_directory))
        prepared = await environment.prepare(
            environment.EnvironmentRequest(
                repository=attempt_directory / "repository",
                private_dir=attempt_directory / "venv",
                requirements_path=grant.spec.requirements_path,
                variables=asked,
            ),
            self._cache_dir,
            tell=tell,
            size_bytes_max=self._environment_bytes_max,
        )
        # A home of its own: what a program caches or configures there must not reach the next one.
        home = attempt_directory / "home"
        home.mkdir(exist_ok=True)
        variables = {
            "HOME": str(home),
            "LANG": "C.UTF-8",
            **asked,
            "PATH": f"{prepared.venv / 'bin'}:{asked.get('PATH', self._path_variable)}",
            "VIRTUAL_ENV": str(prepared.venv),
        }
        record = environment.capture(prepared, variables)
        record.packages.extend(await self._machine_packages.get(tell))
        return Surroundings(
            variables=variables,
            record=record,
            venv=prepared.venv,
            has_private_view=not self._view_problem,
        )


class DockerExecutor:
    """Runs attempts in containers."""

    def __init__(self, daemon: DockerDaemon, node_id: str, cache_dir: Path, rules: ContainerRules) -> None:
        """Use a daemon that has answered; what images hold is kept in the cache."""
        from runyard_agent.image_cache import IMAGE_BYTES_MAX, ImageCache
        from runyard_agent.runtime_docker import DockerRuntime

        self._rules = rules
        self.runtime: Runtime = DockerRuntime(daemon, node_id, self._rules)
        self.daemon = daemon
        self._cache_dir = cache_dir
        self._images = ImageCache(
            daemon, cache_dir / "pulled-images", size_bytes_max=rules.image_bytes_max or IMAGE_BYTES_MAX
        )

    def directories(self, attempt_directory: Path) -> Directories:  # noqa: ARG002 - the same for all
        """Give the folders as the program sees them."""
        return IN_CONTAINER

    async def call_host(self) -> str:
        """Give the gateway of the containers' network: the machine, as they see it."""
        return await self.daemon.gateway(self._rules.network)

    async def surround(self, grant: LeaseGrant, attempt_directory: Path, tell: Tell) -> Surroundings:  # noqa: ARG002
        """Have the image, and know what it holds."""
        from runyard_agent import container_environment

        image = await self.daemon.image(_wanted_image(grant), tell=tell)
        self._images.note(image.id, was_pulled=image.was_pulled)
        if image.was_pulled:
            await self._images.trim()
        variables = config_files.variables(grant)
        record = await container_environment.capture(self.daemon, image, variables, self._cache_dir)
        record.cached = not image.was_pulled
        return Surroundings(variables=variables, record=record, image=image.id)


def _wanted_image(grant: LeaseGrant) -> WantedImage:
    from runyard_agent.docker_daemon import WantedImage

    asked = {each.name: each.value for each in grant.spec.environment_variables}
    return WantedImage(
        reference=grant.spec.image,
        pin=grant.image_pin,
        is_pulled_always=agent_controls.is_true(asked.get(agent_controls.NO_IMAGE_CACHE)),
        login=grant.registry_login if grant.HasField("registry_login") else None,
    )


class DockerOnDemand:
    """The container executor, once a daemon answers. The package is imported only when somebody looks."""

    def __init__(self, node_id: str, cache_dir: Path, rules: ContainerRules) -> None:
        """Prepare; nothing is asked."""
        self._node_id = node_id
        self._cache_dir = cache_dir
        self._rules = rules
        self._found: DockerExecutor | str = ""
        self._look_count = 0
        self._opening = asyncio.Lock()

    async def open(self) -> DockerExecutor | str:
        """Give the executor, or a sentence that says why there is none."""
        look_count = self._look_count
        # Attempts that wait for a daemon find it at the same moment; one that hangs costs all the same time.
        async with self._opening:
            if isinstance(self._found, str) and look_count == self._look_count:
                self._found = await self._open()
                self._look_count += 1
            return self._found

    async def _open(self) -> DockerExecutor | str:
        if not _may_have_docker():
            return f"Docker is not used: there is no {_DOCKER_SOCKET}."
        from runyard_agent.docker_daemon import open_docker

        daemon = await open_docker()
        if isinstance(daemon, str):
            return daemon
        if daemon.own is not None and not daemon.own.shows(self._cache_dir):
            daemon.close()
            folder = self._cache_dir.parent
            return (
                f"Docker is not used: the agent runs in a container that has not the machine's {folder}, "
                f"which runs share with it. Start it with -v {folder}:{folder}."
            )
        return DockerExecutor(daemon, self._node_id, self._cache_dir, self._rules)

    async def look(self) -> tuple[str, Sequence[str]]:
        """Give the daemon's version (empty without one) and what cannot be done, one sentence each."""
        found = await self.open()
        if isinstance(found, str):
            return "", (found,)
        return found.daemon.version, found.daemon.warnings

    def close(self) -> None:
        """Let go of the daemon."""
        if not isinstance(self._found, str):
            self._found.daemon.close()


def _may_have_docker() -> bool:
    """Look before importing the package, which costs 20 MB."""
    return _DOCKER_SOCKET.exists() or "DOCKER_HOST" in os.environ


class Executors:
    """Chooses the executor of a run."""

    def __init__(self, process: ExecutorOnNode, docker: DockerOnDemand) -> None:
        """Have processes always, and containers while a daemon answers."""
        self._process = process
        self._docker = docker

    async def choose(self, asked: Executor.ValueType) -> Executor.ValueType:
        """Say how a run is executed here: unless it asks, in a container when a daemon answers."""
        if asked in {Executor.EXECUTOR_DOCKER, Executor.EXECUTOR_PROCESS}:
            return asked
        docker = await self._docker.open()
        return Executor.EXECUTOR_PROCESS if isinstance(docker, str) else Executor.EXECUTOR_DOCKER

    async def get(self, chosen: Executor.ValueType) -> ExecutorOnNode:
        """Give a chosen executor.

        Raises:
            Unavailable: IMAGE_UNAVAILABLE, it is a container and no daemon answers.
        """
        if chosen != Executor.EXECUTOR_DOCKER:
            return self._process
        docker = await self._docker.open()
        if isinstance(docker, str):
            raise Unavailable(docker, code="IMAGE_UNAVAILABLE")
        return docker
