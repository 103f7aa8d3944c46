"""Takes the agent off this machine: containers, programs, folders and unit."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from runyard.run.v1.types_pb2 import Executor
from runyard_agent import process_table
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.below import remove_tree
from runyard_agent.docker_daemon import open_docker
from runyard_agent.domain.attempt import Phase
from runyard_agent.enrolled import NODE_FILE
from runyard_agent.enrolment import PENDING_FILE
from runyard_agent.folder_lock import LOCK_FILE, is_locked, locked
from runyard_agent.limits import MachineLimits, look_at_machine
from runyard_agent.orphan_containers import AttemptContainer, containers_below
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime
from runyard_agent.systemd_removal import is_unit_installed, remove_unit, stop_unit
from runyard_agent.systemd_unit import UNIT_PATH
from runyard_core.errors import Conflict, InvalidInput, RunyardError, Unavailable

_WATCH_SECONDS_MAX = 5.0

Tell = Callable[[str], None]


def uninstall(directory: Path, *, force: bool, tell: Tell) -> None:
    """Remove everything that the agent ever wrote here. What the yard recorded stays there.

    Args:
        directory: the agent's folder; it goes, with the containers and programs of the attempts in it.
        force: stop the unit, end attempts that run, and lose what they have not delivered.
        tell: gets a line for each thing that was removed.

    Raises:
        InvalidInput: NOT_AN_AGENTS_FOLDER, no agent ever used the folder; nothing was removed.
        Conflict: AGENT_RUNNING, or without ``force`` ATTEMPTS_RUNNING, ATTEMPTS_PREPARED or OUTPUTS_WAITING;
            nothing was removed.
        Unavailable: DOCKER_UNREACHABLE, without ``force``; attempts were in containers. Nothing was removed.
        RunyardError: UNINSTALL_INCOMPLETE, something cannot be removed; the rest is gone.
    """
    left: list[str] = []
    if directory.exists():
        _require_agents(directory)
        if is_locked(directory):
            _stop_agent(directory, force=force)
        with locked(directory):
            limits = look_at_machine(directory)
            try:
                left += asyncio.run(_end_attempts(directory, limits, force=force, tell=tell))
            finally:
                limits.close()
            # With the lock held: nobody may begin anything in what is being removed.
            if not remove_tree(directory) and not _is_empty_mount(directory):
                left.append(str(directory))
        tell(f"removed {directory}: credential, spool, caches, environments, attempts")
    if is_unit_installed():
        left += remove_unit(tell)
    if left:
        raise RunyardError(
            f"cannot be removed whole: {', '.join(left)}; try again as root", code="UNINSTALL_INCOMPLETE"
        )


@dataclass(frozen=True, slots=True)
class _Program:
    """A process of an attempt that runs, as its shim knows it."""

    plan: LaunchPlan
    handle: Handle


def _is_empty_mount(directory: Path) -> bool:
    """Say whether only the folder itself is left, which in a container is the machine's to remove."""
    return directory.is_mount() and not any(directory.iterdir())


def _require_agents(directory: Path) -> None:
    """Refuse what no agent ever held or enrolled with: a slip of ``--directory`` must not empty a home."""
    is_agents = any((directory / name).is_file() for name in (LOCK_FILE, NODE_FILE, PENDING_FILE))
    if not is_agents and any(directory.iterdir()):
        raise InvalidInput(
            f"{directory} is no folder of an agent: nothing in it was touched", code="NOT_AN_AGENTS_FOLDER"
        )


def _stop_agent(directory: Path, *, force: bool) -> None:
    if not is_unit_installed():
        raise Conflict(f"an agent runs in {directory}; stop it first", code="AGENT_RUNNING")
    if not force:
        raise Conflict(
            f"an agent runs in {directory}; stop it first: systemctl stop {UNIT_PATH.stem}, or --force",
            code="AGENT_RUNNING",
        )
    stop_unit()


async def _end_attempts(directory: Path, limits: MachineLimits, *, force: bool, tell: Tell) -> list[str]:
    """End what runs, if that is wanted; give what could not be."""
    attempts = directory / "attempts"
    records = _records(attempts)
    programs = await _running_programs(records, limits)
    async with _containers(attempts) as containers:
        unreachable = _in_containers(records) if isinstance(containers, str) else []
        if not force:
            _require_nothing_lost(records, programs, containers, unreachable)
        runtime = ProcessRuntime(limits)
        for program in programs:
            await runtime.remove(program.handle, program.plan)
            tell(f"ended {program.plan.name}")
        for container in () if isinstance(containers, str) else containers:
            await container.kill()
            tell(f"removed {container.words}")
    _end_installers(directory / "cache")
    await _watches_ended(directory)
    return [f"container {name}" for name in unreachable]


