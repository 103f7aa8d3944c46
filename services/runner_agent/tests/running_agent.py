"""The real agent on a real bus, for a scripted scheduler: what tests of whole runs share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard_agent.limits import look_at_machine
from runyard_testkit import Bus

from .scripted_ledger import Ledger, create_stream
from .scripted_yard import (
    AgentProcess,
    ScriptedArtifacts,
    ScriptedScheduler,
    ScriptedYard,
    agent_environment,
    serve,
)


def attempt_folder(yard: ScriptedYard, grant: LeaseGrant) -> Path:
    return yard.agent.directory / "attempts" / f"{grant.run_id}-{grant.attempt}"


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, shared_environments: Path) -> Path:
    """Give a cache for all agents of a module."""
    folder = tmp_path_factory.mktemp("agent-cache")
    (folder / "environments").symlink_to(shared_environments)
    return folder


@pytest.fixture
def agent_changes() -> dict[str, str]:
    """Settings of the agent that a module wants otherwise: it has a fixture of this name."""
    return {}


@pytest.fixture
async def yard(
    bus: Bus, tmp_path: Path, cache: Path, agent_changes: dict[str, str]
) -> AsyncIterator[ScriptedYard]:
    """Run the agent for a scripted scheduler."""
    (tmp_path / "agent").mkdir()
    async with running_agent(bus, tmp_path / "agent", cache, agent_changes) as running:
        yield running


@asynccontextmanager
async def running_agent(
    bus: Bus, directory: Path, cache: Path, changes: dict[str, str]
) -> AsyncIterator[ScriptedYard]:
    """Run the agent in an empty folder while the block runs."""
    async with AsyncExitStack() as stack:
        surroundings = await stack.enter_async_context(without_agent(bus))
        (directory / "cache").symlink_to(cache)
        environment = surroundings.environment(directory)
        agent = AgentProcess(directory, {**environment, **changes})
        agent.start()
        stack.callback(lambda: print(agent.log))
        # What an agent that ends in order removes itself.
        stack.callback(lambda: look_at_machine(directory).close())
        stack.callback(agent.kill)
        await surroundings.scheduler.wait_for(lambda: bool(surroundings.scheduler.hellos))
        yield ScriptedYard(surroundings.scheduler, surroundings.artifacts, surroundings.ledger, agent)


@dataclass(frozen=True)
class Surroundings:
    """All that an agent needs around it."""

    scheduler: ScriptedScheduler
    artifacts: ScriptedArtifacts
    ledger: Ledger
    address: str
    bus: Bus

    def environment(self, directory: Path) -> dict[str, str]:
        return agent_environment(directory, self.address, self.bus.url, self.bus.password("agent-node-1"))


@asynccontextmanager
async def without_agent(bus: Bus) -> AsyncIterator[Surroundings]:
    """Wait for an agent that somebody else starts, while the block runs."""
    async with AsyncExitStack() as stack:
        client = await bus.connect("test")
        stack.push_async_callback(client.close)
        await create_stream(client)
        ledger = Ledger()
        await stack.enter_async_context(ledger.listening(client))
        scheduler = ScriptedScheduler()
        artifacts = ScriptedArtifacts()  # type: ignore[abstract] # only what outputs need
        server, address = await serve(scheduler, artifacts)
        stack.push_async_callback(server.stop, 0)
        yield Surroundings(scheduler, artifacts, ledger, address, bus)
