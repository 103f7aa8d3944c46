"""Limits of plain processes on this very machine: the kernel holds them where it can, the shim elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard_agent import control_group, process_table
from runyard_agent.disk_use import DiskWatch, TooDeep, disk_bytes, given_bytes
from runyard_agent.limits import AttemptRules, MachineLimits, group_settings, look_at_machine
from runyard_agent.runtime import EndedBy, Exit, LaunchPlan
from runyard_agent.runtime_process import ProcessRuntime, private_view_problem

pytestmark = pytest.mark.system

MakePlan = Callable[..., LaunchPlan]

NO_GROUPS = MachineLimits(is_root=os.geteuid() == 0)


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[MachineLimits]:
    found = look_at_machine(tmp_path)
    try:
        yield found
    finally:
        found.close()
        assert not [tree for tree in found.trees.values() if tree.exists()]


def needs(limits: MachineLimits, name: str) -> None:
    if name not in limits.trees:
        pytest.skip(f"this machine lets the agent make no control group for {name}: {limits.warnings}")


async def run(limits: MachineLimits, plan: LaunchPlan, seconds: float = 30) -> Exit:
    runtime = ProcessRuntime(limits)
    async with asyncio.timeout(seconds):
        ended = await runtime.wait(await runtime.launch(plan), plan)
        assert limits.find_group(plan) == []
        return ended


def is_alive(pid: int) -> bool:
    fields = process_table._stat_fields(pid)
    return fields is not None and fields[0] != "Z"


HOG = "import os; held = [bytearray(1 << 20) for _ in range(400)]; os._exit(0)"
FORKS = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(100)
        count += 1
except BlockingIOError:
    print(count, flush=True)
"""
SPIN = """
import time
begin, end = time.process_time(), time.monotonic() + 1
while time.monotonic() < end:
    pass
print(time.process_time() - begin)
"""
BOMB = "bomb() { bomb | bomb & }; bomb; sleep 1; echo over"


async def test_fork_bomb_stops_at_the_limit_and_goes_with_its_program(
    limits: MachineLimits, make_plan: MakePlan
) -> None:
    needs(limits, "pids")
    plan = make_plan(BOMB, processes_max=40)

    ended = await run(limits, plan)

    assert ended.is_known
    assert "could start no process" in ended.detail
    assert "limit 40" in ended.detail


async def test_program_has_all_processes_up_to_its_limit(limits: MachineLimits, make_plan: MakePlan) -> None:
    needs(limits, "pids")
    plan = make_plan(f"exec {sys.executable} -c '{FORKS}'", processes_max=25)

    ended = await run(limits, plan)

    assert (ended.exit_code, plan.stdout.read_text(encoding="utf-8")) == (0, "24\n")


async def test_fork_bomb_without_a_control_group_is_ended(make_plan: MakePlan) -> None:
    plan = make_plan("for n in $(seq 80); do sleep 100 & done; wait", processes_max=50)

    ended = await run(NO_GROUPS, plan)

    if os.geteuid() != 0 and ended.ended_by is EndedBy.ITSELF:
        # The kernel's limit for the user was faster than the shim: bash gives up when it can start nothing.
        assert ended.exit_code == 254
        return
    assert ended.ended_by is EndedBy.PROCESS_LIMIT
    assert ended.detail.endswith("limit 50")


async def test_program_over_the_memory_of_its_group_ends_with_that_cause(
    limits: MachineLimits, make_plan: MakePlan
) -> None:
    needs(limits, "memory")
    plan = make_plan(f"exec {sys.executable} -c '{HOG}'", memory_bytes_max=64 << 20)

    ended = await run(limits, plan)

    assert (ended.ended_by, ended.oom_killed) == (EndedBy.MEMORY_LIMIT, True)
    assert str(64 << 20) in ended.detail


async def test_program_that_outlives_a_child_without_memory_says_what_happened(
    limits: MachineLimits, make_plan: MakePlan
) -> None:
    needs(limits, "memory")
    plan = make_plan(f"{sys.executable} -c '{HOG}' || exit 3", memory_bytes_max=64 << 20)

    ended = await run(limits, plan)

    assert (ended.ended_by, ended.exit_code, ended.oom_killed) == (EndedBy.ITSELF, 3, False)
    assert "limit of 67108864 bytes of memory" in ended.detail


