"""A machine of its own becomes a node through the gate, runs what it is given, and is thrown out."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import nats
import nats.errors
import pytest
from nats.aio.client import Client

from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.node.v1.enrolment_service_pb2 import EnrollNodeRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard.node.v1.types_pb2 import NodeInventory, NodeState
from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard.run.v1.types_pb2 import Executor, Outcome, RunSpec
from runyard_contracts import gate as names
from runyard_contracts.enrolment_token import format_token, parse_token
from runyard_contracts.ids import uuid7
from runyard_contracts.pinned_gate import Gate, fetch_gate
from runyard_contracts.subjects import bus_user, inbox_prefix, telemetry_subject
from tests.e2e.machine import UID, Machine, invite
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


@dataclass(frozen=True)
class Enrolled:
    """A node without a machine: what any program could be that enrolled."""

    gate: Gate
    credential: str
    bus_password: str


async def enrolled(token_text: str) -> Enrolled:
    token = parse_token(token_text)
    gate = await asyncio.to_thread(fetch_gate, token.address, token.certificate_sha256)
    made = Enrolled(gate, secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    request = EnrollNodeRequest(
        request_id=uuid7(),
        credential=made.credential,
        bus_password=made.bus_password,
        inventory=NodeInventory(hostname=token.node_id),
    )
    async with gate.channel(names.SCHEDULER, ()) as channel:
        enrolment: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        first = await enrolment.EnrollNode(request, metadata=bearer(token.secret), timeout=20)
        # As a machine does that did not get the answer.
        again = await enrolment.EnrollNode(request, metadata=bearer(token.secret), timeout=20)
    assert first == again
    return made


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def test_a_machine_becomes_a_node_runs_and_is_thrown_out(
    machine: Machine, yard: Yard, clients: Clients
) -> None:
    token = invite(yard, NODE)
    done = machine.command("enroll", "--token", token)
    assert done.returncode == 0, done.stderr
    _keeps_its_secrets_to_itself(machine)
    machine.start()
    await machine.attached(clients)
    assert machine.command("check").returncode == 0
    used = machine.command("enroll", "--token", token, "--again")
    assert (used.returncode, "AGENT_RUNNING" in used.stderr) == (2, True)
    await _runs_what_it_is_given(machine, yard, clients)

    yard.cli("nodes", "revoke", NODE, "--reason", "sold")
    assert await machine.state(clients) == NodeState.NODE_STATE_REVOKED
    await _refused_everywhere(machine)
    # Whoever starts anew knows it from the log.
    await asyncio.gather(kill_and_await(yard, "nats"), kill_and_await(yard, "scheduler"))
    await _refused_everywhere(machine)
    assert await machine.state(clients) == NodeState.NODE_STATE_REVOKED
    assert f"node {NODE} was revoked" in machine.log

    running = machine.command("uninstall")
    assert (running.returncode, "AGENT_RUNNING" in running.stderr) == (2, True)
    machine.stop()
    removed = machine.command("uninstall")
    assert removed.returncode == 0, removed.stderr
    assert {path.name for path in machine.directory.iterdir()} <= {"agent.log", "fetched", ".cache"}


def _keeps_its_secrets_to_itself(machine: Machine) -> None:
    kept = [machine.directory / "agent" / name for name in ("node.json", "gate.crt")]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert {path.stat().st_uid for path in kept} == {UID}
    assert not (machine.directory / "agent" / "enrolling.json").exists()


async def _runs_what_it_is_given(machine: Machine, yard: Yard, clients: Clients) -> None:
    who = 'id -u; printf "%s" "$VH_OUTPUTS_DIR" > "$VH_OUTPUTS_DIR/where"; sleep 1'
    spec = RunSpec(step="who", command_lines=[who], executor=Executor.EXECUTOR_PROCESS)
    # More than the yard's own agent has slots for.
    runs = [await clients.submit(spec) for _ in range(len(os.sched_getaffinity(0)) + 1)]
    records = [await clients.complete_record(run.run_id) for run in runs]
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


def test_a_server_with_another_certificate_is_told_nothing(yard: Yard) -> None:
    machine = Machine("gpu-2")
    try:
        token = parse_token(invite(yard, "gpu-2"))
        token.certificate_sha256 = bytes(32)
        refused = machine.command("enroll", "--token", format_token(token))
        assert (refused.returncode, "WRONG_CERTIFICATE" in refused.stderr) == (2, True)
        assert list((machine.directory / "agent").iterdir()) == []
    finally:
        machine.remove()


async def test_a_token_lets_one_machine_in(yard: Yard, machine: Machine) -> None:
    token = invite(yard, "gpu-3")
    await enrolled(token)
    refused = await asyncio.to_thread(machine.command, "enroll", "--token", token)
    assert (refused.returncode, "TOKEN_USED" in refused.stderr) == (2, True)
    older, newer = invite(yard, "gpu-3"), invite(yard, "gpu-3")
    refused = await asyncio.to_thread(machine.command, "enroll", "--token", older)
    assert (refused.returncode, "TOKEN_REPLACED" in refused.stderr) == (2, True)
    yard.cli("nodes", "revoke", "gpu-3")
    refused = await asyncio.to_thread(machine.command, "enroll", "--token", newer)
    assert (refused.returncode, "TOKEN_WITHDRAWN" in refused.stderr) == (2, True)


async def test_each_secret_is_good_for_its_own_use_only(yard: Yard) -> None:
    node = await enrolled(invite(yard, "gpu-4"))
    token = parse_token(invite(yard, "gpu-5"))
    client = str(yard.context["token"])
    enrolling = EnrollNodeRequest(request_id=uuid7(), credential="c" * 43, bus_password="b" * 43)
    async with node.gate.channel(names.SCHEDULER, ()) as channel:
        enrolment: EnrolmentServiceStub = EnrolmentServiceStub(channel)
        scheduler: SchedulerServiceStub = SchedulerServiceStub(channel)
        for secret in (node.credential, client):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await enrolment.EnrollNode(enrolling, metadata=bearer(secret), timeout=20)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for secret in (node.credential, token.secret):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scheduler.ListRuns(ListRunsRequest(), metadata=bearer(secret), timeout=20)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with node.gate.channel(names.ARTIFACT, ()) as channel:
        artifact: ArtifactServiceStub = ArtifactServiceStub(channel)
        await artifact.ResolveInputs(ResolveInputsRequest(), metadata=bearer(node.credential), timeout=20)


async def test_a_node_publishes_for_itself_alone_and_only_until_it_is_revoked(yard: Yard) -> None:
    node = await enrolled(invite(yard, "gpu-6"))
    heard: list[str] = []
    closed = asyncio.Event()
    async with asyncio.timeout(20):
        client = await _on_the_bus("gpu-6", node, heard, closed)
    await client.publish(telemetry_subject("gpu-7", "log"), b"forged")
    await client.flush(timeout=10)
    assert [error for error in heard if "permissions violation" in error.lower()]
    yard.cli("nodes", "revoke", "gpu-6")
    async with asyncio.timeout(10):
        await closed.wait()


async def _on_the_bus(node_id: str, node: Enrolled, heard: list[str], closed: asyncio.Event) -> Client:
    """Connect as soon as the bus knows the node."""

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    async def on_closed() -> None:
        closed.set()

    while True:
        try:
            return await nats.connect(
                f"tls://{node.gate.address}",
                user=bus_user(node_id),
                password=node.bus_password,
                tls=node.gate.tls(),
                tls_hostname=names.BUS,
                tls_handshake_first=True,
                inbox_prefix=inbox_prefix(node_id),
                allow_reconnect=False,
                error_cb=on_error,
                closed_cb=on_closed,
            )
        except nats.errors.Error:
            closed.clear()
            await asyncio.sleep(0.1)