def _require_nothing_lost(
    records: Sequence[AttemptRecord],
    programs: Sequence[_Program],
    containers: Sequence[AttemptContainer] | str,
    unreachable: Sequence[str],
) -> None:
    if isinstance(containers, str) and unreachable:
        raise Unavailable(
            f"attempts of this machine were in containers: {', '.join(unreachable)}. {containers} "
            "Start it, or leave them with --force",
            code="DOCKER_UNREACHABLE",
        )
    running = [program.plan.name for program in programs]
    running += [each.words for each in containers if isinstance(each, AttemptContainer) and each.is_running]
    if running:
        raise Conflict(
            f"attempts run on this machine: {', '.join(sorted(running))}. Stop their runs, "
            "or end them with --force: what they have not stored yet is lost",
            code="ATTEMPTS_RUNNING",
        )
    left = [each for each in records if not each.is_over]
    prepared = [_plan(each).name for each in left if each.state.phase is Phase.PREPARING]
    if prepared:
        raise Conflict(
            f"attempts are leased to this machine and not started yet: {', '.join(sorted(prepared))}. "
            "Stop their runs and start the agent until they are over, or give them up with --force",
            code="ATTEMPTS_PREPARED",
        )
    # A program may also have ended while no agent was there to collect what it left.
    waiting = [_plan(each).name for each in left]
    if waiting:
        raise Conflict(
            f"outputs or reports of attempts are not at the yard yet: {', '.join(sorted(waiting))}. "
            "Start the agent until they are, or lose them with --force",
            code="OUTPUTS_WAITING",
        )


def _records(attempts: Path) -> list[AttemptRecord]:
    return AttemptStore(attempts).load() if attempts.exists() else []


def _in_containers(records: Sequence[AttemptRecord]) -> list[str]:
    return sorted(_plan(each).name for each in records if each.state.executor == Executor.EXECUTOR_DOCKER)


async def _running_programs(records: Sequence[AttemptRecord], limits: MachineLimits) -> list[_Program]:
    runtime = ProcessRuntime(limits)
    found = []
    for record in records:
        plan = _plan(record)
        handle = await runtime.find(plan)
        if handle is not None and process_table.start_ticks(int(handle.id)) == handle.start_ticks:
            found.append(_Program(plan, handle))
    return found


def _plan(record: AttemptRecord) -> LaunchPlan:
    """Give what a runtime needs to know of an attempt to end it."""
    grant = record.grant
    return LaunchPlan(
        run_id=grant.run_id,
        attempt=grant.attempt,
        epoch=grant.epoch,
        directory=record.directory,
        command_lines=(),
        environment={},
    )


@asynccontextmanager
async def _containers(attempts: Path) -> AsyncIterator[Sequence[AttemptContainer] | str]:
    """Give the attempts' containers while the block runs; where no daemon answers, why."""
    daemon = await open_docker()
    if isinstance(daemon, str):
        yield daemon
        return
    try:
        # By folder: another yard may have a node of the same name on this machine.
        yield await containers_below(daemon, attempts)
    finally:
        daemon.close()


def _end_installers(cache: Path) -> None:
    """End what a killed agent left making an environment: it would write on into what is being removed."""
    process_table.end_all(lambda: [pid for root in _working_on(cache) for pid in _family(root)])


def _family(root: int) -> list[int]:
    return [root, *process_table.descendants(root)]


async def _watches_ended(directory: Path) -> None:
    """Give what looked after the containers a moment to end: it does so by itself when they have."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WATCH_SECONDS_MAX):
            while _working_on(directory):  # noqa: ASYNC110 - they are nobody's children
                await asyncio.sleep(0.05)


def _working_on(directory: Path) -> list[int]:
    """Give the processes, but for ourselves, whose command line names something below a folder."""
    below = f"{directory}/"
    others = (pid for pid in process_table.all_pids() if pid != os.getpid())
    return [pid for pid in others if any(word.startswith(below) for word in process_table.command_line(pid))]
