"""What a node's secrets are good for, until they are revoked: a node without a machine asks for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import nats.errors
import pytest

from runyard.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard.node.v1.enrolment_service_pb2 import EnrollNodeRequest
from runyard.node.v1.enrolment_service_pb2_grpc import EnrolmentServiceStub
from runyard.node.v1.types_pb2 import NodeState
from runyard.projection.v1.projection_service_pb2 import (
    DropBuildsRequest,
    ListProjectionsRequest,
    RebuildProjectionRequest,
)
from runyard.projection.v1.types_pb2 import BuildKind, RebuildPhase
from runyard.run.v1.scheduler_service_pb2 import GetNodeRequest, ListRunsRequest
from runyard.run.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from runyard_client import Client, load_context
from runyard_contracts import gate as names
from runyard_contracts.enrolment_token import parse_enrolment_token
from runyard_contracts.ids import uuid7
from runyard_contracts.subjects import telemetry_subject
from tests.e2e.enrolled_node import Enrolled, bearer, connect, enrolled, on_the_bus
from tests.e2e.machine import invite, revoke
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(90), pytest.mark.xdist_group("yard")]


async def test_each_secret_is_good_for_its_own_use_only(yard: Yard) -> None:
    node = await enrolled(await invite(yard, "gpu-4"))
    token = parse_enrolment_token(await invite(yard, "gpu-5"))
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
    async with asyncio.timeout(20):
        while await _answer_of_artifacts(node):
            """It has not read of the node yet."""


async def test_a_node_publishes_for_itself_alone_and_only_until_it_is_revoked(yard: Yard) -> None:
    node = await enrolled(await invite(yard, "gpu-6"))
    heard: list[str] = []
    closed = asyncio.Event()
    async with asyncio.timeout(20):
        client = await on_the_bus("gpu-6", node, heard, closed)
    await client.publish(telemetry_subject("gpu-7", "log"), b"forged")
    # A client's ping overtakes what it has not sent yet: the first flush may come back too early.
    async with asyncio.timeout(20):
        while not [error for error in heard if "permissions violation" in error.lower()]:
            await client.flush(timeout=10)
    await revoke(yard, "gpu-6")
    async with asyncio.timeout(10):
        await closed.wait()


async def test_a_revocation_holds_while_read_models_are_built_anew_and_after(
    yard: Yard, clients: Clients
) -> None:
    node = await enrolled(await invite(yard, "gpu-7"))
    await revoke(yard, "gpu-7")
    async with asyncio.timeout(20):
        while "was revoked" not in await _answer_of_artifacts(node):
            """It has not read of that yet."""
    rebuilding = asyncio.create_task(_built_anew(yard, ("scheduler", "artifact")))
    tries = 0
    while not rebuilding.done() or not tries:
        await _let_in_nowhere(node)
        tries += 1
        await asyncio.wait({rebuilding}, timeout=0.1)
    await rebuilding
    await _let_in_nowhere(node)
    answer = await clients.scheduler.GetNode(GetNodeRequest(node_id="gpu-7"), timeout=20)
    assert answer.node.state == NodeState.NODE_STATE_REVOKED
    refused = asyncio.Event()
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await connect("gpu-7", node, [], refused)


async def _built_anew(yard: Yard, services: Sequence[str]) -> None:
    async with Client.connect(load_context(yard.home)) as client:
        for service in services:
            stub = client.projections(service)
            for projection in (await stub.ListProjections(ListProjectionsRequest())).projections:
                name = projection.name
                request = RebuildProjectionRequest(projection=name, request_id=uuid7())
                progress = [answer.progress async for answer in stub.RebuildProjection(request)]
                assert progress[-1].phase == RebuildPhase.REBUILD_PHASE_DONE
                await stub.DropBuilds(
                    DropBuildsRequest(projection=name, request_id=uuid7(), kind=BuildKind.BUILD_KIND_OLD)
                )


async def _let_in_nowhere(node: Enrolled) -> None:
    async with node.gate.channel(names.SCHEDULER, ()) as channel:
        agents: AgentServiceStub = AgentServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="node gpu-7 was revoked") as refused:
            await agents.Attach(metadata=bearer(node.credential), timeout=20).read()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await _answer_of_artifacts(node) == "UNAUTHENTICATED: node gpu-7 was revoked"


async def _answer_of_artifacts(node: Enrolled) -> str:
    """Give why the artifact service, which reads of nodes in the log, refuses one; empty when it does not."""
    async with node.gate.channel(names.ARTIFACT, ()) as channel:
        artifact: ArtifactServiceStub = ArtifactServiceStub(channel)
        try:
            await artifact.ResolveInputs(ResolveInputsRequest(), metadata=bearer(node.credential), timeout=20)
        except grpc.aio.AioRpcError as refused:
            return f"{refused.code().name}: {refused.details()}"
    return ""
