"""The error tree as gRPC statuses, with ErrorInfo so that programs need not read sentences."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from runyard_core import errors

ERROR_DOMAIN = "runyard"

# A status travels in trailers, the message even twice, in base64 and with "%" before what is not ASCII. Of
# more than 8 KiB a client gets nothing but that it is too much.
MESSAGE_BYTES_MAX = 1_000
VALUE_BYTES_MAX = 250
"""Of each value of a reason's metadata."""
VIOLATIONS_BYTES_MAX = 1_500
"""Of all fields that are wrong, with what is wrong with them; the first are named."""

_CODES: Mapping[type[errors.RunyardError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.Ambiguous: code_pb2.INVALID_ARGUMENT,
    errors.Rejected: code_pb2.FAILED_PRECONDITION,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.Conflict: code_pb2.ABORTED,
    errors.IdReused: code_pb2.ALREADY_EXISTS,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.OutOfRange: code_pb2.OUT_OF_RANGE,
    errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Corrupt: code_pb2.DATA_LOSS,
}
_RETRY_MILLISECONDS = {code_pb2.ABORTED: 50, code_pb2.UNAVAILABLE: 1_000}
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


def status_of(error: errors.RunyardError) -> status_pb2.Status:
    """Give the google.rpc.Status of an error, with ErrorInfo and what fits of BadRequest and RetryInfo."""
    code = next(
        (_CODES[base] for base in type(error).__mro__ if base in _CODES),
        code_pb2.INTERNAL,
    )
    metadata = {name: _cut(value, VALUE_BYTES_MAX) for name, value in error.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.code, domain=ERROR_DOMAIN, metadata=metadata)
    ]
    if isinstance(error, errors.InvalidInput) and error.field_violations:
        details.append(_bad_request(error.field_violations))
    if code in _RETRY_MILLISECONDS:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(_RETRY_MILLISECONDS[code])
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    message = _cut(error.message, MESSAGE_BYTES_MAX)
    return status_pb2.Status(code=code, message=message, details=[_packed(detail) for detail in details])


def reason_of(error: grpc.aio.AioRpcError) -> str | None:
    """Give the stable reason that another service sent with an error; None when it sent none."""
    # What the stubs ask for is a call, of which an error has everything that is read.
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    unpacked = status is not None and any(detail.Unpack(info) for detail in status.details)
    return info.reason if unpacked else None


def grpc_code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """Give the gRPC code of a status."""
    return _GRPC_CODES[status.code]


def _bad_request(violations: Mapping[str, str]) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for field, description in violations.items():
        request.field_violations.add(
            field=_cut(field, VALUE_BYTES_MAX), description=_cut(description, VALUE_BYTES_MAX)
        )
        if request.ByteSize() > VIOLATIONS_BYTES_MAX:
            request.field_violations.pop()
            break
    return request


def _cut(text: str, bytes_max: int) -> str:
    content = text.encode(errors="replace")
    if len(content) <= bytes_max:
        return text
    return content[:bytes_max].decode(errors="ignore") + "\N{HORIZONTAL ELLIPSIS}"


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
