"""Record the incidents again: ``python -m tests.replay.record NAME...`` writes ``histories/NAME``.

Every event comes from a real process of a real yard. Nothing is edited afterwards. The
hours of ``foreign-gpu`` are real hours; other waits are shorter than in real life. The timestamps are those
of the recording.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from runyard.run.v1.scheduler_service_pb2 import GetRunRequest
from runyard.run.v1.types_pb2 import OnLost, RunState
from tests.e2e.yard import Clients, Yard
from tests.replay.recorded_yard import NODE, RecordedYard, finished, recorded_yard, seen, submit

HISTORIES = Path(__file__).parent / "histories"
FOLDER = Path("/srv/runyard")
"""A usual place, as every record holds the paths of its machine."""
SYSTEM_PREFIXES = ("/usr", "/usr/local")
FOREIGN_SECONDS = 2 * 3600.0 + 300.0
"""How long the foreign process holds its GPU: hours, in real time."""

GOOD_ROWS = "x,y\n" + "".join(f"{n / 50},{3 * n / 50 + 1}\n" for n in range(50))
# Every second label was lost on the way, and came out as 0.
BAD_ROWS = "x,y\n" + "".join(f"{n / 50},{3 * n / 50 + 1 if n % 2 else 0}\n" for n in range(50))
TEST_ROWS = "x,y\n" + "".join(f"{n / 20 + 0.01},{3 * (n / 20 + 0.01) + 1}\n" for n in range(20))


async def lost_node(recorded: RecordedYard, clients: Clients) -> None:
    """A node falls silent under two runs; one waits for it, the other asked to be queued again."""
    yard = recorded.yard
    yard.cli("price", "set", "3.60", "--per", "node-hour")
    dataset = put(yard, "line.csv", GOOD_ROWS)
    patient = submit(
        recorded, yard, "train", "--input", f"dataset={dataset}", "--epochs", "90", "--epoch-seconds", "0.5"
    )
    spec = (await clients.scheduler.GetRun(GetRunRequest(name=patient))).run.spec
    spec.on_lost = OnLost.ON_LOST_REQUEUE
    impatient = (await clients.submit(spec, "lab")).run_id
    for run_id in (patient, impatient):
        await clients.reached(run_id, RunState.RUN_STATE_RUNNING)
    await asyncio.sleep(5)
    agent = recorded.pid_of("agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        await seen(clients, "runyard.run.requeued")
        await asyncio.sleep(5)
    finally:
        os.kill(agent, signal.SIGCONT)
    for run_id in (patient, impatient):
        await finished(clients, run_id)


async def foreign_gpu(recorded: RecordedYard, clients: Clients) -> None:
    """Somebody's notebook sits on one of two GPUs; a run that wants both waits, a smaller one goes first."""
    dataset = put(recorded.yard, "line.csv", GOOD_ROWS)
    bob = recorded.person("bob")
    given = ("--input", f"dataset={dataset}", "--epochs", "20", "--epoch-seconds", "0.25")
    notebook = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NOTEBOOK, stdin=asyncio.subprocess.PIPE
    )
    try:
        recorded.set_gpus(f"{notebook.pid}:{21 << 30}")
        await seen(clients, "runyard.node.foreign_process_seen")
        large = submit(recorded, recorded.yard, "train", *given, "--gpus", "2", "--title", "both GPUs")
        await asyncio.sleep(20)
        small = submit(recorded, bob, "train", *given, "--gpus", "1", "--title", "one GPU")
        await finished(clients, small)
        await asyncio.sleep(FOREIGN_SECONDS)
        notebook.terminate()
        await notebook.wait()
        recorded.set_gpus()
        await finished(clients, large)
    finally:
        if notebook.returncode is None:
            notebook.kill()
            await notebook.wait()


