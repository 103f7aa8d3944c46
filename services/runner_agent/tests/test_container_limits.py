"""What ends a container without the agent: memory, time, silence, an expired lease."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from runyard_agent.runtime import EndedBy, LaunchPlan
from runyard_agent.runtime_docker import DockerRuntime
from runyard_core.errors import RunyardError

from .containers import MakePlan, daemon, image, plan_of, renew, run, runtime, until_printed

__all__ = ["daemon", "image", "plan_of", "runtime"]

pytestmark = pytest.mark.docker


async def test_memory_over_the_limit_is_told_apart(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of("exec python3 -c 'x = bytearray(512 << 20)'", memory_bytes_max=64 << 20)

    ended = await run(runtime, plan)

    assert ended.oom_killed
    assert ended.ended_by is EndedBy.MEMORY_LIMIT
    assert "67108864" in ended.detail


async def test_a_killed_child_of_a_program_that_went_on_is_no_end_by_memory(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("python3 -c 'x = bytearray(512 << 20)' || echo went on", memory_bytes_max=64 << 20)

    ended = await run(runtime, plan)

    assert (ended.exit_code, ended.oom_killed, ended.ended_by) == (0, False, EndedBy.ITSELF)


async def test_the_time_limit_holds_without_the_agent(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of("echo ready; sleep 60", time_limit_seconds=1, stop_grace_seconds=5)
    handle = await runtime.launch(plan)

    # Nobody waits: what ends the container is its watch alone.
    async with asyncio.timeout(30):
        while (await runtime._inspect(handle.id))["State"]["Running"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    ended = await runtime.wait(handle, plan)
    assert ended.ended_by is EndedBy.TIME_LIMIT
    assert ended.detail == "ran for its time limit of 1 s"
    await runtime.remove(handle, plan)


@pytest.mark.parametrize("place", ["/valohai/outputs", "/tmp"])
async def test_a_container_that_fills_its_part_of_the_disk_is_ended(
    runtime: DockerRuntime, plan_of: MakePlan, place: str
) -> None:
    if place == "/tmp" and os.geteuid() != 0:
        pytest.skip("only root can look into a container's own layer")
    plan = plan_of(
        f"for n in $(seq 100); do head -c 1000000 /dev/zero > {place}/$n; done; sleep 60",
        disk_bytes_max=20_000_000,
        stop_grace_seconds=1,
    )

    ended = await run(runtime, plan)

    assert ended.ended_by is EndedBy.DISK_LIMIT
    assert "20000000 bytes of the disk" in ended.detail


async def test_a_container_makes_no_file_larger_than_its_part_of_the_disk(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("truncate -s 1T /valohai/outputs/huge || echo refused", disk_bytes_max=20_000_000)

    ended = await run(runtime, plan)

    assert (ended.exit_code, plan.stdout.read_text()) == (0, "refused\n")


async def test_a_fork_bomb_stays_below_the_limit_of_its_container(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("bomb() { bomb | bomb & }; bomb; sleep 1; exit 0", processes_max=40)

    ended = await run(runtime, plan)

    assert ended.is_known
    assert "Resource temporarily unavailable" in plan.stderr.read_text()


async def test_silence_ends_a_program_and_talk_does_not(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of(
        "for i in 1 2 3 4 5 6; do echo $i; sleep 0.8; done; sleep 60",
        no_output_timeout_seconds=4,
        stop_grace_seconds=1,
    )

    ended = await run(runtime, plan)

    assert ended.ended_by is EndedBy.NO_OUTPUT_TIMEOUT
    assert plan.stdout.read_text().split() == list("123456")


async def test_an_expired_lease_ends_the_attempt_at_once_and_a_renewed_one_does_not(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("trap '' TERM; echo ready; sleep 60", ends_on_lease_expiry=True, stop_grace_seconds=60)
    with pytest.raises(RunyardError, match="has none yet"):
        await runtime.launch(plan)
    first_lease_at = time.monotonic()
    # Long enough for a busy machine to start a container in.
    renew(plan, 8)
    handle = await runtime.launch(plan)
    started_at = time.monotonic()
    await until_printed(plan, "ready")
    renew(plan, 9)

    async with asyncio.timeout(40):
        ended = await runtime.wait(handle, plan)

    assert ended.ended_by is EndedBy.LEASE_EXPIRY
    assert time.monotonic() - first_lease_at > 8.5
    assert time.monotonic() - started_at < 40
    await runtime.remove(handle, plan)


async def test_a_killed_watch_is_started_again_by_the_agent(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("sleep 60", time_limit_seconds=2, stop_grace_seconds=1)
    handle = await runtime.launch(plan)
    for pid in _watches_of(plan):
        os.kill(pid, signal.SIGKILL)

    async with asyncio.timeout(30):
        ended = await runtime.wait(handle, plan)

    assert ended.ended_by is EndedBy.TIME_LIMIT
    await runtime.remove(handle, plan)


def _watches_of(plan: LaunchPlan) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"container_watch" in command and os.fsencode(plan.state) in command:
                found.append(int(entry.name))
    assert found
    return found
