"""A machine of its own becomes a node through the gate, runs what it is given, and is thrown out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from runyard.node.v1.types_pb2 import NodeState
from runyard.run.v1.types_pb2 import Executor, Outcome, RunSpec, RunState
from runyard_contracts import gate as names
from runyard_contracts.enrolment_token import format_enrolment_token, parse_enrolment_token
from runyard_contracts.pinned_gate import fetch_gate
from runyard_embedded.certificate import renew
from tests.e2e.enrolled_node import enrolled
from tests.e2e.machine import UID, Machine, invite, revoke
from tests.e2e.yard import Clients, Yard
from tests.faults.processes import kill_and_await

pytestmark = [pytest.mark.engines, pytest.mark.timeout(150), pytest.mark.xdist_group("yard")]

NODE = "gpu-1"


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(NODE)
    yield made
    made.stop()
    made.remove()


async def test_a_machine_becomes_a_node_runs_and_is_thrown_out(
    machine: Machine, yard: Yard, clients: Clients
) -> None:
    token = str(json.loads(yard.cli("nodes", "invite", NODE, "--output", "json").stdout)["token"])
    done = machine.command("enroll", "--token", token)
    assert done.returncode == 0, done.stderr
    _keeps_its_secrets_to_itself(machine)
    machine.start()
    await machine.attached(clients)
    assert machine.command("check").returncode == 0
    _refused(machine.command("enroll", "--token", token, "--again"), "AGENT_RUNNING")
    await _outlives_a_renewal(machine, yard)
    await _runs_what_it_is_given(machine, yard, clients)

    yard.cli("nodes", "revoke", NODE, "--reason", "sold")
    assert await machine.state(clients) == NodeState.NODE_STATE_REVOKED
    await _refused_everywhere(machine)
    # Whoever starts anew knows it from the log.
    await asyncio.gather(kill_and_await(yard, "nats"), kill_and_await(yard, "scheduler"))
    await _refused_everywhere(machine)
    assert await machine.state(clients) == NodeState.NODE_STATE_REVOKED
    assert f"node {NODE} was revoked" in machine.log

    _refused(machine.command("uninstall"), "AGENT_RUNNING")
    machine.stop()
    removed = machine.command("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert {path.name for path in machine.directory.iterdir()} <= {"agent.log", "fetched", ".cache"}


def _refused(done: subprocess.CompletedProcess[str], code: str, *advice: str) -> None:
    """One line says what, why and what next; the exit code that it was refused."""
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"({code})")
    for words in advice:
        assert words in line


async def _outlives_a_renewal(machine: Machine, yard: Yard) -> None:
    """The agent goes on when the gate shows another certificate, without being enrolled again."""
    authority = yard.home / "gate-authority.crt"
    authority_sha256 = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.read_text())).digest()
    files = authority, yard.home / "gate-authority.key", yard.home / "gate.pem"
    address = str(machine.secrets["address"])
    before = await asyncio.to_thread(_shown_certificate, address, authority_sha256)
    renew(*files, datetime.now(UTC), force=True)
    assert await asyncio.to_thread(_shown_certificate, address, authority_sha256) != before
    # Whatever is opened from now on sees the next one; what is open does not notice.
    await kill_and_await(yard, "gate")
    assert machine.command("check").returncode == 0


def _shown_certificate(address: str, authority_sha256: bytes) -> bytes:
    with fetch_gate(address, authority_sha256).connect(names.SCHEDULER, 10) as connection:
        return connection.getpeercert(binary_form=True) or b""


def _keeps_its_secrets_to_itself(machine: Machine) -> None:
    kept = [machine.directory / "agent" / name for name in ("node.json", "gate.crt")]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert {path.stat().st_uid for path in kept} == {UID}
    assert not (machine.directory / "agent" / "enrolling.json").exists()


async def _runs_what_it_is_given(machine: Machine, yard: Yard, clients: Clients) -> None:
    go = machine.directory / "go"
    who = 'id -u; printf "%s" "$VH_OUTPUTS_DIR" > "$VH_OUTPUTS_DIR/where"'
    until_all_run = f"until [ -e {go} ]; do sleep 0.1; done"
    spec = RunSpec(step="who", command_lines=[who, until_all_run], executor=Executor.EXECUTOR_PROCESS)
    # More than the yard's own agent has slots for.
    runs = [await clients.submit(spec) for _ in range(len(os.sched_getaffinity(0)) + 1)]
    for run in runs:
        await clients.reached(run.run_id, RunState.RUN_STATE_RUNNING)
    machine.directory.chmod(0o711)
    go.touch()
    records = [await clients.complete_record(run.run_id) for run in runs]
    go.unlink()
    assert {record.run.outcome for record in records} == {Outcome.OUTCOME_SUCCEEDED}
    there = [record.run.run_id for record in records if record.run.attempts[-1].node_id == NODE]
    assert there
    assert await clients.lines(there[0]) == [str(UID)]
    yard.cli("outputs", there[0], "-d", str(machine.directory / "fetched"))
    (fetched,) = (machine.directory / "fetched").rglob("where")
    assert fetched.read_text().endswith("outputs")


async def _refused_everywhere(machine: Machine) -> None:
    checked = await asyncio.to_thread(machine.command, "check")
    assert checked.returncode == 1
    assert f"services  UNAUTHENTICATED: node {NODE} was revoked" in checked.stdout
    assert "Authorization Violation" in checked.stdout


async def test_a_server_with_another_certificate_is_told_nothing(yard: Yard, machine: Machine) -> None:
    token = parse_enrolment_token(await invite(yard, "gpu-2"))
    token.certificate_sha256 = bytes(32)
    refused = await asyncio.to_thread(machine.command, "enroll", "--token", format_enrolment_token(token))
    _refused(refused, "WRONG_CERTIFICATE", "somebody stands between")
    assert not (machine.directory / "agent").exists()


async def test_a_token_lets_one_machine_in(yard: Yard, machine: Machine) -> None:
    async def tried(token: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(machine.command, "enroll", "--token", token)

    used, expired = await invite(yard, "gpu-3"), await invite(yard, "gpu-8", valid_seconds=1)
    expires_at = time.monotonic() + 1
    await enrolled(used)
    next_step = "ask for a new one: runyard nodes invite gpu-3"
    _refused(await tried(used), "TOKEN_USED", next_step)
    older, newer = await invite(yard, "gpu-3"), await invite(yard, "gpu-3")
    _refused(await tried(older), "TOKEN_REPLACED", "use that", next_step)
    await revoke(yard, "gpu-3")
    _refused(await tried(newer), "TOKEN_WITHDRAWN", next_step)
    await asyncio.sleep(max(0.0, expires_at - time.monotonic()))
    _refused(await tried(expired), "TOKEN_EXPIRED", "ask for a new one: runyard nodes invite gpu-8")
