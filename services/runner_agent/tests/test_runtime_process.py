"""The process runtime with real processes: what the shim promises, it keeps without the agent."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from runyard_agent import process_table, shim
from runyard_agent.durable_files import write_atomically
from runyard_agent.runtime import EndedBy, Exit, LaunchPlan, lease_text
from runyard_agent.runtime_process import ProcessRuntime
from runyard_agent.watched_limits import now
from runyard_core.errors import RunyardError

from .inherited_signals import UNTOUCHED, ignoring_signals, signals_of

pytestmark = pytest.mark.system

MakePlan = Callable[..., LaunchPlan]

RUNTIME = ProcessRuntime()


async def run(plan: LaunchPlan) -> Exit:
    return await RUNTIME.wait(await RUNTIME.launch(plan), plan)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not holds():  # noqa: ASYNC110 - other processes bring it about
            await asyncio.sleep(0.01)


async def until_printed(plan: LaunchPlan, text: str) -> None:
    await until(lambda: text in plan.stdout.read_text(encoding="utf-8"))


def is_alive(pid: int) -> bool:
    fields = process_table._stat_fields(pid)
    return fields is not None and fields[0] != "Z"


async def test_exit_status_and_output_of_a_program_are_kept(make_plan: MakePlan) -> None:
    plan = make_plan("echo out", "echo err >&2", "exit 3")

    ended = await run(plan)

    assert (ended.exit_code, ended.signal, ended.ended_by) == (3, 0, EndedBy.ITSELF)
    assert plan.stdout.read_bytes() == b"out\n"
    assert plan.stderr.read_bytes() == b"err\n"


async def test_command_lines_share_one_shell_and_stop_at_the_first_failure(make_plan: MakePlan) -> None:
    plan = make_plan("export WORD=kept", "# a comment", "cd /", "echo $WORD $PWD", "false", "echo no")

    ended = await run(plan)

    assert ended.exit_code == 1
    assert plan.stdout.read_text(encoding="utf-8") == "kept /\n"


async def test_shebang_line_chooses_the_interpreter(make_plan: MakePlan) -> None:
    plan = make_plan(f"#!{sys.executable}", "import sys", "print('python'); sys.exit(4)")

    ended = await run(plan)

    assert ended.exit_code == 4
    assert plan.stdout.read_text(encoding="utf-8") == "python\n"


async def test_missing_interpreter_is_the_programs_own_error(make_plan: MakePlan) -> None:
    plan = make_plan("#!/nonexistent/interpreter", "print()")

    ended = await run(plan)

    assert ended.exit_code == 127
    assert b"cannot run" in plan.stderr.read_bytes()


async def test_program_finds_only_the_environment_of_the_plan(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "x")
    plan = make_plan("env", environment={"PATH": os.environ["PATH"], "ONLY": "this"})

    await run(plan)

    names = {line.partition("=")[0] for line in plan.stdout.read_text(encoding="utf-8").splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "ONLY"}
    assert not (plan.state / shim.PLAN_FILE).exists()


async def test_program_can_use_pipes_that_close_early(make_plan: MakePlan) -> None:
    plan = make_plan("set -o pipefail; yes | head -n 1; echo ${PIPESTATUS[0]}")

    await run(plan)

    assert plan.stdout.read_text(encoding="utf-8").split() == ["y", "141"]


async def test_program_finds_its_signals_as_in_a_shell_whatever_the_agent_ignores(
    make_plan: MakePlan,
) -> None:
    plan = make_plan("exec grep -E 'Sig(Blk|Ign)' /proc/self/status")
    with ignoring_signals():
        await run(plan)
    assert signals_of(plan.stdout.read_bytes()) == UNTOUCHED


async def test_launch_twice_starts_once(make_plan: MakePlan) -> None:
    plan = make_plan("echo started")

    handles = await asyncio.gather(*(RUNTIME.launch(plan) for _ in range(4)))
    await RUNTIME.wait(handles[0], plan)
    again = await RUNTIME.launch(plan)

    assert {*handles, again} == {handles[0]}
    assert plan.stdout.read_text(encoding="utf-8") == "started\n"


async def test_program_outlives_its_starter_and_its_status_is_found_again(make_plan: MakePlan) -> None:
    plan = make_plan("echo ready", "read line < go", "exit 7")
    os.mkfifo(plan.repository / "go")
    starter = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        starter.stdin.write(pickle.dumps(plan))
        starter.stdin.close()
        assert starter.stdout.readline() == b"launched\n"
        os.killpg(starter.pid, signal.SIGKILL)
    await until_printed(plan, "ready")

    handle = await RUNTIME.find(plan)
    assert handle is not None
    with (plan.repository / "go").open("w") as go:
        go.write("\n")

    assert (await RUNTIME.wait(handle, plan)).exit_code == 7


STARTER = """
import asyncio, pickle, sys
from runyard_agent.runtime_process import ProcessRuntime