async def test_cpu_limit_holds(limits: MachineLimits, make_plan: MakePlan) -> None:
    needs(limits, "cpu")
    plan = make_plan(f"exec {sys.executable} -c '{SPIN}'", cpu_millicores_max=200)

    await run(limits, plan)

    assert float(plan.stdout.read_text(encoding="utf-8")) < 0.5


async def test_attempt_that_fills_its_part_of_the_disk_is_ended(make_plan: MakePlan) -> None:
    plan = make_plan(
        "for n in $(seq 100); do head -c 1000000 /dev/zero > ../outputs/$n; done; sleep 100",
        disk_bytes_max=20_000_000,
        stop_grace_seconds=1,
    )

    ended = await run(NO_GROUPS, plan)

    assert ended.ended_by is EndedBy.DISK_LIMIT
    assert "20000000 bytes of the disk" in ended.detail


async def test_file_larger_than_the_disk_limit_cannot_be_made_not_even_with_holes(
    make_plan: MakePlan,
) -> None:
    plan = make_plan("truncate -s 1T ../outputs/huge || echo refused", disk_bytes_max=20_000_000)

    ended = await run(NO_GROUPS, plan)

    assert (ended.exit_code, plan.stdout.read_text(encoding="utf-8")) == (0, "refused\n")
    assert (plan.outputs / "huge").stat().st_size == 0


async def test_what_the_agent_put_there_is_not_the_programs(make_plan: MakePlan) -> None:
    plan = make_plan("sleep 1.5", disk_bytes_max=1_000_000)
    (plan.inputs / "data").write_bytes(b"x" * 5_000_000)
    (plan.repository / "code").write_bytes(b"x" * 5_000_000)

    assert (await run(NO_GROUPS, plan)).ended_by is EndedBy.ITSELF


