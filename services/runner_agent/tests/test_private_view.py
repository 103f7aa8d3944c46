"""Programs find the contract's folders at their real paths, each its own, and leave no mount behind."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from runyard_agent import private_view
from runyard_agent.domain.file_systems import FileSystem
from runyard_agent.executors import ProcessExecutor
from runyard_agent.runtime import LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime, private_view_problem
from runyard_core.errors import RunyardError

pytestmark = pytest.mark.system

MakePlan = Callable[..., LaunchPlan]

RUNTIME = ProcessRuntime()
NOBODY = 65534


@pytest.fixture(autouse=True)
async def _possible() -> None:
    if problem := await private_view_problem():
        pytest.skip(problem)


def mounts(own: Path) -> Sequence[str]:
    """Give what is mounted on the machine, but for other tests' containers, networks and folders.

    Args:
        own: The folder of the test that asks, which pytest made beside those of the others.
    """
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    others = ("/docker/", "/run/netns/", f"{_all_folders(own)}/")
    return [line for line in lines if f"{own}/" in line or not any(each in line for each in others)]


def _all_folders(own: Path) -> Path:
    """Give the folder in which pytest keeps what all tests write, unless it was told another."""
    return next((each for each in own.parents if each.name.startswith("pytest-of-")), own)


def below(plan: LaunchPlan, name: str) -> LaunchPlan:
    """Give the plan of another attempt, with a private view and folders of its own."""
    moved = dataclasses.replace(plan, directory=plan.directory / name, has_private_view=True)
    for folder in (moved.repository, moved.inputs, moved.outputs, moved.config, moved.state):
        folder.mkdir(parents=True)
    shutil.copy(plan.script, moved.script)
    return moved


async def test_runs_at_the_same_time_each_have_their_own_folders(make_plan: MakePlan) -> None:
    plan = make_plan(
        "cat /valohai/config/parameters.json > /valohai/outputs/seen",
        "mkfifo /valohai/inputs/here; echo ready; read line < /valohai/inputs/here",
        "cat /valohai/outputs/seen; pwd; ls /valohai",
    )
    plans = [below(plan, "one"), below(plan, "two")]
    before = mounts(plan.directory)
    for one in plans:
        (one.config / "parameters.json").write_text(f"{one.directory.name}\n", encoding="utf-8")

    handles = [await RUNTIME.launch(one) for one in plans]
    # Both have written by now, and neither has read what it wrote.
    for one in plans:
        async with asyncio.timeout(40):
            while one.stdout.read_text(encoding="utf-8") != "ready\n":  # noqa: ASYNC110 - the program does
                await asyncio.sleep(0.01)
    during = mounts(plan.directory)
    pids = [await RUNTIME.pids(handle) for handle in handles]
    for one in plans:
        (one.inputs / "here").write_text("\n", encoding="utf-8")
    ended = [await RUNTIME.wait(handle, one) for handle, one in zip(handles, plans, strict=True)]

    assert [one.exit_code for one in ended] == [0, 0]
    for one in plans:
        name = one.directory.name
        assert (one.outputs / "seen").read_text(encoding="utf-8") == f"{name}\n"
        seen = one.stdout.read_text(encoding="utf-8").split()
        assert seen == [
            *("ready", name, "/valohai/repository"),
            *("config", "inputs", "outputs", "repository"),
        ]
    assert all(pids)
    assert before == during == mounts(plan.directory)


async def test_mounts_of_a_killed_program_are_gone(make_plan: MakePlan) -> None:
    plan = below(make_plan("echo $$; sleep 100"), "one")
    before = mounts(plan.directory)
    handle = await RUNTIME.launch(plan)

    await RUNTIME.kill(handle)
    ended = await RUNTIME.wait(handle, plan)

    assert ended.signal == 9
    assert mounts(plan.directory) == before
    assert sorted(os.listdir(plan.directory)) == ["config", "inputs", "outputs", "repository", "state"]
    shutil.rmtree(plan.directory)


async def test_files_of_the_machine_are_where_they_were(make_plan: MakePlan) -> None:
    plan = below(make_plan("ls -A / | grep -vx valohai", "ls -d $HOME_OF_TEST"), "one")
    plan = dataclasses.replace(plan, environment={**plan.environment, "HOME_OF_TEST": str(plan.directory)})

    await RUNTIME.wait(await RUNTIME.launch(plan), plan)

    entries = plan.stdout.read_text(encoding="utf-8").split()
    assert sorted(entries) == sorted({*os.listdir("/"), str(plan.directory)} - {"valohai"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_view_needs_no_root() -> None:
    interpreter = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if interpreter is None:
        pytest.skip("no interpreter that everybody may run")
    script = Path(private_view.__file__).read_text(encoding="utf-8")
    folder = Path(f"/tmp/runyard-view-{os.getpid()}")
    try:
        for name in private_view.FOLDERS:
            (folder / name).mkdir(parents=True)
            os.chown(folder / name, NOBODY, NOBODY)
        command = "echo mine > /valohai/outputs/file; id -u; grep CapEff /proc/self/status"
        ran = subprocess.run(
            [interpreter, "-I", "-S", "-c", script, str(folder), "/bin/sh", "-c", command],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )

        assert (ran.stderr, ran.stdout.split()) == ("", [str(NOBODY), "CapEff:", "0" * 16])
        assert (folder / "outputs" / "file").read_text(encoding="utf-8") == "mine\n"
    finally:
        shutil.rmtree(folder)


def test_failing_view_says_why_and_runs_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-I", "-S", private_view.__file__, str(tmp_path), "/bin/echo", "no"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "no private view of the file system: [Errno 2] mount: No such file" in ran.stderr


def test_without_a_view_folders_are_found_by_variables_and_the_node_says_so(tmp_path: Path) -> None:
    executor = ProcessExecutor(tmp_path, "/usr/bin", view_problem="unshare: Operation not permitted")

    assert executor.directories(tmp_path).outputs == str(tmp_path / "outputs")
    warning = executor.warnings[0]
    assert warning.startswith("a process finds its folders by the VH_..._DIR variables only, not at /valohai")
    assert warning.endswith("unshare: Operation not permitted")
    assert ProcessExecutor(tmp_path, "/usr/bin").directories(tmp_path).outputs == "/valohai/outputs"
    assert not [each for each in ProcessExecutor(tmp_path, "/usr/bin").warnings if "/valohai" in each]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
async def test_what_is_mounted_for_a_program_is_its_own_and_goes_with_it(make_plan: MakePlan) -> None:
    # By the way on which NFS is mounted, too.
    place = f"/runyard-test-{os.getpid()}/sets"
    mounted = FileSystem("tmpfs", "", "tmpfs", "ro,nosuid,nodev,size=1m", place)
    plan = below(
        make_plan(f"grep -c ' {place} ' /proc/self/mountinfo", f"touch {place}/x || echo refused"), "one"
    )
    before = mounts(plan.directory)

    one = dataclasses.replace(plan, file_systems=(mounted,))
    ended = await RUNTIME.wait(await RUNTIME.launch(one), one)

    assert (ended.exit_code, plan.stdout.read_text(encoding="utf-8")) == (0, "1\nrefused\n")
    assert mounts(plan.directory) == before
    assert place.split("/")[1] not in os.listdir("/")
    other = below(make_plan("true"), "two")
    with pytest.raises(RunyardError, match="mount of tmpfs ended with"):
        await RUNTIME.launch(
            dataclasses.replace(other, file_systems=(dataclasses.replace(mounted, kind="no-such"),))
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("user", [0, NOBODY])
def test_a_shared_folder_is_seen_read_only_and_nothing_is_made_on_the_machine(user: int) -> None:
    interpreter = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if interpreter is None:
        pytest.skip("no interpreter that everybody may run")
    script = Path(private_view.__file__).read_text(encoding="utf-8")
    folder = Path(f"/tmp/runyard-shown-{os.getpid()}-{user}")
    shared, place = folder / "shared", f"/runyard-test-{os.getpid()}/sets"
    try:
        for name in (*private_view.FOLDERS, "shared"):
            (folder / name).mkdir(parents=True)
            os.chown(folder / name, user, user)
        (shared / "a.txt").write_text("shared", encoding="utf-8")
        command = f"cat {place}/a.txt; touch {place}/b || echo refused"
        ran = subprocess.run(
            [interpreter, "-I", "-S", "-c", script, str(folder), private_view.SHOW, str(shared), place,
             "/bin/sh", "-c", command],
            user=user, group=user, extra_groups=[], capture_output=True, text=True, check=False,
        )  # fmt: skip

        assert (ran.stdout, ran.returncode) == ("sharedrefused\n", 0), ran.stderr
        assert place.split("/")[1] not in os.listdir("/")
        assert os.listdir(shared) == ["a.txt"]
    finally:
        shutil.rmtree(folder)
