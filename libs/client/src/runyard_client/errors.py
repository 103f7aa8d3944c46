"""What a caller of the yard gets when something goes wrong: typed, with the service's stable reason."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

_DETAILS_KEY = "grpc-status-details-bin"
_NOT_BELIEVED = "CERTIFICATE_VERIFY_FAILED"
"""In gRPC's words when TLS came to nothing."""


class ClientError(Exception):
    """A refusal or failure, by the yard or on the way to it."""

    def __init__(
        self,
        code: str,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Mapping[str, str] | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        """Keep what programs and people need.

        Args:
            code: gRPC status name ("NOT_FOUND").
            reason: the service's stable reason ("RUN_NOT_FOUND"); the status name when it gave none.
            message: what was wrong, where, and what to do next.
            metadata: details for programs.
            field_violations: field path -> what is wrong with it, for a malformed request.
            retry_seconds: after how long the service may be asked again; None when it did not say that.
        """
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.field_violations = dict(field_violations or {})
        self.retry_seconds = retry_seconds


class Unreachable(ClientError):
    """A service or the store did not answer: not running, wrong address, or cut off."""


class UnreachableElsewhere(Unreachable):
    """So of a yard on another machine, which is asked through its gate."""


class LocalError(ClientError):
    """Something on this machine is not as it must be: a file, a working tree, the context file."""

    def __init__(self, reason: str, message: str) -> None:
        """Local errors have no gRPC status of their own; they count as a failed precondition."""
        super().__init__("FAILED_PRECONDITION", reason, message)


def decode_error(
    error: grpc.aio.AioRpcError, *, service: str, address: str, is_elsewhere: bool = False
) -> ClientError:
    """Read the ``google.rpc.Status`` that a service sends with an error.

    Args:
        error: what gRPC raised.
        service: name of the service called, for the message.
        address: where it was called.
        is_elsewhere: that is on another machine.
    """
    code = error.code().name
    unreachable = UnreachableElsewhere if is_elsewhere else Unreachable
    text = error.details() or code
    if error.code() is grpc.StatusCode.UNAVAILABLE and not _has_details(error):
        if _NOT_BELIEVED in text:
            return ClientError(
                "PERMISSION_DENIED",
                "WRONG_CERTIFICATE",
                f"{address} shows a certificate that the yard's authority did not sign for this time: it is "
                "not the yard that was entered, or somebody stands between, or the clock here is wrong",
            )
        return unreachable(code, code, f"{service} at {address} does not answer")
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return unreachable(code, code, f"{service} at {address} did not answer in time")
    kind = unreachable if error.code() is grpc.StatusCode.UNAVAILABLE else ClientError
    return _with_details(kind, code, text, error)


def _has_details(error: grpc.aio.AioRpcError) -> bool:
    return any(key == _DETAILS_KEY for key, _ in error.trailing_metadata() or ())


def _with_details(kind: type[ClientError], code: str, text: str, error: grpc.aio.AioRpcError) -> ClientError:
    # Imported here: an answer that is not an error should not pay for it.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    found = kind(code, code, text)
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        status = status_pb2.Status()
        try:
            status.ParseFromString(value if isinstance(value, bytes) else value.encode("latin-1"))
        except DecodeError:
            continue
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                found.reason = info.reason or code
                found.metadata.update(info.metadata)
            elif detail.Unpack(request):
                found.field_violations.update(
                    {each.field: each.description for each in request.field_violations}
                )
            elif detail.Unpack(retry):
                found.retry_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return found