@pytest.mark.parametrize("by", ["its group", "its view"])
async def test_killing_its_parent_frees_no_program(
    limits: MachineLimits, make_plan: MakePlan, by: str
) -> None:
    if by == "its group":
        needs(limits, "kill")
    elif problem := await private_view_problem():
        pytest.skip(problem)
    plan = make_plan(
        "setsid sh -c 'echo $$; touch up; sleep 100' & echo $$",
        "until [ -e up ]; do sleep 0.01; done; kill -9 $PPID; sleep 100",
        has_private_view=by == "its view",
    )

    ended = await run(limits if by == "its group" else NO_GROUPS, plan)

    assert (ended.is_known, ended.exit_code) == (False, None)
    pids = [int(word) for word in plan.stdout.read_text(encoding="utf-8").split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.parametrize("changes", [{"boot_id": "an earlier one"}, {"start_ticks": 1}])
async def test_end_of_a_dead_shim_harms_nobody_who_has_its_numbers_by_now(
    make_plan: MakePlan, changes: dict[str, object]
) -> None:
    runtime = ProcessRuntime(NO_GROUPS)
    plan = make_plan("true")
    handle = await runtime.launch(plan)
    await runtime.wait(handle, plan)
    plan.exit_file.unlink()
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)  # noqa: ASYNC220
    try:
        said = {
            "session": stranger.pid,
            "start_ticks": process_table.start_ticks(stranger.pid),
            "boot_id": process_table.boot_id(),
        }
        (plan.state / "program.json").write_text(json.dumps({**said, **changes}), encoding="utf-8")

        assert not (await runtime.wait(handle, plan)).is_known

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_stopping_its_parent_puts_off_no_limit(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard_agent.runtime_process._LOOK_SECONDS", 0.2)
    plan = make_plan("kill -STOP $PPID; sleep 100", time_limit_seconds=1, stop_grace_seconds=1)

    assert (await run(NO_GROUPS, plan)).ended_by is EndedBy.TIME_LIMIT


async def test_exit_status_is_kept_on_a_full_disk(make_plan: MakePlan, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)  # noqa: ASYNC221
    try:
        plan = make_plan("head -c 9000000 /dev/zero > ../outputs/all; exit 7", directory=small)
        ended = await run(NO_GROUPS, plan)
        assert os.statvfs(small).f_bavail == 0
    finally:
        subprocess.run(["umount", "-l", small], check=True)  # noqa: ASYNC221
    assert ended.exit_code == 7


def test_disk_use_counts_each_file_once_and_no_holes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a", tmp_path / "b")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "link").symlink_to("/")

    assert 100_000 <= disk_bytes([str(tmp_path)], 1 << 50) < 150_000
    changed, shared = given_bytes([str(tmp_path)], time.time() + 1)
    assert changed == 0
    assert 100_000 <= shared < 150_000
    assert disk_bytes([str(tmp_path / "none")], 1) == 0


def test_names_that_others_give_to_the_same_inputs_are_not_counted(tmp_path: Path) -> None:
    """An input is a second name of a cached file, and so is that of any other attempt that uses it."""
    inputs, cached = tmp_path / "inputs", tmp_path / "cached"
    inputs.mkdir()
    cached.write_bytes(b"x" * 500_000)
    os.link(cached, inputs / "set")
    plan = {"disk_bytes_max": 200_000, "disk_folders": [], "given_folders": [str(inputs)]}
    watch = DiskWatch(plan)
    assert watch.excess() == ""
    # So that no clock of a file system is too coarse to tell what comes now.
    watch._began_on -= 1
    os.link(cached, tmp_path / "of another attempt")
    os.utime(cached)
    assert watch.excess() == ""
    os.link(cached, inputs / "again")
    assert watch.excess() == ""
    with cached.open("ab") as file:
        file.write(b"x" * 300_000)
    assert "more than 200000 bytes" in watch.excess()
    for path in (inputs / "again", inputs / "set"):
        path.unlink()
    assert watch.excess() == ""
    (inputs / "own").write_bytes(b"x" * 300_000)
    assert "more than 200000 bytes" in watch.excess()


def test_folders_that_hide_something_below_many_others_are_found_out(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "/".join("d" * 502))

    with pytest.raises(TooDeep):
        disk_bytes([str(tmp_path)], 1 << 50)


def test_group_has_the_limits_of_its_plan_in_either_version(make_plan: MakePlan) -> None:
    plan = make_plan("true", memory_bytes_max=1 << 30, processes_max=7, cpu_millicores_max=1500)

    assert group_settings(plan) == {
        "memory.max": "1073741824",
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }
    assert group_settings(plan, frozenset({"memory", "cpu", "pids"})) == {
        "memory.limit_in_bytes": "1073741824",
        "memory.memsw.limit_in_bytes": "1073741824",
        "pids.max": "7",
        "cpu.cfs_quota_us": "150000",
    }
    assert group_settings(make_plan("true")) == {}


def test_machine_without_control_groups_says_what_does_not_hold() -> None:
    weak = MachineLimits()

    assert weak.held["cpu"] == "nothing"
    assert weak.held["processes"] == "the kernel's limit for the user"
    assert [sentence.split()[0] for sentence in weak.warnings] == ["A", "The"]
    whole = MachineLimits({name: Path("/none") for name in ("memory", "pids", "cpu", "kill")})
    assert whole.warnings == ()
    assert "root" in MachineLimits(whole.trees, is_root=True).warnings[0]


def test_rules_are_shares_of_the_machine_unless_somebody_sets_them(tmp_path: Path) -> None:
    assert 0 < AttemptRules().processes() <= 32_768
    assert AttemptRules().disk_bytes(tmp_path) > 0
    assert AttemptRules(processes_max=5, disk_bytes_max=6).processes() == 5
    assert AttemptRules(processes_max=5, disk_bytes_max=6).disk_bytes(tmp_path) == 6


def test_group_that_is_gone_is_empty(tmp_path: Path) -> None:
    gone = [str(tmp_path / "gone")]

    assert control_group.members(gone) == []
    assert control_group.remove(gone)
    control_group.kill(gone)
    assert (control_group.memory_kills(gone), control_group.refused_forks(gone)) == (None, 0)
