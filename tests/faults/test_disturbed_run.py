"""A run under kills of its agent, cuts of its network and restarts leaves the record of any run."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Executor, RunSpec, RunState
from tests.e2e.yard import Clients, Yard
from tests.faults.network import Network, NoNamespaces, forwarding, network
from tests.faults.own_agent import OwnAgent, own_agent
from tests.faults.processes import kill_process, process_of, restarted
from tests.faults.records import differences, everything

pytestmark = [
    pytest.mark.engines,
    pytest.mark.faults,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("disturbed"),
]

WHOLE = os.environ.get("RUNYARD_FAULT_DOSE") == "whole"
KILLS = 20 if WHOLE else 4
CUTS = 4 if WHOLE else 1
STEPS = 900 if WHOLE else 80
EXIT_CODE = 7
SERVICES = ("nats", "scheduler")

PROGRAM = f"""
python -u - <<'END'
import json, os, sys, time
outputs = os.environ["VH_OUTPUTS_DIR"]
for step in range({STEPS}):
    print("line", step)
    print(json.dumps({{"step": step, "loss": 1 / (step + 1)}}))
    print("warning", step, file=sys.stderr)
    if step % 20 == 0:
        path = f"{{outputs}}/checkpoint-{{step}}.bin"
        with open(path, "w") as file:
            file.write(f"weights of {{step}}")
        if step % 40 == 0:
            os.chmod(path, 0o444)
    time.sleep(0.05)
END
exit {EXIT_CODE}
"""


@dataclass(frozen=True)
class World:
    """A yard, and its agent in a network of its own."""

    yard: Yard
    agent: OwnAgent
    network: Network | None
    problem: str = ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, shared_environments: Path) -> Iterator[World]:
    """Not the yard of other tests: its own agent is given up."""
    with ExitStack() as stack:
        yard = Yard(home=Path(tmp_path_factory.mktemp("disturbed")))
        yard.share(shared_environments)
        yard.up()
        stack.callback(yard.down)
        try:
            cable = stack.enter_context(network())
        except NoNamespaces as error:
            yield World(yard, stack.enter_context(own_agent(yard)), None, str(error))
        else:
            yield World(yard, _agent_beyond(stack, yard, cable), cable)


@pytest.fixture
async def clients(world: World) -> AsyncIterator[Clients]:
    async with Clients(world.yard) as opened:
        yield opened


def _agent_beyond(stack: ExitStack, yard: Yard, cable: Network) -> OwnAgent:
    """Let the yard's agent live at the other end of the cable; the services stay on loopback."""
    names = ("scheduler", "artifact", "metrics", "nats", "store")
    ports = {name: process_of(yard, name)["port"] for name in names}
    outside = {f"{cable.outer_address}:{port}": f"127.0.0.1:{port}" for port in ports.values()}
    stack.enter_context(forwarding(outside))
    # Presigned addresses name the store's loopback address; the agent finds it there, too.
    store = ports["store"]
    inside = {f"127.0.0.1:{store}": f"{cable.outer_address}:{store}"}
    stack.enter_context(forwarding(inside, cable.enter))
    changes = {
        f"RUNYARD_{name.upper()}_ADDRESS": f"{cable.outer_address}:{ports[name]}"
        for name in ("scheduler", "artifact")
    }
    changes["RUNYARD_NATS_URL"] = f"nats://{cable.outer_address}:{ports['nats']}"
    return stack.enter_context(own_agent(yard, changes, cable.enter))


async def test_run_under_kills_cuts_and_restarts_leaves_the_record_of_an_undisturbed_one(
    world: World, clients: Clients
) -> None:
    seed = int(os.environ.get("RUNYARD_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}: repeat with RUNYARD_TEST_SEED={seed}")
    spec = RunSpec(
        step="count", command_lines=[PROGRAM], executor=Executor.EXECUTOR_PROCESS, stop_grace_seconds=5
    )
    quiet = await clients.submit(spec, "disturbed")
    expected = await everything(clients, quiet.run_id, 120)
    assert (len(expected["stdout"]), len(expected["stderr"])) == (2 * STEPS, STEPS)
    assert len(expected["outputs"]) == -(-STEPS // 20)

    run = await clients.submit(spec, "disturbed")
    killed_before = world.agent.kill_count
    async with asyncio.TaskGroup() as group:
        group.create_task(kill_again_and_again(world, random.Random(seed)))
        group.create_task(cut_now_and_then(world, random.Random(seed + 1)))
        if WHOLE:
            group.create_task(restart_services(world, random.Random(seed + 2)))
    found = await everything(clients, run.run_id, 200)

    assert world.agent.kill_count - killed_before == KILLS
    assert found["record"]["run"]["cause"]["exitCode"] == EXIT_CODE
    assert differences(expected, found) == []
    if world.network is None:
        pytest.skip(f"all but the cuts: {world.problem}")


async def kill_again_and_again(world: World, chance: random.Random) -> None:
    for _ in range(KILLS):
        # Some meet it while it starts, most while it works.
        await asyncio.sleep(chance.uniform(0.1, 2.5 if WHOLE else 1.5))
        world.agent.kill()
        await asyncio.sleep(chance.choice((0.0, 0.0, chance.uniform(0, 1))))
        world.agent.start()


async def cut_now_and_then(world: World, chance: random.Random) -> None:
    if world.network is None:
        return
    for _ in range(CUTS):
        await asyncio.sleep(chance.uniform(0.5, 3))
        world.network.cut()
        await asyncio.sleep(chance.uniform(1, 8 if WHOLE else 2))
        world.network.mend()


async def restart_services(world: World, chance: random.Random) -> None:
    for name in SERVICES:
        await asyncio.sleep(chance.uniform(1, 6))
        await restarted(world.yard, name, kill_process(world.yard, name))


async def test_end_that_nobody_saw_is_told_once_the_network_is_back(world: World, clients: Clients) -> None:
    spec = RunSpec(
        step="short",
        command_lines=["echo begun; sleep 1; echo done; exit 3"],
        executor=Executor.EXECUTOR_PROCESS,
    )
    run = await clients.submit(spec, "disturbed")
    await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)

    world.agent.kill()
    if world.network is not None:
        world.network.cut()
    # The program's end, a while after it with an agent that reaches nobody: none of it can be awaited.
    await asyncio.sleep(1.5)
    world.agent.start()
    await asyncio.sleep(0.5)
    if world.network is not None:
        world.network.mend()

    found = await everything(clients, run.run_id, 60)
    assert found["stdout"] == ["begun", "done"]
    assert found["record"]["run"]["cause"]["exitCode"] == 3
