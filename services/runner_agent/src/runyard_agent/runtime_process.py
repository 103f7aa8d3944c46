"""Runs attempts as processes below a shim; needs no root, no engine and no daemon."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from runyard_agent import control_group, private_view, process_table, shim
from runyard_agent.domain.command_script import is_executable
from runyard_agent.life_lock import is_held
from runyard_agent.limits import MachineLimits, user_processes_max
from runyard_agent.runtime import Exit, Handle, LaunchPlan
from runyard_core.errors import RunyardError

_START_SECONDS_MAX = 30.0
_POLL_SECONDS = 0.1
_LOOK_SECONDS = 10.0
_ORPHAN_LOOKS_MAX = 20

# Nothing from the agent's environment or site-packages, and 2 MB less.
_PYTHON = (sys.executable, "-I", "-S")


class ProcessRuntime:
    """The ``Runtime`` of the process executor."""

    def __init__(self, limits: MachineLimits | None = None) -> None:
        """Hold limits by what the machine offers; without anything, the shim looks."""
        self._limits = limits or MachineLimits()

    async def launch(self, plan: LaunchPlan) -> Handle:
        """Start the attempt below a shim, at most once."""
        if (found := await self.find(plan)) is not None:
            return found
        if plan.ends_on_lease_expiry and not plan.lease_file.exists():
            raise RunyardError(
                f"{plan.name} would end with its lease, but has none yet", code="LEASE_MISSING"
            )
        if (plan.mounts or plan.file_systems) and not plan.has_private_view:
            raise _cannot_start(plan, "processes on this node can be shown no folders; run it in a container")
        _write_plan(plan, self._limits, self._limits.make_group(plan))
        command = [*_PYTHON, shim.__file__, str(plan.state)]
        if plan.has_private_view:
            command = _in_private_view(plan.directory, command, _seen_words(plan))
        starter = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS_MAX):
                _, errors = await starter.communicate()
        except TimeoutError:
            starter.kill()
            raise _cannot_start(plan, f"no answer in {_START_SECONDS_MAX:.0f} s") from None
        found = await self.find(plan)
        if starter.returncode != 0 or found is None:
            raise _cannot_start(plan, _last_line(errors) or _last_line(_read(plan.state / "shim.log")))
        return found

    def group(self, plan: LaunchPlan) -> list[str]:
        """Give the folders of an attempt's control group; none where this machine gives it none."""
        return self._limits.find_group(plan)

    async def find(self, plan: LaunchPlan) -> Handle | None:
        """Give the shim that was started for this attempt, alive or not."""
        content = _read(plan.state / shim.IDENTITY_FILE)
        if not content:
            return None
        identity = json.loads(content)
        return Handle(kind="process", id=str(identity["pid"]), start_ticks=int(identity["start_ticks"]))

    async def wait(self, handle: Handle, plan: LaunchPlan) -> Exit:
        """Wait for the exit file, or for the shim to be gone without having written one."""
        while True:
            is_running = self._is_running(plan)
            # In this order: a shim that ended after the look at it has written its file before.
            content = _read(plan.exit_file)
            if content:
                return Exit.from_json(json.loads(content))
            if not is_running:
                await self._end_orphans(plan)
                return _unseen_end(plan)
            # A program may stop its own parent: no limit would hold, and nobody hear of the end.
            _continue(handle)
            await _wait_for_end(int(handle.id))

    async def signal(self, handle: Handle, signal_number: int) -> None:
        """Signal every process below the shim."""
        process_table.kill_all(self._pids(handle), signal_number)

    async def kill(self, handle: Handle) -> None:
        """Kill every process below the shim; the shim itself stays to write down the end."""
        await asyncio.to_thread(process_table.end_all, lambda: self._pids(handle))

    async def remove(self, handle: Handle, plan: LaunchPlan) -> None:
        """End what still runs, and its control group: all that is kept outside the attempt's folder."""
        while self._is_running(plan):
            _continue(handle)
            await self.kill(handle)
            await asyncio.sleep(_POLL_SECONDS)
        groups = self._limits.find_group(plan)
        control_group.kill(groups)
        control_group.remove(groups)

    async def pids(self, handle: Handle) -> Sequence[int]:
        """Give the pids below the shim; once a second, so without a look at every process of the machine."""
        pid = int(handle.id)
        return _children_below(pid) if process_table.start_ticks(pid) == handle.start_ticks else ()

    async def _end_orphans(self, plan: LaunchPlan) -> None:
        """Kill what a dead shim left: nobody could say how it ends, and no limit would hold."""
        groups = self._limits.find_group(plan)
        program = json.loads(_read(plan.state / shim.PROGRAM_FILE) or b"{}")
        is_of_this_boot = program.get("boot_id") == process_table.boot_id()
        session, ticks = int(program.get("session", 0)), int(program.get("start_ticks", 0))
        seen = f"/{plan.directory.name}/outputs"

        def left() -> list[int]:
            found = {*control_group.members(groups), *process_table.in_view_of(seen)}
            # Another program may have the number by now.
            if is_of_this_boot and process_table.start_ticks(session) in {0, ticks}:
                found.update(process_table.session_members(session))
            return sorted(found)

        control_group.kill(groups)
        for _ in range(_ORPHAN_LOOKS_MAX):
            if not await asyncio.to_thread(left):
                break
            await asyncio.to_thread(process_table.end_all, left)
            await asyncio.sleep(_POLL_SECONDS)
        control_group.remove(groups)

    def _pids(self, handle: Handle) -> list[int]:
        pid = int(handle.id)
        if process_table.start_ticks(pid) != handle.start_ticks:
            return []
        return process_table.descendants(pid)

    def _is_running(self, plan: LaunchPlan) -> bool:
        """Say whether the shim lives: it holds its lock for life, which no recycled pid can fake."""
        return is_held(plan.state / shim.LOCK_FILE)


