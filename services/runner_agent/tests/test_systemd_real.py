"""The installed agent as a service of a real systemd: a user of its own, limits by control groups."""

from __future__ import annotations

import pwd
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import AttemptFinished, LeaseGrant
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, Resources
from runyard_agent.systemd_unit import UNIT_PATH, USER
from runyard_testkit import Bus

from .own_kernel import needs_own_kernel, run
from .running_agent import Surroundings, without_agent
from .test_limits import FORKS, HOG, SPIN

pytestmark = [pytest.mark.system, needs_own_kernel, pytest.mark.timeout(900)]

PROGRAM = "/opt/runyard-agent/bin/runyard-agent"
DIRECTORY = Path("/var/lib/runyard-agent")
SETTINGS = Path("/etc/runyard-agent.env")
SERVICE = UNIT_PATH.name
STDOUT = LogStream.LOG_STREAM_STDOUT
PROCESSES_MAX = 60
SECONDS_MAX = 300.0


@dataclass
class Service:
    """The unit, and the yard that its agent attaches to."""

    yard: Surroundings

    def grant(self, *command_lines: str, resources: Resources | None = None) -> LeaseGrant:
        return self.yard.scheduler.grant(
            *command_lines, lease_milliseconds=120_000, resources=resources or Resources()
        )

    async def finished(self, grant: LeaseGrant) -> AttemptFinished:
        report = await self.yard.scheduler.report(grant, "finished", SECONDS_MAX)
        mark = report.finished.telemetry
        await self.yard.ledger.wait_for(mark.spool_id, mark.last_sequence, SECONDS_MAX)
        return report.finished

    def lines(self, grant: LeaseGrant) -> list[str]:
        return self.yard.ledger.lines(grant, STDOUT)

    async def attached(self, count: int) -> None:
        await self.yard.scheduler.wait_for(lambda: len(self.yard.scheduler.hellos) >= count, SECONDS_MAX)

    def shown(self, name: str) -> str:
        return run("systemctl", "show", SERVICE, "--property", name, "--value").strip()

    @property
    def has_subgroup(self) -> bool:
        """Whether this systemd is new enough (254) to give an agent that is not root its control groups."""
        return int(run("systemctl", "--version").split()[1]) >= 254


@pytest.fixture
async def service(bus: Bus) -> AsyncIterator[Service]:
    """Install the agent as its README says, and take it off again."""
    async with without_agent(bus) as yard:
        install({**yard.environment(DIRECTORY), "RUNYARD_PROCESSES_MAX": str(PROCESSES_MAX)})
        try:
            made = Service(yard)
            await made.attached(1)
            yield made
        finally:
            said = run("journalctl", "--no-pager", "--output", "cat", "--unit", SERVICE, expect=None)
            print(said[-20_000:])
            uninstall()


def install(settings: Mapping[str, str]) -> None:
    run("useradd", "--system", "--home-dir", str(DIRECTORY), "--shell", "/usr/sbin/nologin", USER)
    UNIT_PATH.write_text(run(PROGRAM, "unit"))
    SETTINGS.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    SETTINGS.chmod(0o600)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", SERVICE)


def uninstall() -> None:
    if UNIT_PATH.exists():
        run("systemctl", "stop", SERVICE)
        run(PROGRAM, "--directory", str(DIRECTORY), "uninstall", "--force")
    SETTINGS.unlink(missing_ok=True)
    run("userdel", USER)
    assert not UNIT_PATH.exists()
    assert not DIRECTORY.exists()
    assert "could not be found" in run("systemctl", "status", SERVICE, expect=4)


def tree_of(service: Service) -> Path:
    return Path("/sys/fs/cgroup") / service.shown("ControlGroup").lstrip("/")


def groups_of(service: Service) -> list[str]:
    return sorted(str(path.relative_to(tree_of(service))) for path in tree_of(service).glob("runyard-*/*/"))


async def test_systemd_has_nothing_to_say_against_the_unit(service: Service) -> None:
    judged = run("systemd-analyze", "verify", "--man=no", str(UNIT_PATH))
    unknown = [] if service.has_subgroup else ["DelegateSubgroup"]
    assert not [
        line for line in judged.splitlines() if SERVICE in line and not any(word in line for word in unknown)
    ]
    print(run("systemd-analyze", "security", "--no-pager", SERVICE)[-300:])


