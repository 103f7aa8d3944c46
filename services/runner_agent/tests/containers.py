"""What tests of containers share: a real daemon, and containers that go with the test."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runyard_agent.container_config import LABEL_NODE, LABEL_RUN
from runyard_agent.docker_daemon import DockerDaemon, Image, WantedImage, open_docker
from runyard_agent.durable_files import write_atomically
from runyard_agent.runtime import Exit, LaunchPlan, lease_text
from runyard_agent.runtime_docker import DockerRuntime

MakePlan = Callable[..., LaunchPlan]


@pytest.fixture
async def daemon(docker_client: Any) -> AsyncIterator[DockerDaemon]:
    found = await open_docker()
    assert isinstance(found, DockerDaemon), found
    yield found
    found.close()


@pytest.fixture
async def image(daemon: DockerDaemon, test_image: str) -> Image:
    return await daemon.image(WantedImage(test_image))


@pytest.fixture
async def runtime(daemon: DockerDaemon) -> AsyncIterator[DockerRuntime]:
    yield DockerRuntime(daemon, "node-1")
    # Whatever a test left, by the label of this session's plans.
    for container in await daemon.call(
        daemon.api.containers, all=True, filters={"label": f"{LABEL_NODE}=node-1"}
    ):
        if container["Labels"][LABEL_RUN].startswith(f"test-{os.getpid()}-"):
            await daemon.call(daemon.api.remove_container, container["Id"], force=True)


@pytest.fixture
def plan_of(make_plan: MakePlan, image: Image) -> MakePlan:
    def make(*command_lines: str, **changes: Any) -> LaunchPlan:
        fields: dict[str, Any] = {
            "run_id": f"test-{os.getpid()}-{uuid.uuid4()}",
            "environment": {"MODE": "fast"},
            "image": image.id,
        }
        return make_plan(*command_lines, **{**fields, **changes})

    return make


async def run(runtime: DockerRuntime, plan: LaunchPlan) -> Exit:
    handle = await runtime.launch(plan)
    async with asyncio.timeout(40):
        ended = await runtime.wait(handle, plan)
    await runtime.remove(handle, plan)
    return ended


async def until_printed(plan: LaunchPlan, text: str) -> None:
    async with asyncio.timeout(30):
        while text not in plan.stdout.read_text():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)


def renew(plan: LaunchPlan, seconds: float) -> None:
    """Write the lease down as the agent does: whoever reads it meanwhile finds one time or the other."""
    expires_at = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
    write_atomically(plan.lease_file, lease_text(expires_at).encode("ascii"))
