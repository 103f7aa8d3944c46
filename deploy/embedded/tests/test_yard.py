"""Whole yards on real engines, by the command line."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard_core.errors import Rejected
from runyard_embedded.credentials import load_or_create
from runyard_embedded.home import Home, node_id_of_this_machine
from runyard_embedded.state import Phase, ProcessState, read_state
from runyard_embedded.stopping import RunningAttempt, running_attempts
from runyard_engines import Postgres, ProcessIdentity, agent_user
from runyard_engines.process import wait_for_exit
from runyard_testkit import Bucket, Bus

from .backup_page import Reader, lines_of

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yards")]

SERVICES = {"scheduler", "artifact", "metrics", "cost", "lineage", "relay", "agent"}
ENGINES = {"postgres", "nats", "store"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RUNYARD_")}


class Yard:
    """A yard as a person at a terminal has it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.home = Home(folder)
        self.settings = settings

    def runyard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runyard_cli", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    def begin(self, *arguments: str, folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "runyard_cli", *arguments]
        return subprocess.Popen(command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, text=True)

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, "RUNYARD_HOME": str(self.home.folder), **self.settings}

    def share(self, environments: Path) -> None:
        """Let its agent take virtual environments from a folder of many; before it starts."""
        self.home.make()
        (self.home.agent / "cache").mkdir()
        (self.home.agent / "cache" / "environments").symlink_to(environments)

    def up(self) -> None:
        done = self.runyard("up", "--background")
        assert done.returncode == 0, done.stderr

    def down(self) -> None:
        done = self.runyard("down", "--force")
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, dict[str, Any]]:
        done = self.runyard("status", "--output", "json")
        return {process["state"]["name"]: process for process in json.loads(done.stdout)["processes"]}

    def process(self, name: str) -> ProcessState:
        state = read_state(self.home)
        assert state is not None
        return state.processes[name]

    def identities(self) -> dict[str, ProcessIdentity]:
        state = read_state(self.home)
        assert state is not None
        processes = [state.supervisor, *state.processes.values()]
        return {process.name: process.identity for process in processes if process.identity is not None}


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, shared_environments: Path) -> Iterator[Yard]:
    running = Yard(tmp_path_factory.mktemp("embedded") / ".runyard")
    running.share(shared_environments)
    running.up()
    yield running
    running.down()


async def gone(identities: dict[str, ProcessIdentity], seconds_max: float = 30) -> list[str]:
    """Wait for processes to end; give the names of those that do not."""
    ended = await asyncio.gather(*(wait_for_exit(one.pid, seconds_max) for one in identities.values()))
    return [
        name for (name, one), end in zip(identities.items(), ended, strict=True) if not end and one.is_alive()
    ]


def test_everything_is_up_and_reads_what_the_log_has(yard: Yard) -> None:
    status = yard.status()
    assert set(status) == SERVICES | ENGINES
    assert {process["state"]["phase"] for process in status.values()} == {"up"}
    assert all(status[name]["lag"] is not None for name in SERVICES - {"agent"})


def test_a_second_up_says_that_it_is_up_and_changes_nothing(yard: Yard) -> None:
    before = yard.identities()
    done = yard.runyard("up", "--background")
    assert (done.returncode, yard.identities()) == (0, before)
    assert f"is up already (supervisor {before['supervisor'].pid})" in done.stderr
    refused = yard.runyard("up", "--background", "--restored")
    assert (refused.returncode, yard.identities()) == (3, before)
    assert "Stop it first" in refused.stderr
    without_gate = yard.runyard("up", "--background", "--listen", "127.0.0.1")
    assert (without_gate.returncode, yard.identities()) == (3, before)
    assert "has no gate" in without_gate.stderr


def test_secrets_are_readable_by_their_owner_only(yard: Yard) -> None:
    kept = [*yard.home.folder.glob("*.json"), *yard.home.folder.glob("*.key")]
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in kept}
    names = {"context.json", "credentials.json", "tokens.json", "yard.json", "yard.key"}
    assert {path.name for path in found} >= names
    assert set(found.values()) == {0o600}


def test_no_secret_is_in_a_log_or_on_a_command_line(yard: Yard) -> None:
    credentials = json.loads(yard.home.credentials_file.read_text())
    secrets = [
        value for name, value in credentials.items() if name.endswith(("token", "password", "secret_key"))
    ]
    secrets += [*credentials["role_passwords"].values(), *credentials["nats_passwords"].values()]
    texts = [path.read_text(errors="replace") for path in yard.home.logs.iterdir()]
    texts += [
        Path(f"/proc/{one.pid}/cmdline").read_text(errors="replace") for one in yard.identities().values()
    ]
    assert [secret for secret in secrets if any(secret in text for text in texts)] == []


