"""The container runtime with a real daemon: the same promises as the process runtime."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

from runyard_agent import runtime_docker
from runyard_agent.attempt_sampler import AttemptSampler
from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.domain.file_systems import FileSystem
from runyard_agent.runtime import EndedBy, Exit, Handle, LaunchPlan
from runyard_agent.runtime_docker import DockerRuntime
from runyard_agent.watch_start import Holds
from runyard_core.errors import Conflict, RunyardError, Unavailable

from .containers import MakePlan, daemon, image, plan_of, run, runtime, until_printed

__all__ = ["daemon", "image", "plan_of", "runtime"]

pytestmark = pytest.mark.docker


async def test_output_exit_status_and_environment_are_those_of_the_contract(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of(
        "pwd; echo $MODE; echo err >&2",
        "echo data > $PWD/../outputs/file; cat /valohai/inputs/a/b; cat /valohai/config/x.json",
        "exit 3",
    )
    (plan.inputs / "a").mkdir()
    (plan.inputs / "a/b").write_text("input\n")
    (plan.config / "x.json").write_text("{}\n")

    ended = await run(runtime, plan)

    assert (ended.exit_code, ended.signal, ended.oom_killed, ended.ended_by) == (3, 0, False, EndedBy.ITSELF)
    assert plan.stdout.read_text() == "/valohai/repository\nfast\ninput\n{}\n"
    assert plan.stderr.read_text() == "err\n"
    assert (plan.outputs / "file").read_text() == "data\n"
    assert Exit.from_json(json.loads(plan.exit_file.read_text())) == ended


async def test_a_daemon_that_hears_late_of_an_end_is_waited_for(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("while [ ! -e ../outputs/go ]; do sleep 0.01; done", "exit 3")
    handle = await runtime.launch(plan)
    running, has_heard = daemon.api.inspect_container(handle.id), threading.Event()
    inspect, wait, pidfd_open = daemon.api.inspect_container, daemon.api.wait, os.pidfd_open

    def opened(pid: int) -> int:
        process = pidfd_open(pid)
        # From here on its end is seen: the daemon alone is late.
        (plan.outputs / "go").touch()
        return process

    def inspected(name: str) -> dict[str, Any]:
        return dict(inspect(name) if has_heard.is_set() else running)

    def heard(name: str, **options: Any) -> dict[str, Any]:
        answer = wait(name, **options)
        has_heard.set()
        return dict(answer)

    monkeypatch.setattr(daemon.api, "inspect_container", inspected)
    monkeypatch.setattr(daemon.api, "wait", heard)
    monkeypatch.setattr(os, "pidfd_open", opened)
    async with asyncio.timeout(30):
        assert (await runtime.wait(handle, plan)).exit_code == 3
    await runtime.remove(handle, plan)


async def test_an_end_while_its_watch_is_started_is_seen_soon(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("while [ ! -e ../outputs/go ]; do sleep 0.01; done", "exit 3")
    handle = await runtime.launch(plan)

    async def begin(*_: object) -> Holds:
        (plan.outputs / "go").touch()
        await asyncio.to_thread(daemon.api.wait, handle.id)
        return holds

    async def holds() -> bool:
        return True

    monkeypatch.setattr(runtime_docker, "begin_watch", begin)
    monkeypatch.setattr(runtime_docker, "_LOOK_SECONDS", 1_000.0)
    async with asyncio.timeout(60):
        assert (await runtime.wait(handle, plan)).exit_code == 3
    await runtime.remove(handle, plan)


async def test_a_shebang_chooses_the_interpreter(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of("#!/usr/bin/env python3", "print(6 * 7)")

    assert (await run(runtime, plan)).exit_code == 0
    assert plan.stdout.read_text() == "42\n"


async def test_command_lines_share_one_bash_and_stop_at_the_first_failure(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("export X=1; words=(a b)", "[[ $X == 1 ]] && echo ${words[1]}", "(exit 7)", "echo never")

    assert (await run(runtime, plan)).exit_code == 7
    assert plan.stdout.read_text() == "b\n"


async def test_programs_are_confined(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of(
        "grep -E '^(CapEff|NoNewPrivs)' /proc/self/status",
        "echo x > /valohai/config/x || echo config is read-only",
        "echo $NVIDIA_VISIBLE_DEVICES",
    )

    await run(runtime, plan)

    assert plan.stdout.read_text() == (
        "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nconfig is read-only\nvoid\n"
    )


async def test_launching_again_gives_the_same_container(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of("echo once", "sleep 60")
    first = await runtime.launch(plan)
    assert await runtime.launch(plan) == first
    assert await runtime.find(plan) == first

    await until_printed(plan, "once")
    await runtime.kill(first)
    ended = await runtime.wait(first, plan)
    assert ended.exit_code == 137
    assert not ended.oom_killed
    assert plan.stdout.read_text() == "once\n"
    assert await runtime.find(plan) == first
    await runtime.remove(first, plan)
    assert await runtime.find(plan) == first
    await runtime.kill(first)
    assert await runtime.wait(first, plan) == ended


async def test_a_container_that_was_created_but_not_started_is_started(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    plan = plan_of("echo started")
    plan.stdout.touch()
    plan.stderr.touch()
    created = await runtime._create(plan)
    assert await runtime.find(plan) is None

    handle = await runtime.launch(plan)

    assert handle.id == created
    assert (await runtime.wait(handle, plan)).exit_code == 0
    await runtime.remove(handle, plan)


async def test_a_name_taken_by_somebody_else_is_a_conflict(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    plan = plan_of("true")
    handle = await runtime.launch(plan)
    with pytest.raises(Conflict, match="not of this attempt"):
        await runtime.find(_alias(plan))
    await runtime.remove(handle, plan)


class _Alias(LaunchPlan):
    """Another attempt that happens to have the name of this one."""

    @property
    def name(self) -> str:
        return f"runyard-{self.run_id.removesuffix('x')}-1"


def _alias(plan: LaunchPlan) -> LaunchPlan:
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    return _Alias(**{**fields, "run_id": plan.run_id + "x"})


async def test_a_stop_signal_reaches_the_program_behind_the_shell(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    program = (
        "import signal, sys, time\n"
        "def stop(*_): print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)"
    )
    plan = plan_of("python3 program.py")
    (plan.repository / "program.py").write_text(program)
    handle = await runtime.launch(plan)
    await until_printed(plan, "ready")

    await runtime.signal(handle, signal.SIGTERM)

    async with asyncio.timeout(20):
        ended = await runtime.wait(handle, plan)
    assert ended.exit_code == 143
    assert plan.stdout.read_text() == "ready\nsaved\n"
    await runtime.remove(handle, plan)


async def test_the_programs_processes_are_known_and_sampled(
    runtime: DockerRuntime, plan_of: MakePlan
) -> None:
    plan = plan_of("echo ready; python3 -c 'while True: pass'")
    handle = await runtime.launch(plan)
    await until_printed(plan, "ready")
    sampler = AttemptSampler(in_container=True)

    pids = await runtime.pids(handle)
    sampler.sample(pids)
    async with asyncio.timeout(20):
        while True:
            await asyncio.sleep(0.3)
            sample = sampler.sample(await runtime.pids(handle))
            assert sample is not None
            if sample.cpu_millicores > 100:
                break

    assert len(await runtime.pids(handle)) >= 3
    assert not sample.network_is_host
    assert 1 << 20 < sample.memory_used_bytes < 200 << 20
    costs = []
    for _ in range(20):
        started_at = time.perf_counter()
        sampler.sample(pids)
        costs.append(time.perf_counter() - started_at)
    assert min(costs) < 0.001
    await runtime.kill(handle)
    await runtime.wait(handle, plan)
    assert await runtime.pids(handle) == ()
    await runtime.remove(handle, plan)


async def test_a_removed_container_has_an_unknown_end(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    plan = plan_of("sleep 60")
    handle = await runtime.launch(plan)
    await daemon.call(daemon.api.remove_container, handle.id, force=True)

    async with asyncio.timeout(20):
        ended = await runtime.wait(handle, plan)

    assert not ended.is_known
    assert await runtime.find(plan) is None


async def test_outputs_of_another_user_can_be_read_and_removed(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan, test_image: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can read what another user keeps to itself")
    name = f"local/runyard-other-user:{os.getpid()}"
    subprocess.run(  # noqa: ASYNC221 - nothing else is going on
        ["docker", "build", "-q", "-t", name, "-"],
        input=f"FROM {test_image}\nUSER 10001:10001\n".encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    plan = plan_of(
        "umask 077; mkdir ../outputs/d; echo own > ../outputs/d/file; id -u; touch here", image=name
    )

    ended = await run(runtime, plan)

    assert ended.exit_code == 0
    assert plan.stdout.read_text() == "10001\n"
    assert (plan.outputs / "d/file").stat().st_uid == 10001
    assert (plan.outputs / "d/file").read_text() == "own\n"
    await daemon.call(daemon.api.remove_image, name, force=True)


async def test_what_is_mounted_for_a_container_is_read_only_and_goes_with_it(
    runtime: DockerRuntime, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    # By the way on which NFS is mounted, too.
    mounted = FileSystem("tmpfs", "", "tmpfs", "ro,nosuid,nodev,size=1m", "/sets")
    plan = plan_of(
        "grep -c ' /sets ' /proc/self/mountinfo", "touch /sets/x || echo $?", file_systems=(mounted,)
    )
    before = await daemon.call(daemon.api.volumes)

    ended = await run(runtime, plan)

    assert (ended.exit_code, plan.stdout.read_text()) == (0, "1\n1\n")
    after = await daemon.call(daemon.api.volumes)
    own = [
        each["Options"] == mounted.volume() for found in (before, after) for each in found["Volumes"] or ()
    ]
    assert not any(own)
    assert "Read-only file system" in plan.stderr.read_text()


async def test_starts_that_fail_leave_no_container(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    gpus = plan_of("true", gpu_uuids=("GPU-0",))
    with pytest.raises(RunyardError, match="NVIDIA toolkit") as error:
        await runtime.launch(gpus)
    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"
    assert await runtime.find(gpus) is None

    missing = plan_of("true", image="local/no-such-image:1")
    with pytest.raises(Unavailable) as absent:
        await runtime.launch(missing)
    assert absent.value.code == "IMAGE_UNAVAILABLE"


async def test_a_handle_of_nothing_is_quiet(runtime: DockerRuntime, plan_of: MakePlan) -> None:
    nothing = Handle(kind="container", id="0" * 64)

    await runtime.signal(nothing, signal.SIGTERM)
    await runtime.kill(nothing)
    await runtime.remove(nothing, plan_of("true"))
    assert await runtime.pids(nothing) == ()
