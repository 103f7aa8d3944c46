"""Asks the yard whether it lets this node in: each way behind the gate, as the running agent uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import nats
import nats.errors

from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard_agent.enrolled import Enrolled
from runyard_agent.gate import Gate, open_channel
from runyard_contracts import gate as names
from runyard_contracts.subjects import inbox_prefix

_CALL_SECONDS_MAX = 10.0


async def check_connections(enrolled: Enrolled, gate: Gate) -> Mapping[str, str]:
    """Give each way by name with what is wrong with it; empty when nothing is."""
    return {
        "services": await _services_problem(gate, enrolled),
        "bus": await _bus_problem(gate, enrolled),
    }


async def _services_problem(gate: Gate, enrolled: Enrolled) -> str:
    async with open_channel(gate.address, gate, names.ARTIFACT, ()) as channel:
        stub: ArtifactServiceStub = ArtifactServiceStub(channel)
        metadata = (("authorization", f"Bearer {enrolled.credential}"),)
        try:
            await stub.ResolveInputs(ResolveInputsRequest(), metadata=metadata, timeout=_CALL_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return ""


async def _bus_problem(gate: Gate, enrolled: Enrolled) -> str:
    heard: list[str] = []

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    try:
        async with asyncio.timeout(_CALL_SECONDS_MAX):
            client = await nats.connect(
                f"tls://{gate.address}",
                user=enrolled.bus_user,
                password=enrolled.bus_password,
                tls=gate.tls(),
                tls_hostname=names.BUS,
                tls_handshake_first=True,
                inbox_prefix=inbox_prefix(enrolled.node_id),
                allow_reconnect=False,
                error_cb=on_error,
            )
            await client.close()
    except (nats.errors.Error, OSError, TimeoutError) as error:
        return (heard or [str(error)])[0]
    return ""