async def test_the_agent_is_nobody_in_particular_and_holds_all_limits(service: Service) -> None:
    user = pwd.getpwnam(USER)
    assert int(service.shown("MainPID")) > 1
    inventory = service.yard.scheduler.hellos[0].inventory
    about_limits = [warning for warning in inventory.warnings if "process" in warning]
    if not service.has_subgroup:
        assert "no control groups may be made here" in " ".join(about_limits)
        pytest.skip(f"this systemd hands no control group to an agent that is not root: {about_limits}")
    assert about_limits == []
    grants = {
        "who": service.grant(
            "id -u; pwd; ls -d /valohai/*; cat /proc/self/cgroup; grep NoNewPrivs /proc/self/status",
            "echo kept > /valohai/outputs/kept",
        ),
        "memory": service.grant(f"exec python -c '{HOG}'", resources=Resources(memory_bytes_max=100 << 20)),
        "forks": service.grant(f"exec python -c '{FORKS}'"),
        "bomb": service.grant("bomb() { bomb | bomb & }; bomb; sleep 1; echo over"),
        "cpu": service.grant(f"exec python -c '{SPIN}'", resources=Resources(cpu_millicores_max=200)),
        "daemons": service.grant("for n in $(seq 20); do setsid sleep 999 & done; echo left"),
    }
    ends = {name: await service.finished(grant) for name, grant in grants.items()}
    causes = {name: CauseCode.Name(end.cause.code).removeprefix("CAUSE_CODE_") for name, end in ends.items()}
    said = {name: service.lines(grant) for name, grant in grants.items()}
    print(causes, said)

    assert causes.pop("memory") == "OOM_HOST", ends["memory"].cause
    assert set(causes.values()) == {"SUCCEEDED"}, ends
    assert said["who"][:2] == [str(user.pw_uid), "/valohai/repository"]
    assert f"/{SERVICE}/runyard-" in said["who"][-2]
    assert said["who"][-1].split() == ["NoNewPrivs:", "1"]
    assert [file.path for file in ends["who"].outputs] == ["kept"]
    assert said["forks"] == [str(PROCESSES_MAX - 1)]
    assert "could start no process" in ends["bomb"].cause.detail
    assert float(said["cpu"][0]) < 0.6
    await service.yard.scheduler.wait_for(lambda: not service.yard.scheduler.held, SECONDS_MAX)
    assert groups_of(service) == []
    assert run("pgrep", "-u", USER, "sleep", expect=1) == ""


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_new_agent_takes_the_running_program_back(service: Service, how: str) -> None:
    running = service.grant(
        "trap 'echo told; exit 9' TERM",
        "n=0; until [ -e go ]; do n=$((n+1)); echo line $n; sleep 0.2; done; echo over; exit 3",
    )
    await service.yard.scheduler.report(running, "started", SECONDS_MAX)
    before = service.shown("MainPID")
    if how == "restart":
        run("systemctl", "restart", SERVICE)
    else:
        run("systemctl", "kill", "--kill-whom", "main", "--signal", "KILL", SERVICE)
    await service.attached(2)
    assert service.shown("MainPID") != before
    if service.has_subgroup:
        # The new agent can make groups, too, beside one in which a program lives.
        beside = service.grant(f"exec python -c '{HOG}'", resources=Resources(memory_bytes_max=100 << 20))
        assert (await service.finished(beside)).cause.code == CauseCode.CAUSE_CODE_OOM_HOST
    (DIRECTORY / "attempts" / f"{running.run_id}-1" / "repository" / "go").touch()

    end = await service.finished(running)

    assert (end.cause.code, end.cause.exit_code) == (CauseCode.CAUSE_CODE_USER_ERROR, 3), end.cause
    lines = service.lines(running)
    counted = [line for line in lines if line.startswith("line ")]
    assert counted == [f"line {n}" for n in range(1, len(counted) + 1)]
    assert lines[-1] == "over"


async def test_stopping_the_service_ends_no_program_and_uninstalling_does(service: Service) -> None:
    running = service.grant("echo $$; sleep 999")
    await service.yard.scheduler.report(running, "started", SECONDS_MAX)
    run("systemctl", "stop", SERVICE)
    assert run("pgrep", "-u", USER, "--full", "sleep 999")
    refused = run(PROGRAM, "--directory", str(DIRECTORY), "uninstall", expect=3)
    assert "ATTEMPTS_RUNNING" in refused
    said = run(PROGRAM, "--directory", str(DIRECTORY), "uninstall", "--force")
    assert f"ended runyard-{running.run_id}-1" in said
    assert run("pgrep", "-u", USER, "--full", "sleep 999", expect=1) == ""
