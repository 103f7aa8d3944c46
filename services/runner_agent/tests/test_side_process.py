"""Commands beside a real program: its view, variables and end are theirs."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from runyard_agent import process_table
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime, private_view_problem
from runyard_agent.side_command import CommandExit, CommandPlan
from runyard_agent.side_process import ProcessCommand, start_beside_process

from .inherited_signals import UNTOUCHED, ignoring_signals, signals_of
from .side_commands import check_input_to_its_end, output_of, read_until

pytestmark = pytest.mark.system

MakePlan = Callable[..., LaunchPlan]
RUNTIME = ProcessRuntime()
VARIABLES = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "VH_JOB_ID": "exec-1", "GREETING": "good morning"}


@asynccontextmanager
async def running(make_plan: MakePlan, *lines: str) -> AsyncIterator[tuple[LaunchPlan, Handle]]:
    """Give a program of one process that runs in its private view, where the machine allows one."""
    has_view = not await private_view_problem()
    plan = make_plan(*(lines or ("exec sleep 60",)), environment=VARIABLES, has_private_view=has_view)
    handle = await RUNTIME.launch(plan)
    try:
        yield plan, handle
    finally:
        await RUNTIME.remove(handle, plan)


@asynccontextmanager
async def started(plan: LaunchPlan, *command: str, terminal: bool = False) -> AsyncIterator[ProcessCommand]:
    asked = CommandPlan(command, "xterm" if terminal else "", columns=132, rows=43)
    started = await start_beside_process(plan, (), asked)
    try:
        yield started
    finally:
        await started.close()


async def test_a_command_finds_the_programs_world_and_tells_how_it_ended(make_plan: MakePlan) -> None:
    async with running(make_plan) as (plan, _):
        (plan.repository / "train.py").touch()
        async with started(plan, "sh", "-c", 'pwd; ls; echo "$GREETING"; echo oh >&2; exit 3') as command:
            assert await output_of(command) == (
                b"/valohai/repository\ntrain.py\ngood morning\n"
                if not await private_view_problem()
                else f"{plan.repository}\ntrain.py\ngood morning\n".encode(),
                b"oh\n",
            )
            assert await command.wait() == CommandExit(3)
        async with started(plan, "sh", "-c", "kill -SEGV $$") as killed:
            await output_of(killed)
            assert await killed.wait() == CommandExit(128 + signal.SIGSEGV, signal.SIGSEGV)
        async with started(plan, "no-such-command") as missing:
            assert await output_of(missing) == (b"", b"runyard: no-such-command: not found\n")
            assert await missing.wait() == CommandExit(127)


async def test_a_command_finds_its_signals_as_in_a_shell_whatever_the_agent_ignores(
    make_plan: MakePlan,
) -> None:
    look = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    with ignoring_signals():
        async with running(make_plan) as (plan, _), started(plan, *look) as command:
            assert signals_of((await output_of(command))[0]) == UNTOUCHED


async def test_input_goes_in_to_its_end_and_nothing_gets_lost(make_plan: MakePlan) -> None:
    async with running(make_plan) as (plan, _), started(plan, "cat") as cat:
        await check_input_to_its_end(cat, os.urandom(3_000_000))


async def test_a_shell_has_a_terminal_with_its_size_and_job_control(make_plan: MakePlan) -> None:
    async with running(make_plan) as (plan, _), started(plan, terminal=True) as shell:
        await shell.write(b"echo $TERM:$(stty size):$(tty | cut -c 1-9)\n")
        await read_until(shell, b"xterm:43 132:/dev/pts/\r\n")
        await shell.resize(80, 24)
        await shell.write(b"stty size\n")
        await read_until(shell, b"24 80\r\n")
        await shell.write(b"PS1='>''> '\n")
        await read_until(shell, b">> ")
        # A program that says something is in front by then: before, the key would go to the shell. It starts
        # nothing itself: a key that comes while dash starts something is lost to both.
        await shell.write(b"sh -c 'echo here; read line'\n")
        await read_until(shell, b"here\r\n")
        await shell.write(b"\x03")
        await read_until(shell, b">> ")
        await shell.write(b"echo af''ter; exit 7\n")
        await read_until(shell, b"after\r\n")
        await output_of(shell)
        assert await shell.wait() == CommandExit(7)


async def test_a_shell_ends_with_the_program_and_with_it_all_that_it_started(make_plan: MakePlan) -> None:
    async with (
        running(make_plan) as (plan, handle),
        started(plan, "sh", "-c", "trap '' HUP TERM; sleep 61 & echo $$; wait", terminal=True) as shell,
    ):
        pid = int(await read_until(shell, b"\r\n"))
        below = [pid, *process_table.descendants(pid)] if process_table.start_ticks(pid) else []
        await RUNTIME.kill(handle)
        await RUNTIME.wait(handle, plan)
        await output_of(shell)
        assert await shell.wait() is None
        assert not [each for each in below if process_table.start_ticks(each)]


async def test_letting_go_of_a_shell_ends_it_and_not_the_program(make_plan: MakePlan) -> None:
    async with running(make_plan) as (plan, handle):
        before = set(await RUNTIME.pids(handle))
        async with started(plan, "sh", "-c", "sleep 61 & setsid sleep 62 & echo ready; wait") as shell:
            await read_until(shell, b"ready\n")
            parent = shell._parent.pid
            below = process_table.descendants(parent)
            assert len(below) >= 3
        assert not [each for each in below if process_table.start_ticks(each)]
        assert set(await RUNTIME.pids(handle)) == before


async def test_a_shell_ends_with_an_agent_that_is_killed(make_plan: MakePlan) -> None:
    async with running(make_plan) as (plan, _), started(plan, "sleep", "61") as shell:
        parent = shell._parent.pid
        # The kernel closes what a killed agent held open.
        os.close(shell._life_descriptor)
        shell._life_descriptor = -1
        await output_of(shell)
        assert await shell.wait() is None
        assert not process_table.start_ticks(parent)
