"""Commands in a real container: beside the program, as its user, and gone with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.runtime import Handle
from runyard_agent.runtime_docker import DockerRuntime
from runyard_agent.side_command import CommandExit, CommandPlan
from runyard_agent.side_container import (
    ContainerCommand,
    address_of,
    end_left_behind,
    start_beside_container,
)

from .containers import MakePlan, daemon, image, plan_of, runtime
from .side_commands import check_input_to_its_end, output_of, read_until

__all__ = ["daemon", "image", "plan_of", "runtime"]

pytestmark = pytest.mark.docker


@asynccontextmanager
async def running(runtime: DockerRuntime, plan_of: MakePlan, *lines: str) -> AsyncIterator[Handle]:
    plan = plan_of(*(lines or ("sleep 60",)))
    handle = await runtime.launch(plan)
    try:
        yield handle
    finally:
        await runtime.kill(handle)
        await runtime.wait(handle, plan)
        await runtime.remove(handle, plan)


@asynccontextmanager
async def started(
    daemon: DockerDaemon, handle: Handle, *command: str, terminal: bool = False
) -> AsyncIterator[ContainerCommand]:
    asked = CommandPlan(command, "xterm" if terminal else "", columns=132, rows=43)
    started = await start_beside_container(daemon, handle, asked)
    try:
        yield started
    finally:
        await started.close()


async def commands_in(daemon: DockerDaemon, handle: Handle) -> int:
    container = await daemon.call(daemon.api.inspect_container, handle.id)
    states = [await daemon.call(daemon.api.exec_inspect, each) for each in container.get("ExecIDs") or ()]
    return sum(bool(each["Running"]) for each in states)


async def test_a_command_has_the_containers_folders_and_variables(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with running(runtime, plan_of) as handle:
        async with started(daemon, handle, "sh", "-c", "pwd; echo $MODE; echo oh >&2; exit 3") as command:
            assert await output_of(command) == (b"/valohai/repository\nfast\n", b"oh\n")
            assert await command.wait() == CommandExit(3)
        async with started(daemon, handle, "no-such-command") as missing:
            assert b"not found" in (await output_of(missing))[1]
            assert await missing.wait() == CommandExit(127)


async def test_input_goes_in_to_its_end_and_nothing_gets_lost(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with running(runtime, plan_of) as handle, started(daemon, handle, "cat") as cat:
        await check_input_to_its_end(cat, os.urandom(1_000_000))


async def test_a_shell_has_a_terminal_with_its_size(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with running(runtime, plan_of) as handle, started(daemon, handle, terminal=True) as shell:
        await shell.write(b"echo $TERM:$(stty size)\n")
        await read_until(shell, b"xterm:43 132\r\n")
        await shell.resize(80, 24)
        await shell.write(b"stty size\n")
        await read_until(shell, b"24 80\r\n")
        await shell.write(b"exit 7\n")
        await output_of(shell)
        assert await shell.wait() == CommandExit(7)


async def test_a_shell_ends_with_its_container(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with (
        running(runtime, plan_of) as handle,
        started(daemon, handle, "sleep", "61", terminal=True) as shell,
    ):
        await runtime.kill(handle)
        await output_of(shell)
        assert await shell.wait() is None


async def test_letting_go_of_a_shell_ends_it_and_not_the_container(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    lasting = "trap '' HUP; echo ready; sleep 61; sleep 62"
    async with running(runtime, plan_of) as handle:
        async with started(daemon, handle, "sh", "-c", lasting) as shell:
            await read_until(shell, b"ready\n")
            assert await commands_in(daemon, handle) == 1
        assert await commands_in(daemon, handle) == 0
        assert await runtime.pids(handle)


async def test_what_a_dead_agent_left_is_ended_by_the_next(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with running(runtime, plan_of) as handle:
        # It lets go of nothing itself: a killed agent leaves no more than a closed connection.
        asked = CommandPlan(("sh", "-c", "echo ready; sleep 61; sleep 62"), "", columns=132, rows=43)
        shell = await start_beside_container(daemon, handle, asked)
        try:
            await read_until(shell, b"ready\n")
        finally:
            shell._writer.close()
        assert await commands_in(daemon, handle) == 1
        await end_left_behind(daemon, handle)
        assert await commands_in(daemon, handle) == 0


async def test_a_container_has_an_address_that_leads_to_its_ports(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    async with running(runtime, plan_of, "python3 -m http.server 8123") as handle:
        address = await address_of(daemon, handle)
        async with asyncio.timeout(20):
            while True:
                try:
                    reader, writer = await asyncio.open_connection(address, 8123)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200 OK" in await reader.readline()
        writer.close()
