"""Programs of attempts that nobody holds any more are ended in two phases; others are left alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

import pytest

from runyard_agent import process_table
from runyard_agent.below import remove_tree
from runyard_agent.container_rules import ContainerRules
from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.executors import DockerOnDemand
from runyard_agent.limits import look_at_machine
from runyard_agent.orphan_containers import containers_below
from runyard_agent.orphans import Orphans
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_docker import DockerRuntime
from runyard_agent.runtime_process import ProcessRuntime

from .containers import daemon, image, plan_of, runtime, until_printed

__all__ = ["daemon", "image", "plan_of", "runtime"]

MakePlan = Callable[..., LaunchPlan]
PROGRAM = "trap 'echo told' TERM; echo began; while :; do sleep 0.05; done"


@pytest.fixture
def attempts(tmp_path: Path) -> Path:
    (tmp_path / "attempts").mkdir()
    return tmp_path / "attempts"


@pytest.fixture
async def docker(tmp_path: Path) -> AsyncIterator[DockerOnDemand]:
    found = DockerOnDemand("node-1", tmp_path / "cache", ContainerRules())
    yield found
    found.close()


def orphans_of(attempts: Path, docker: DockerOnDemand, held: Collection[str] = ()) -> Orphans:
    return Orphans(attempts, docker, look_at_machine(attempts.parent), lambda: held)


def below(attempts: Path, name: str) -> dict[str, object]:
    run_id, _, attempt = name.rpartition("-")
    return {"directory": attempts / name, "run_id": run_id, "attempt": int(attempt)}


def program(shim: Handle) -> list[int]:
    return process_table.descendants(int(shim.id))


@pytest.mark.system
async def test_a_program_whose_folder_is_gone_is_told_then_killed(
    make_plan: MakePlan, attempts: Path, docker: DockerOnDemand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard_agent.executors._may_have_docker", lambda: False)
    runtime = ProcessRuntime(look_at_machine(attempts.parent))
    lost = make_plan(PROGRAM, **below(attempts, "lost-1"))
    kept = make_plan(PROGRAM, **below(attempts, "kept-1"))
    other = make_plan(PROGRAM, **below(attempts.parent / "other", "lost-1"))
    elsewhere = ProcessRuntime(look_at_machine(attempts.parent / "other"))
    shims = [await runtime.launch(lost), await runtime.launch(kept), await elsewhere.launch(other)]
    stack = contextlib.ExitStack()
    try:
        for plan in (lost, kept, other):
            await until_printed(plan, "began")
        out = stack.enter_context(lost.stdout.open())
        assert remove_tree(lost.directory)
        orphans = orphans_of(attempts, docker, held=["kept-1"])
        await orphans.look()
        assert program(shims[0])
        await orphans.look()
        async with asyncio.timeout(40):
            while "told" not in out.read():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.01)
        assert program(shims[0])
        await orphans.look()
        async with asyncio.timeout(40):
            while process_table.start_ticks(int(shims[0].id)):  # noqa: ASYNC110 - the kernel takes it away
                await asyncio.sleep(0.01)
        assert program(shims[0]) == []
        assert look_at_machine(attempts.parent).group_named("lost-1") == []
        for plan, shim in ((kept, shims[1]), (other, shims[2])):
            assert program(shim)
            assert "told" not in plan.stdout.read_text()
    finally:
        for plan, shim, its in zip((lost, kept, other), shims, (runtime, runtime, elsewhere), strict=True):
            await its.kill(shim)
            await its.remove(shim, plan)
        stack.close()


@pytest.mark.docker
async def test_a_container_that_nobody_holds_is_removed_and_others_are_left_alone(
    runtime: DockerRuntime, plan_of: MakePlan, daemon: DockerDaemon, attempts: Path, docker: DockerOnDemand
) -> None:
    lost = plan_of(PROGRAM)
    lost = plan_of(PROGRAM, run_id=lost.run_id, directory=attempts / f"{lost.run_id}-1")
    other = plan_of(PROGRAM)
    await runtime.launch(lost)
    other_handle = await runtime.launch(other)
    for plan in (lost, other):
        await until_printed(plan, "began")
    orphans = orphans_of(attempts, docker)
    held = orphans_of(attempts, docker, held=[lost.directory.name])
    for _ in range(3):
        await held.look()
    assert [each.is_running for each in await containers_below(daemon, attempts)] == [True]
    (linked := attempts.parent / "linked").symlink_to(attempts)
    assert len(await containers_below(daemon, linked)) == 1
    await orphans.look()
    await orphans.look()
    await until_printed(lost, "told")
    await orphans.look()
    assert list(await containers_below(daemon, attempts)) == []
    assert await runtime.pids(other_handle)
    assert "told" not in other.stdout.read_text()
    await runtime.signal(other_handle, signal.SIGKILL)
