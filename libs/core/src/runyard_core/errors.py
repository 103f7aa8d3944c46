"""The error tree. Every error carries a stable code; one interceptor maps the tree to gRPC."""

from __future__ import annotations

from collections.abc import Mapping


class RunyardError(Exception):
    """Anything that the yard reports on purpose."""

    default_code = "INTERNAL"

    def __init__(
        self, message: str, *, code: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Keep the sentence, the stable code and details for programs.

        Args:
            message: what was wrong, where, and what to do next; one or two lines.
            code: stable reason, upper snake case; a documented contract.
            metadata: details for programs, text to text.
        """
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.metadata = dict(metadata or {})


class InvalidInput(RunyardError):
    """The request itself is wrong (gRPC INVALID_ARGUMENT). ``field_violations`` names each field."""

    default_code = "INVALID_INPUT"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: Mapping[str, str] | None = None,
    ) -> None:
        """As ``RunyardError``; ``field_violations`` is field path -> what is wrong with it."""
        super().__init__(message, code=code, metadata=metadata)
        self.field_violations = dict(field_violations or {})


class Rejected(RunyardError):
    """The domain says no (gRPC FAILED_PRECONDITION)."""

    default_code = "REJECTED"


class NotFound(RunyardError):
    """There is no such thing (gRPC NOT_FOUND)."""

    default_code = "NOT_FOUND"


class Ambiguous(RunyardError):
    """A prefix that names several things (gRPC INVALID_ARGUMENT)."""

    default_code = "AMBIGUOUS_NAME"


class Conflict(RunyardError):
    """Somebody else changed it meanwhile (gRPC ABORTED): read again and retry."""

    default_code = "CONFLICT"


class IdReused(RunyardError):
    """The same id came with other content (gRPC ALREADY_EXISTS). The message names both."""

    default_code = "ID_REUSED"


class Unauthenticated(RunyardError):
    """No valid credential (gRPC UNAUTHENTICATED)."""

    default_code = "UNAUTHENTICATED"


class PermissionDenied(RunyardError):
    """A valid credential that may not do this (gRPC PERMISSION_DENIED)."""

    default_code = "PERMISSION_DENIED"


class Unavailable(RunyardError):
    """Something outside does not answer (gRPC UNAVAILABLE): retry with backoff."""

    default_code = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
        pause_seconds_min: float = 0.0,
    ) -> None:
        """As ``RunyardError``; ``pause_seconds_min`` is how long the other side wants to be left alone."""
        super().__init__(message, code=code, metadata=metadata)
        self.pause_seconds_min = pause_seconds_min


class DeadlineExceeded(RunyardError):
    """A wait ended without what was waited for (gRPC DEADLINE_EXCEEDED)."""

    default_code = "DEADLINE_EXCEEDED"


class OutOfRange(RunyardError):
    """A position or time that the log does not have (gRPC OUT_OF_RANGE)."""

    default_code = "OUT_OF_RANGE"


class ResourceExhausted(RunyardError):
    """A limit is reached (gRPC RESOURCE_EXHAUSTED)."""

    default_code = "RESOURCE_EXHAUSTED"


class Corrupt(RunyardError):
    """Stored bytes are not what they must be (gRPC DATA_LOSS): stop and page."""

    default_code = "CORRUPT"
