"""The yard that incidents are recorded in: real processes, people with names, scripted GPUs if asked for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.history_service_pb2 import EventView, WatchEventsRequest
from runyard.run.v1.types_pb2 import Run
from runyard_embedded.credentials import load_or_create
from runyard_embedded.home import Home, write_private
from runyard_engines.nats import agent_user_name
from tests.e2e.yard import Clients, Yard

PROJECT = Path(__file__).parent / "project"
FAKE_NVML = Path(__file__).parents[1] / "tools/fake-nvml/build"
NODE = "gpu-a"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Programs of runs are started with the system's own python3, not with that of a checkout."""
GPUS = tuple(f"GPU-0000000{index}-aaaa-4aaa-8aaa-000000000000" for index in range(2))


@dataclass
class RecordedYard:
    """An embedded yard of alice's on node gpu-a."""

    folder: Path
    yard: Yard = field(init=False)
    project: Path = field(init=False)

    def __post_init__(self) -> None:
        self.yard = Yard(self.folder / "home")
        # Outside of any checkout: whose git it is, is no part of an incident.
        self.project = Path(shutil.copytree(PROJECT, self.folder / "project"))

    def person(self, name: str) -> Yard:
        """Give a colleague a token, and what a command line needs to use it."""
        home = self.folder / f"home-of-{name}"
        home.mkdir()
        tokens_file = Home(self.yard.home).tokens_file
        tokens = json.loads(tokens_file.read_text())
        digest = hashlib.sha256(f"token of {name}".encode()).hexdigest()
        tokens["tokens"].append({"sha256": digest, "actor": f"user:{name}", "roles": ["client"]})
        write_private(tokens_file, tokens)
        write_private(home / "context.json", {**self.yard.context, "token": f"token of {name}"})
        return Yard(home)

    def pid_of(self, process: str) -> int:
        """Give the process id that the supervisor has for one of its processes."""
        return int(json.loads((self.yard.home / "yard.json").read_text())["processes"][process]["pid"])

    def set_gpus(self, *foreign: str) -> None:
        """Script two GPUs; ``foreign`` are "pid:bytes" of processes on the second one."""
        on_second = "".join(f"device 1 proc={process}\n" for process in foreign)
        script = "".join(
            f"device {index} name=Fake-H100 uuid={uuid} mem_total=85899345920 util=93 power=480000 temp=61\n"
            for index, uuid in enumerate(GPUS)
        )
        new = self.folder / "gpus.new"
        new.write_text(script + on_second)
        new.rename(self.folder / "gpus")


@contextmanager
def recorded_yard(folder: Path, *, gpus: bool = False) -> Iterator[RecordedYard]:
    """Run a yard in a new folder while the block runs; what it records names paths below it."""
    folder.mkdir(parents=True)
    try:
        recorded = RecordedYard(folder)
        _name_node(recorded.yard.home)
        environment = {"LOGNAME": "alice", "RUNYARD_SLOT_COUNT": "4", "PATH": SYSTEM_PATH}
        if gpus:
            library = subprocess.run(
                [str(FAKE_NVML), str(recorded.folder / "nvml")], check=True, capture_output=True, text=True
            ).stdout.strip()
            recorded.set_gpus()
            environment |= {"LD_LIBRARY_PATH": library, "FAKE_NVML_FILE": str(recorded.folder / "gpus")}
        former = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            recorded.yard.up()
            yield recorded
        finally:
            recorded.yard.down()
            for name, value in former.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    finally:
        shutil.rmtree(folder)


def submit(recorded: RecordedYard, who: Yard, step: str, *options: str, project: str = "lab") -> str:
    """Queue a step of the recorded project as a plain process; gives the run's id."""
    words = ("run", step, "--executor", "process", "--project", project, "--output", "json", *options)
    run_id: str = json.loads(who.cli(*words, folder=recorded.project).stdout)["run"]["run_id"]
    return run_id


async def finished(clients: Clients, run_id: str) -> Run:
    """Wait until a run is over and the log has all of it."""
    return (await clients.complete_record(run_id, timeout_seconds=600)).run


@asynccontextmanager
async def events(clients: Clients, *types: str) -> AsyncIterator[AsyncIterator[EventView]]:
    """Watch events of these types from the first one on."""
    request = WatchEventsRequest(lane=Lane.LANE_DOMAIN)
    request.filter.types.extend(types)
    watch = clients.history.WatchEvents(request)

    async def only_events() -> AsyncIterator[EventView]:
        async for item in watch:
            if item.WhichOneof("item") == "event":
                yield item.event

    try:
        yield only_events()
    finally:
        watch.cancel()


async def seen(clients: Clients, event_type: str, *, count: int = 1) -> EventView:
    """Wait for the so-many-th event of a type."""
    async with events(clients, event_type) as found:
        for _ in range(count - 1):
            await anext(found)
        return await anext(found)


def _name_node(home: Path) -> None:
    """Let the node have the same name wherever an incident is recorded."""
    folder = Home(home)
    folder.make()
    credentials = load_or_create(folder)
    passwords = dict(credentials.nats_passwords)
    passwords[agent_user_name(NODE)] = passwords.pop(agent_user_name(credentials.node_id))
    named = replace(credentials, node_id=NODE, nats_passwords=passwords)
    write_private(folder.credentials_file, {name: getattr(named, name) for name in named.__slots__})
    load_or_create(folder)
