"""Nothing of a yard answers without a credential, and nothing of it listens beyond this machine."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import asyncpg
import docker
import grpc
import nats
import nats.errors
import pytest
from docker.errors import DockerException
from nats.aio.client import Client

from runyard.run.v1.scheduler_service_pb2 import ListRunsRequest
from runyard_agent.docker_daemon import gateway_of
from runyard_contracts.subjects import inbox_prefix, telemetry_subject
from runyard_engines.nats import agent_user_name
from tests.bench.yard import pids_of
from tests.e2e.yard import Yard
from tests.faults.processes import process_of

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120), pytest.mark.xdist_group("yard")]

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""

METHODS = {
    "scheduler": "/runyard.run.v1.SchedulerService/ListRuns",
    "artifact": "/runyard.artifact.v1.ArtifactService/ListArtifacts",
    "metrics": "/runyard.metric.v1.MetricService/ListGpuReadings",
    "cost": "/runyard.cost.v1.CostService/ListPrices",
    "lineage": "/runyard.history.v1.HistoryService/GetLogHead",
}


@pytest.mark.parametrize(("service", "method"), METHODS.items())
async def test_every_service_wants_a_token(yard: Yard, service: str, method: str) -> None:
    async with grpc.aio.insecure_channel(yard.context["addresses"][service]) as channel:
        call: Any = channel.unary_unary(method, request_serializer=ListRunsRequest.SerializeToString)
        for metadata in ((), (("authorization", "Bearer guessed"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(ListRunsRequest(), metadata=metadata, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_secrets_are_readable_by_their_owner_only(yard: Yard) -> None:
    files = [path for path in yard.home.glob("*.json") if path.name != "ports.json"]
    assert {"credentials.json", "context.json", "tokens.json"} <= {path.name for path in files}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
        path.name: "0o600" for path in files
    }


async def test_the_database_wants_a_password(yard: Yard) -> None:
    port = process_of(yard, "postgres")["port"]
    for user in ("postgres", "runyard_scheduler"):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                host="127.0.0.1", port=port, user=user, password="guessed", database="runyard"
            )


def test_the_store_wants_a_signature(yard: Yard) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", process_of(yard, "store")["port"], timeout=10)
    for method, path in (("GET", "/"), ("PUT", "/artifacts/stray"), ("GET", "/artifacts/")):
        connection.request(method, path, body=b"x" if method == "PUT" else None)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 403, (method, path)
    connection.close()


async def _no_news(error: Exception) -> None:
    """Keep the client from printing what the test expects."""


async def test_an_agent_can_publish_its_own_telemetry_and_nothing_else(yard: Yard) -> None:
    credentials = json.loads((yard.home / "credentials.json").read_text())
    node, url = credentials["node_id"], f"nats://127.0.0.1:{process_of(yard, 'nats')['port']}"
    # Its own client object: a connect that fails leaves its socket open until it is closed.
    stranger = Client()
    try:
        with pytest.raises(nats.errors.Error):
            await stranger.connect(url, allow_reconnect=False, error_cb=_no_news, connect_timeout=5)
    finally:
        await stranger.close()

    refusals: asyncio.Queue[str] = asyncio.Queue()

    async def refused(error: Exception) -> None:
        refusals.put_nowait(str(error).lower())

    user = agent_user_name(node)
    client = await nats.connect(
        url,
        user=user,
        password=credentials["nats_passwords"][user],
        inbox_prefix=inbox_prefix(node).encode(),
        error_cb=refused,
    )
    try:
        # An acknowledgement by the stream: this one was let through.
        await client.jetstream().publish(telemetry_subject(node, "probe"), b"")
        strays = (
            telemetry_subject("another-node", "log"),
            "runyard.event.run.x",
            "runyard.log.head",
            f"runyard.committed.{node}",
            "$JS.API.STREAM.DELETE.TELEMETRY",
        )
        for subject in strays:
            await client.publish(subject, b"stray")
        async with asyncio.timeout(20):
            said = [await refusals.get() for _ in strays]
        for subject in strays:
            assert any("permissions violation" in each and subject.lower() in each for each in said), subject
    finally:
        await client.close()


def test_everything_listens_on_loopback(yard: Yard) -> None:
    agent = process_of(yard, "agent")["pid"]
    # 127.0.0.1 in the kernel's byte order, as IPv4 and mapped into IPv6.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    found = {pid: listening(pid) for pid in pids_of(yard)}
    assert sum(map(len, found.values())) > 10
    for pid, addresses in found.items():
        # A program in a container calls its agent at the machine's side of the containers' network.
        assert set(addresses) <= (loopback | docker_gateways() if pid == agent else loopback)


def listening(pid: int) -> list[str]:
    inodes = set()
    with contextlib.suppress(FileNotFoundError):  # a program that ends meanwhile listens no more
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [row[1].partition(":")[0] for row in rows if row[3] == LISTEN and row[9] in inodes]


def docker_gateways() -> set[str]:
    try:
        client = docker.from_env(timeout=20)
    except DockerException:
        return set()
    with contextlib.closing(client):
        gateway = gateway_of(client.networks.get("bridge").attrs)
    return {socket.inet_aton(gateway)[::-1].hex().upper()} if gateway else set()