async def main():
    await ProcessRuntime().launch(pickle.load(sys.stdin.buffer))
    print("launched", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_kill_reaches_every_process_in_whatever_session(make_plan: MakePlan) -> None:
    plan = make_plan(
        "setsid sh -c 'echo $$; sleep 100' & (sh -c 'echo $$; sleep 100' &) ; echo $$; echo ready; sleep 100",
    )
    handle = await RUNTIME.launch(plan)
    await until_printed(plan, "ready")
    await until(lambda: len(plan.stdout.read_text(encoding="utf-8").split()) == 4)
    pids = [int(word) for word in plan.stdout.read_text(encoding="utf-8").split() if word.isdigit()]
    assert set(pids) <= set(await RUNTIME.pids(handle))

    await RUNTIME.kill(handle)
    ended = await RUNTIME.wait(handle, plan)

    assert ended.signal == signal.SIGKILL
    assert len(pids) == 3
    assert not [pid for pid in pids if is_alive(pid)]
    assert not await RUNTIME.pids(handle)


async def test_processes_left_behind_end_with_the_program(make_plan: MakePlan) -> None:
    plan = make_plan("setsid sleep 100 & echo $!; exit 0")

    ended = await run(plan)

    assert ended.exit_code == 0
    assert not is_alive(int(plan.stdout.read_text(encoding="utf-8")))


async def test_background_writer_may_finish_after_the_shell(make_plan: MakePlan) -> None:
    # Not much later: it is waited for for half a second.
    plan = make_plan("echo early > >(sleep 0.1; cat)")

    await run(plan)

    assert plan.stdout.read_text(encoding="utf-8") == "early\n"


async def test_signal_is_the_programs_to_answer(make_plan: MakePlan) -> None:
    plan = make_plan("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done")
    handle = await RUNTIME.launch(plan)
    await until_printed(plan, "ready")

    await RUNTIME.signal(handle, signal.SIGTERM)

    assert (await RUNTIME.wait(handle, plan)).exit_code == 5


async def test_program_of_a_stopped_shell_has_its_grace_to_save_what_it_has(make_plan: MakePlan) -> None:
    plan = make_plan(f"{sys.executable} -u -c '{SAVES}'", "echo not reached")
    handle = await RUNTIME.launch(plan)
    await until_printed(plan, "ready")

    await RUNTIME.signal(handle, signal.SIGTERM)
    ended = await RUNTIME.wait(handle, plan)

    assert (ended.exit_code, ended.signal) == (143, 0)
    assert plan.stdout.read_text(encoding="utf-8") == "ready\nsaved\n"


SAVES = """
import signal, sys, time
def save(*_):
    time.sleep(1.0)
    print("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready")
time.sleep(100)
"""


async def test_time_limit_ends_a_program_that_ignores_the_signal(make_plan: MakePlan) -> None:
    plan = make_plan(
        "trap '' TERM; while :; do sleep 0.05; done", time_limit_seconds=0.3, stop_grace_seconds=0.3
    )
    started = time.monotonic()

    ended = await run(plan)

    assert (ended.ended_by, ended.signal) == (EndedBy.TIME_LIMIT, signal.SIGKILL)
    assert "time limit of 0.3 s" in ended.detail
    assert 0.6 <= time.monotonic() - started < 40


async def test_program_without_output_ends(make_plan: MakePlan) -> None:
    plan = make_plan("echo once; sleep 100", no_output_timeout_seconds=0.3)

    assert (await run(plan)).ended_by is EndedBy.NO_OUTPUT_TIMEOUT


async def test_program_over_its_memory_limit_ends(make_plan: MakePlan) -> None:
    hog = "import time; held = b'x' * 100_000_000; time.sleep(100)"
    plan = make_plan(f'{sys.executable} -c "{hog}"', memory_bytes_max=50_000_000)

    ended = await run(plan)

    assert (ended.ended_by, ended.oom_killed) == (EndedBy.MEMORY_LIMIT, True)


async def test_expired_lease_ends_the_program_at_once_without_the_agent(make_plan: MakePlan) -> None:
    plan = make_plan("trap '' TERM; echo $$; sleep 100", ends_on_lease_expiry=True)
    expires_at = now() + 0.5
    plan.lease_file.write_text(lease_text(expires_at), encoding="ascii")

    ended = await run(plan)

    assert ended.ended_by is EndedBy.LEASE_EXPIRY
    # At once: not after its program, nor after the grace of a stop.
    assert expires_at <= now() < expires_at + 20


async def test_renewed_lease_keeps_the_program_running(make_plan: MakePlan) -> None:
    plan = make_plan("until [ -e go ]; do sleep 0.05; done", ends_on_lease_expiry=True)
    first_expiry = now() + 8
    plan.lease_file.write_text(lease_text(first_expiry), encoding="ascii")
    handle = await RUNTIME.launch(plan)
    # As the agent does: the shim may read it at this moment.
    write_atomically(plan.lease_file, lease_text(now() + 60).encode("ascii"))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(RUNTIME.wait(handle, plan), first_expiry + 0.3 - now())
    (plan.repository / "go").touch()

    assert (await RUNTIME.wait(handle, plan)).exit_code == 0


async def test_program_that_ends_with_its_lease_needs_one(make_plan: MakePlan) -> None:
    with pytest.raises(RunyardError, match="has none yet"):
        await RUNTIME.launch(make_plan("true", ends_on_lease_expiry=True))


async def test_killed_shim_leaves_no_process_and_no_invented_status(make_plan: MakePlan) -> None:
    plan = make_plan("echo $$; sleep 100")
    handle = await RUNTIME.launch(plan)
    await until_printed(plan, "\n")

    os.kill(int(handle.id), signal.SIGKILL)
    ended = await RUNTIME.wait(handle, plan)

    assert (ended.is_known, ended.exit_code) == (False, None)
    await until(lambda: not is_alive(int(plan.stdout.read_text(encoding="utf-8"))))


async def test_shim_is_small(make_plan: MakePlan) -> None:
    plan = make_plan("read line < go")
    os.mkfifo(plan.repository / "go")
    handle = await RUNTIME.launch(plan)

    resident = process_table._kilobytes(f"/proc/{handle.id}/status", "VmRSS:")
    await RUNTIME.remove(handle, plan)

    assert 0 < resident <= 12 * 1024


BEHIND_OTHERS = """
import os, signal, subprocess
from runyard_agent import process_table
subprocess.run(["mount", "-t", "proc", "-o", "hidepid=1", "proc", "/proc"], check=True)
if not (of_root := os.fork()):
    signal.pause()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
program = subprocess.Popen(["sleep", "100"])
own = program.pid
# Right after the fork it is as hidden as its parent, which was root.
while not os.path.exists(f"/proc/{own}/stat"):
    os.sched_yield()
print(process_table.descendants(1) == [own], own in process_table.session_members(os.getsid(0)))
print(process_table.start_ticks(own) > 0, process_table.start_ticks(of_root), flush=True)
program.kill()
program.wait()
"""


def test_processes_of_others_may_be_hidden() -> None:
    """With "hidepid=1" they are listed and cannot be read: nothing could be looked for, or ended."""
    looked = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", sys.executable, "-c", BEHIND_OTHERS],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    if "unshare" in looked.stderr or "'mount'" in looked.stderr:
        pytest.skip("no /proc of its own can be mounted here")
    assert (looked.stdout, looked.stderr) == ("True True\nTrue 0\n", "")