@pytest.mark.parametrize("name", ["cost", "nats", "postgres", "agent"])
async def test_a_killed_process_comes_back(yard: Yard, name: str) -> None:
    before = yard.process(name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while not came_back(yard.process(name), before.restarts):  # noqa: ASYNC110 - its file is its only word
            await asyncio.sleep(0.05)
    assert yard.process(name).identity != before.identity
    told = yard.status()[name]["state"]
    assert (told["phase"], told["restarts"]) == ("up", before.restarts + 1)


def came_back(state: ProcessState, restarts: int) -> bool:
    return (state.phase, state.restarts) == (Phase.UP, restarts + 1)


async def test_nothing_outlives_a_killed_supervisor_and_the_next_up_finds_everything(yard: Yard) -> None:
    before = yard.identities()
    ports = yard.home.ports_file.read_text()
    os.kill(before["supervisor"].pid, signal.SIGKILL)
    left = await gone(before)
    for name in left:
        # The tests after this one need the yard.
        os.kill(before[name].pid, signal.SIGKILL)
    told = yard.runyard("status").returncode
    yard.up()
    assert (left, told) == ([], 4)
    assert yard.home.ports_file.read_text() == ports
    assert {process["state"]["phase"] for process in yard.status().values()} == {"up"}


PROJECT = """
- step:
    name: wait
    image: none
    command: echo waiting; exec sleep 600
- step:
    name: put
    image: none
    command: echo fish > $VH_OUTPUTS_DIR/fish
"""


@pytest.fixture
def training(yard: Yard, tmp_path: Path) -> RunningAttempt:
    """A run that does not end by itself."""
    (tmp_path / "valohai.yaml").write_text(PROJECT)
    command = ["run", "wait", "--executor", "process", "--project", "digits", "--follow"]
    with yard.begin(*command, folder=tmp_path) as following:
        assert following.stdout is not None
        assert "waiting\n" in following.stdout
        following.terminate()
    (attempt,) = running_attempts(yard.home)
    return attempt


def test_a_yard_is_backed_up_while_it_trains_lost_and_put_back_as_the_page_says(
    yard: Yard, training: RunningAttempt, tmp_path: Path, shared_environments: Path
) -> None:
    reader = Reader(yard.home.folder.parent, tmp_path, ENVIRONMENT)
    reader.type("runyard run put --executor process --project digits --follow")
    seal(yard)
    asks_before_it_stops(yard)
    down, *_ = reader.follow("Back up")
    assert "1 attempt trains on" in down
    assert training.shim.is_alive()
    assert reader.type("runyard ps --project digits --state running").count("digits#") == 1
    yard.down()
    assert running_attempts(yard.home) == []

    shutil.rmtree(yard.home.folder)
    unpack, give_key, up, _, *looks = lines_of("Restore")  # tests of their own compare the read models
    reader.type(unpack)
    yard.share(shared_environments)
    assert "[YARD_KEY_MISSING]" in reader.type(up, expect=1)
    reader.type(give_key)
    yard.home.credentials_file.rename(tmp_path / "credentials")
    with pytest.raises(Rejected, match=r"credentials\.json is missing.* put it back from a backup"):
        load_or_create(yard.home)
    (tmp_path / "credentials").rename(yard.home.credentials_file)
    reader.type(up)
    assert "the restored log, which ends at" in (yard.home.logs / "supervisor.log").read_text()

    for look in looks:
        reader.type(look)
    assert (tmp_path / "out" / "fish").read_text() == "fish\n"
    assert f"by user:{getpass.getuser()}" in reader.type("runyard show digits#2")
    assert "used code" in reader.type("runyard trace digits#2")
    # The one that trained is gone, and the yard says so or soon will; a new one works.
    assert reader.type("runyard ps --project digits").count("digits#") == 2
    assert "digits#3 succeeded" in reader.type("runyard run put --executor process --project digits --follow")


def asks_before_it_stops(yard: Yard) -> None:
    refused = yard.runyard("down")
    assert refused.returncode == 3
    assert "1 attempt still trains: digits#1 [RUNS_ARE_TRAINING]" in refused.stderr
    assert "--keep-runs" in refused.stderr
    assert yard.identities()["supervisor"].is_alive()


def seal(yard: Yard) -> None:
    """Seal what the log holds of runs, as its service does when it is due."""
    given = environment_of(yard.identities()["lineage"]).split("\0")
    environment = dict(line.split("=", 1) for line in given if line)
    environment |= {"RUNYARD_SEALING_AGE_SECONDS_MAX": "0.001", "RUNYARD_SEALING_EVENTS_MAX": "40"}
    command = [sys.executable, "-m", "runyard_lineage.sealing_process", "domain"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


async def test_two_yards_stand_side_by_side(yard: Yard, tmp_path: Path) -> None:
    first = yard.identities()
    other = Yard(tmp_path / "other")
    other.up()
    second = other.identities()
    ports = [json.loads(one.home.ports_file.read_text()).values() for one in (yard, other)]
    assert set(ports[0]).isdisjoint(ports[1])
    other.down()
    assert await gone(second) == []
    assert other.runyard("status").returncode == 4
    assert yard.identities() == first
    assert {process["state"]["phase"] for process in yard.status().values()} == {"up"}


def test_a_fixed_port_in_use_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Yard(tmp_path / "yard", RUNYARD_PORT_METRICS=str(port))
        done = refused.runyard("up", "--background")
    assert done.returncode == 1
    assert f"metrics cannot listen on 127.0.0.1:{port}: the port is in use [PORT_IN_USE]" in done.stderr
    assert "Traceback" not in done.stderr
    assert refused.runyard("status").returncode == 4


def test_an_engine_that_does_not_start_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    broken = Yard(tmp_path / "yard")
    broken.home.make()
    load_or_create(broken.home)
    (broken.home.data / "postgres").mkdir()
    (broken.home.data / "postgres" / "PG_VERSION").write_text("9")
    done = broken.runyard("up", "--background")
    assert done.returncode == 1
    assert "Error: postgres did not start" in done.stderr
    assert "[ENGINE_FAILED]" in done.stderr
    assert "Traceback" not in done.stderr
    assert {name for name, one in broken.identities().items() if one.is_alive()} == set()


def test_programs_of_postgres_that_are_not_there_are_named(tmp_path: Path) -> None:
    broken = Yard(tmp_path / "yard", RUNYARD_POSTGRES_BIN="/nowhere")
    done = broken.runyard("up", "--background")
    assert done.returncode == 1
    assert "RUNYARD_POSTGRES_BIN=/nowhere is not a folder with initdb and postgres" in done.stderr


def test_an_external_database_that_refuses_us_is_one_line(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.spec.url(password="wrong")
    done = Yard(tmp_path / "yard", RUNYARD_EXTERNAL_DATABASE_URL=url).runyard("up", "--background")
    assert done.returncode == 1
    assert f"Error: PostgreSQL at 127.0.0.1:{postgres.spec.port} does not serve us as postgres" in done.stderr
    assert "[ENGINE_UNAVAILABLE]" in done.stderr
    assert "wrong" not in done.stderr


def test_down_without_a_yard_is_no_error(tmp_path: Path) -> None:
    done = Yard(tmp_path / "yard").runyard("down")
    assert (done.returncode, done.stdout) == (0, f"No yard was up under {tmp_path / 'yard'}.\n")


async def test_engines_that_somebody_else_runs_are_used(
    own_postgres: Postgres, bus: Bus, bucket: Bucket, tmp_path: Path
) -> None:
    # A server of its own: roles and their passwords belong to a whole server, and the yard sets them.
    node = agent_user(node_id_of_this_machine(), "agent-password")
    bus.server.set_users([*bus.server.spec.users, node])
    passwords = tmp_path / "passwords.json"
    passwords.write_text(json.dumps({user.name: user.password for user in bus.server.spec.users}))
    borrowing = Yard(
        tmp_path / "yard",
        RUNYARD_EXTERNAL_DATABASE_URL=own_postgres.spec.url(),
        RUNYARD_EXTERNAL_NATS_URL=bus.url,
        RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE=str(passwords),
        RUNYARD_EXTERNAL_S3_ENDPOINT=bucket.endpoint,
        RUNYARD_EXTERNAL_S3_REGION=bucket.region,
        RUNYARD_EXTERNAL_S3_BUCKET=bucket.name,
        RUNYARD_EXTERNAL_S3_ACCESS_KEY=bucket.access_key,
        RUNYARD_EXTERNAL_S3_SECRET_KEY=bucket.secret_key,
    )
    await asyncio.to_thread(borrowing.up)
    try:
        status = await asyncio.to_thread(borrowing.status)
        assert set(status) == SERVICES
        assert {process["state"]["phase"] for process in status.values()} == {"up"}
        # A service may read the archive of the log, and nothing else is handed on.
        cost = environment_of(borrowing.identities()["cost"]).split("\0")
        assert not [line for line in cost if line.startswith("RUNYARD_EXTERNAL_")]
        assert [line.split("=")[0] for line in cost if bucket.secret_key in line] == ["RUNYARD_ARCHIVE_URL"]
        assert bucket.secret_key not in environment_of(borrowing.identities()["agent"])
    finally:
        await asyncio.to_thread(borrowing.down)


def environment_of(process: ProcessIdentity) -> str:
    return Path(f"/proc/{process.pid}/environ").read_text()
