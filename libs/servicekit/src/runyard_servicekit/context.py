"""What a handler puts into its events: the caller, the request's correlation and trace."""

from __future__ import annotations

from runyard.event.v1.envelope_pb2 import Actor, ActorKind
from runyard_contracts.envelope import Context
from runyard_contracts.ids import CommandId, deterministic_id, uuid7
from runyard_core.errors import InvalidInput
from runyard_servicekit.auth import current_caller
from runyard_servicekit.tracing import current_traceparent

REQUEST_ID_LENGTH_MAX = 200


def request_context(service_name: str, *, correlation_id: str = "", causation_id: str = "") -> Context:
    """Give the context of events that the current RPC's caller asked for.

    Raises:
        Unauthenticated: outside of an authenticated RPC.
    """
    return Context(
        actor=current_caller().actor,
        correlation_id=correlation_id or uuid7(),
        source=f"/{service_name}",
        causation_id=causation_id,
        traceparent=current_traceparent(),
    )


def service_context(
    service_name: str, *, correlation_id: str = "", causation_id: str = "", traceparent: str = ""
) -> Context:
    """Give the context of events that a service makes on its own."""
    return Context(
        actor=Actor(kind=ActorKind.ACTOR_KIND_SERVICE, id=service_name),
        correlation_id=correlation_id or uuid7(),
        source=f"/{service_name}",
        causation_id=causation_id,
        traceparent=traceparent or current_traceparent(),
    )


def command_id(service_name: str, method: str, request_id: str) -> CommandId:
    """Give the command id of a request: the same caller, method and request_id always give the same.

    Raises:
        InvalidInput: the request has no request_id, or one that is too long.
        Unauthenticated: outside of an authenticated RPC.
    """
    if not request_id or len(request_id) > REQUEST_ID_LENGTH_MAX:
        raise InvalidInput(
            "request_id is missing or too long: send a new UUID with a new request, the same with a retry",
            code="REQUEST_ID_REQUIRED",
            field_violations={"request_id": f"1 to {REQUEST_ID_LENGTH_MAX} characters"},
        )
    return CommandId(deterministic_id(service_name, method, current_caller().name, request_id))