def _children_below(root: int) -> list[int]:
    """Walk down by the kernel's own lists, which may miss a process while another one ends."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        folder = f"/proc/{waiting.pop()}/task"
        try:
            for thread in os.listdir(folder):
                with open(f"{folder}/{thread}/children", encoding="ascii") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                waiting += children
        except FileNotFoundError:
            if not found and not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                return process_table.descendants(root)
    return found


async def private_view_problem() -> str:
    """Try whether programs can have ``/valohai`` here; gives why not, or nothing when they can."""
    with tempfile.TemporaryDirectory() as folder:
        for name in private_view.FOLDERS:
            os.mkdir(os.path.join(folder, name))
        trial = await asyncio.create_subprocess_exec(
            *_in_private_view(Path(folder), [*_PYTHON, "-c", ""]),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={},
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_SECONDS_MAX):
                _, errors = await trial.communicate()
        except TimeoutError:
            trial.kill()
            await trial.wait()
            return f"no answer in {_START_SECONDS_MAX:.0f} s"
    return "" if trial.returncode == 0 else _last_line(errors) or f"it ended with {trial.returncode}"


def _in_private_view(directory: Path, command: Sequence[str], seen_words: Sequence[str] = ()) -> list[str]:
    return [*_PYTHON, private_view.__file__, str(directory), *seen_words, *command]


def _seen_words(plan: LaunchPlan) -> list[str]:
    shown = [word for source, target in plan.mounts for word in (private_view.SHOW, source, target)]
    mounted = [word for each in plan.file_systems for word in (private_view.MOUNT, *each.words)]
    return [*shown, *mounted]


def shell_path() -> str:
    """Give the shell that runs command lines here: bash where there is one.

    Raises:
        RunyardError: ENVIRONMENT_UNAVAILABLE, this machine has no shell.
    """
    found = shutil.which("bash") or shutil.which("sh")
    if found is None:
        raise RunyardError("neither bash nor sh is on this machine's PATH", code="ENVIRONMENT_UNAVAILABLE")
    return found


def _continue(handle: Handle) -> None:
    pid = int(handle.id)
    if process_table.start_ticks(pid) == handle.start_ticks and process_table.is_stopped(pid):
        process_table.kill_all([pid], signal.SIGCONT)


def _write_plan(plan: LaunchPlan, limits: MachineLimits, groups: list[str]) -> None:
    script = str(plan.script)
    content = {
        "argv": [script] if is_executable(plan.command_lines) else [shell_path(), script],
        "working_directory": f"{private_view.CONTRACT_ROOT}/repository"
        if plan.has_private_view
        else str(plan.repository),
        "environment": dict(plan.environment),
        "time_limit_seconds": plan.time_limit_seconds,
        "no_output_timeout_seconds": plan.no_output_timeout_seconds,
        "groups": groups,
        "memory_bytes_max": plan.memory_bytes_max,
        "watched_memory_bytes_max": 0 if "memory" in limits.trees else plan.memory_bytes_max,
        "processes_max": plan.processes_max,
        "watched_processes_max": 0 if "pids" in limits.trees else plan.processes_max,
        "user_processes_max": user_processes_max(plan, limits),
        "disk_bytes_max": plan.disk_bytes_max,
        "disk_folders": [str(folder) for folder in plan.written_folders],
        "given_folders": [str(plan.inputs), str(plan.repository)],
        "stop_grace_seconds": plan.stop_grace_seconds,
        "ends_on_lease_expiry": plan.ends_on_lease_expiry,
    }
    # Under a name of its own first: a shim of an earlier try may be reading right now.
    descriptor, path = tempfile.mkstemp(prefix=shim.PLAN_FILE, dir=plan.state)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    Path(path).rename(plan.state / shim.PLAN_FILE)


def _cannot_start(plan: LaunchPlan, reason: str) -> RunyardError:
    return RunyardError(f"{plan.name} could not be started: {reason}", code="ENVIRONMENT_UNAVAILABLE")


async def _wait_for_end(pid: int) -> None:
    """Wait without polling until a process has ended; for a bounded time, so that the caller looks again."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        await asyncio.sleep(_POLL_SECONDS)
        return
    has_ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, has_ended.set)
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            await has_ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _unseen_end(plan: LaunchPlan) -> Exit:
    reason = _last_line(_read(plan.state / "shim.log")) or "it was killed"
    return Exit(
        exit_code=None,
        signal=0,
        oom_killed=False,
        ended_at=datetime.fromtimestamp(time.time(), UTC),
        detail=f"the shim ended without writing an exit status: {reason}",
        is_known=False,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
