"""Asks the yard whether it lets this node in: each way behind the gate, as the running agent uses it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import grpc
import nats.errors
from nats.aio.client import Client

from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard_agent.enrolled import Enrolled
from runyard_agent.gate import Gate, open_channel
from runyard_contracts import gate as names
from runyard_contracts.subjects import inbox_prefix
from runyard_core.bus_connection import hang_up

_CALL_SECONDS_MAX = 10.0
_NOT_BELIEVED = "CERTIFICATE_VERIFY_FAILED"
"""In gRPC's words when TLS came to nothing."""
_WRONG_CERTIFICATE = (
    "WRONG_CERTIFICATE: what is shown there the yard's authority did not sign for this time; it is another "
    "yard, or somebody stands between, or the clock here is wrong"
)


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
            if _NOT_BELIEVED in (error.details() or ""):
                return _WRONG_CERTIFICATE
            return f"{error.code().name}: {error.details()}"
    return ""


async def _bus_problem(gate: Gate, enrolled: Enrolled) -> str:
    heard: list[str] = []

    async def on_error(error: Exception) -> None:
        heard.append(str(error))

    client = Client()
    try:
        async with asyncio.timeout(_CALL_SECONDS_MAX):
            await client.connect(
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
    except ssl.SSLCertVerificationError:
        return _WRONG_CERTIFICATE
    except (nats.errors.Error, OSError, TimeoutError) as error:
        return next((text for text in (*heard, str(error)) if text), type(error).__name__)
    finally:
        await hang_up(client)
    return ""