async def corrupt_dataset(recorded: RecordedYard, clients: Clients) -> None:
    """A broken dataset is put, trained on twice and evaluated before anybody notices."""
    alice, bob = recorded.yard, recorded.person("bob")
    good = put(alice, "line-v1.csv", GOOD_ROWS)
    testset = put(alice, "test.csv", TEST_ROWS)
    first = await finished(clients, submit(recorded, alice, "train", "--input", f"dataset={good}"))
    bad = put(bob, "line-v2.csv", BAD_ROWS)
    second = await finished(clients, submit(recorded, bob, "train", "--input", f"dataset={bad}"))
    longer = ("--input", f"dataset={bad}", "--epochs", "8")
    third = await finished(clients, submit(recorded, alice, "train", *longer))
    for trained in (first, second, third):
        model = f"datum://{trained.attempts[-1].outputs[0].sha256}"
        evaluated = ("--input", f"model={model}", "--input", f"testset={testset}")
        await finished(clients, submit(recorded, alice, "evaluate", *evaluated))


async def wrong_price(recorded: RecordedYard, clients: Clients) -> None:
    """A price is typed with its point in the wrong place, and put right from its first day on."""
    alice, bob = recorded.yard, recorded.person("bob")
    dataset = put(alice, "line.csv", GOOD_ROWS)
    given = ("--input", f"dataset={dataset}", "--epochs", "12", "--epoch-seconds", "0.5")
    alice.cli("price", "set", "3.60", "--per", "node-hour", "--note", "contract 2026")
    await finished(clients, submit(recorded, alice, "train", *given))
    rate = ("--per", "node-hour", "--node", NODE)
    wrong = bob.cli("price", "set", "410", *rate, "--note", "new rate of gpu-a", "--output", "json").stdout
    since = json.loads(wrong)["price"]["effective_from"]
    await finished(clients, submit(recorded, alice, "train", *given))
    await finished(clients, submit(recorded, alice, "train", *given, project="bench"))
    bob.cli("price", "set", "4.10", *rate, "--from", since, "--note", "4.10 a node-hour, not 410")
    await finished(clients, submit(recorded, alice, "train", *given))


NOTEBOOK = """
from pathlib import Path
Path("/proc/self/comm").write_text("jupyter-lab")
input()
"""

Incident = Callable[[RecordedYard, Clients], Awaitable[None]]
INCIDENTS: Mapping[str, Incident] = {
    "lost-node": lost_node,
    "foreign-gpu": foreign_gpu,
    "corrupt-dataset": corrupt_dataset,
    "wrong-price": wrong_price,
}


def put(yard: Yard, name: str, content: str) -> str:
    """Put a file as a person does; gives its datum:// reference."""
    path = yard.home / name
    path.write_text(content)
    return yard.cli("put", str(path), "--project", "lab").stdout.strip()


async def _play(incident: Incident, recorded: RecordedYard) -> None:
    async with Clients(recorded.yard) as clients:
        await incident(recorded, clients)


def record(name: str, folder: Path) -> None:
    """Play an incident in a yard of its own, below a folder, and export its history."""
    target = HISTORIES / name
    with recorded_yard(folder / name, gpus=name == "foreign-gpu") as recorded:
        asyncio.run(_play(INCIDENTS[name], recorded))
        shutil.rmtree(target, ignore_errors=True)
        recorded.yard.cli("history", "export", str(target), "--names")


def main() -> None:
    """Record the incidents that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(INCIDENTS))
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where yards are made (%(default)s)")
    given = parser.parse_args()
    names = given.names or list(INCIDENTS)
    if not set(names) <= set(INCIDENTS):
        parser.error(f"want some of {', '.join(INCIDENTS)}")
    if sys.base_prefix not in SYSTEM_PREFIXES:
        parser.error(
            f"the record would name {sys.base_prefix}, a Python of this machine alone: "
            "make setup PYTHON=/usr/bin/python3 in a fresh clone, and record there"
        )
    for name in names:
        record(name, given.folder)
        print(f"recorded {name}", flush=True)


if __name__ == "__main__":
    main()
