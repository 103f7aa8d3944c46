"""What the agent leaves on a machine when it is removed: nothing, and nothing is lost without being asked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptFinished, LeaseGrant
from runyard.run.v1.types_pb2 import Executor
from runyard_agent import process_table
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.domain.attempt import AttemptState, Phase
from runyard_agent.folder_lock import locked
from runyard_agent.runtime import Handle, LaunchPlan
from runyard_agent.runtime_docker import DockerRuntime
from runyard_agent.uninstall import uninstall
from runyard_core.errors import Conflict, InvalidInput, NotFound, RunyardError, Unavailable

from .conftest import MakePlan
from .containers import daemon, image, plan_of, until_printed

__all__ = ["daemon", "image", "plan_of"]

AGENT = f"{sys.executable} -m runyard_agent --directory $FOLDER"
# In a view of its own, in which /etc is a copy: install as the README says, look, uninstall, look again.
# A systemd that runs sees the machine's /etc: it is not asked, and its own agent, if any, is left alone.
INSTALLED = f"""
set -eu
export SYSTEMD_OFFLINE=1
cp -a /etc "$FOLDER-etc" && mount --bind "$FOLDER-etc" /etc
find /etc -not -name '.*lock' | sort > "$FOLDER-before"
{AGENT} unit > /etc/systemd/system/runyard-agent.service
systemctl enable runyard-agent 2>/dev/null
mkdir /etc/systemd/system/runyard-agent.service.d
echo '[Service]' > /etc/systemd/system/runyard-agent.service.d/more.conf
echo RUNYARD_SLOT_COUNT=2 > /etc/runyard-agent.env
test -L /etc/systemd/system/multi-user.target.wants/runyard-agent.service
mkdir -p "$FOLDER/spool" && touch "$FOLDER/agent.lock"
{AGENT} uninstall
find /etc -not -name '.*lock' | sort | diff "$FOLDER-before" - && test ! -e "$FOLDER"
"""
# As an installer does: folder after folder, until it is ended.
WRITES_ON = 'n=0; while n=$((n + 1)); do mkdir -p "$1/site-packages/p$n"; sleep 0.01; done'


def an_agents_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "agent"
    folder.mkdir()
    with locked(folder):
        (folder / "spool").mkdir()
    return folder


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a copy of /etc, which takes root")
def test_unit_links_and_settings_go_with_the_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSTALLED],
        env={**os.environ, "FOLDER": str(tmp_path / "agent")},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert "removed /etc/systemd/system/runyard-agent.service\n" in said
    assert "removed /etc/runyard-agent.env" in said
    assert f"left      the program itself, in {sys.prefix}" in said


@pytest.mark.system
def test_a_folder_that_no_agent_used_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match="no folder of an agent") as refused:
        uninstall(tmp_path, force=True, tell=print)
    assert refused.value.code == "NOT_AN_AGENTS_FOLDER"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.system
@pytest.mark.parametrize(
    ("phase", "code"),
    [
        (Phase.PREPARING, "ATTEMPTS_PREPARED"),
        (Phase.RUNNING, "OUTPUTS_WAITING"),  # it has ended while no agent looked
        (Phase.COLLECTING, "OUTPUTS_WAITING"),
        (Phase.REPORTING, "OUTPUTS_WAITING"),
    ],
)
def test_what_is_not_at_the_yard_yet_is_not_thrown_away(tmp_path: Path, phase: Phase, code: str) -> None:
    folder = an_agents_folder(tmp_path)
    hold(folder, phase)
    with pytest.raises(Conflict, match="runyard-r1-1") as refused:
        uninstall(folder, force=False, tell=print)
    assert refused.value.code == code
    assert (folder / "attempts").exists()
    uninstall(folder, force=True, tell=print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_an_attempt_whose_last_report_the_yard_has_holds_nothing_up(tmp_path: Path) -> None:
    folder = an_agents_folder(tmp_path)
    record = hold(folder, Phase.REPORTING)
    record.report(AttemptFinished(), datetime.now(UTC))
    [last] = record.pending_reports()
    record.acknowledge(last.report_id)
    uninstall(folder, force=False, tell=print)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_what_a_killed_agent_left_making_an_environment_is_ended(tmp_path: Path) -> None:
    folder = an_agents_folder(tmp_path)
    hold(folder, Phase.PREPARING)
    environment = folder / "cache/environments/e"
    environment.mkdir(parents=True)
    with subprocess.Popen(["sh", "-c", WRITES_ON, "sh", environment], start_new_session=True) as installer:
        try:
            with pytest.raises(Conflict, match="not started yet"):
                uninstall(folder, force=False, tell=print)
            assert installer.poll() is None
            uninstall(folder, force=True, tell=print)
            assert installer.wait(40) == -signal.SIGKILL
        finally:
            installer.kill()
    assert list(tmp_path.iterdir()) == []


def hold(folder: Path, phase: Phase) -> AttemptRecord:
    """Let the agent of a folder have left an attempt there."""
    grant = LeaseGrant(run_id="r1", attempt=1, epoch=1)
    state = AttemptState(phase=phase, executor=Executor.EXECUTOR_PROCESS)
    return AttemptStore(folder / "attempts").create(grant, state)


@pytest.mark.system
def test_containers_that_cannot_be_looked_for_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    folder = an_agents_folder(tmp_path)
    grant = LeaseGrant(run_id="r1", attempt=1, epoch=1)
    state = AttemptState(phase=Phase.RUNNING, executor=Executor.EXECUTOR_DOCKER)
    AttemptStore(folder / "attempts").create(grant, state)
    with pytest.raises(Unavailable, match=r"runyard-r1-1\. Docker is not used") as refused:
        uninstall(folder, force=False, tell=print)
    assert refused.value.code == "DOCKER_UNREACHABLE"
    assert folder.exists()
    with pytest.raises(RunyardError, match="container runyard-r1-1") as incomplete:
        uninstall(folder, force=True, tell=print)
    assert incomplete.value.code == "UNINSTALL_INCOMPLETE"
    assert not folder.exists()


@pytest.mark.docker
async def test_containers_of_the_folder_are_ended_with_force_alone(
    tmp_path: Path, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    folder, said = an_agents_folder(tmp_path), list[str]()
    plan, handle = await begun(folder, daemon, plan_of, f"node-{uuid.uuid4().hex[:12]}")

    with pytest.raises(Conflict, match=f"{plan.run_id}-1") as refused:
        await asyncio.to_thread(uninstall, folder, force=False, tell=said.append)
    assert (refused.value.code, said) == ("ATTEMPTS_RUNNING", [])
    assert (await daemon.call(daemon.api.inspect_container, handle.id))["State"]["Running"]

    await asyncio.to_thread(uninstall, folder, force=True, tell=said.append)
    assert said[0] == f"removed container {handle.id[:12]} of attempt {plan.run_id}-1"
    with pytest.raises(NotFound):
        await daemon.call(daemon.api.inspect_container, handle.id)
    assert not folder.exists()
    commands = [process_table.command_line(pid) for pid in process_table.all_pids()]
    assert not [words for words in commands if any(str(folder) in word for word in words)]


@pytest.mark.docker
async def test_containers_of_a_node_of_the_same_name_in_another_yard_are_left_alone(
    tmp_path: Path, daemon: DockerDaemon, plan_of: MakePlan
) -> None:
    node_id, said = f"node-{uuid.uuid4().hex[:12]}", list[str]()
    for yard in ("ours", "theirs"):
        (tmp_path / yard).mkdir()
    ours, theirs = an_agents_folder(tmp_path / "ours"), an_agents_folder(tmp_path / "theirs")
    (ours / "attempts").mkdir()
    _, handle = await begun(theirs, daemon, plan_of, node_id)

    await asyncio.to_thread(uninstall, ours, force=False, tell=said.append)
    assert [line for line in said if "container " in line] == []
    assert (await daemon.call(daemon.api.inspect_container, handle.id))["State"]["Running"]
    await asyncio.to_thread(uninstall, theirs, force=True, tell=said.append)


async def begun(
    folder: Path, daemon: DockerDaemon, plan_of: MakePlan, node_id: str
) -> tuple[LaunchPlan, Handle]:
    """Begin an attempt of an agent's in a container."""
    grant = LeaseGrant(run_id=f"test-{os.getpid()}-{uuid.uuid4()}", attempt=1, epoch=1)
    state = AttemptState(phase=Phase.RUNNING, executor=Executor.EXECUTOR_DOCKER)
    record = AttemptStore(folder / "attempts").create(grant, state)
    plan = plan_of("echo in; exec sleep 300", run_id=grant.run_id, directory=record.directory)
    handle = await DockerRuntime(daemon, node_id).launch(plan)
    await until_printed(plan, "in")
    return plan, handle
