"""Signs HTTP requests to an S3 store ahead of time (AWS Signature Version 4 in the query string).

The public presigning of the `minio` client signs only the host. Ours signs every header that it is
given, so the store refuses a request in which a header was changed or left out: that is how a
checksum and "only if absent" are made binding for whoever uploads. Pure: the caller gives the time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

EXPIRES_SECONDS_MAX = 7 * 24 * 3600
"""The longest life that S3 gives a presigned request."""

_ALGORITHM = "AWS4-HMAC-SHA256"
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Who signs, and for which region."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str
    session_token: str = field(default="", repr=False)
    """Of a key that is lent for some hours; empty for a key of one's own."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that its bearer sends as it stands, up to ``expires_at``."""

    method: str
    url: str
    headers: Mapping[str, str]
    """All of them are signed: a request without one, or with another value, is refused."""
    expires_at: datetime


def presign(
    key: SigningKey,
    method: str,
    url: str,
    *,
    now: datetime,
    expires: timedelta,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> SignedRequest:
    """Sign a request on an object, with the body unsigned.

    Args:
        key: access key, secret key and region.
        method: "GET" or "PUT".
        url: endpoint, bucket and object key; neither quoted nor with a query.
        now: time of signing, from which ``expires`` counts.
        expires: 1 second to 7 days.
        query: parameters of the operation (``uploadId``, ``partNumber``).
        headers: headers that the bearer must send with exactly these values.

    Raises:
        ValueError: ``expires`` is out of range, or a header holds a line break.
    """
    lifetime_seconds = int(expires.total_seconds())
    if not 1 <= lifetime_seconds <= EXPIRES_SECONDS_MAX:
        raise ValueError(f"a presigned request lives 1 to {EXPIRES_SECONDS_MAX} s, not {lifetime_seconds}")
    sent = dict(headers or {})
    # By hand: the key of an object may hold "?" and "#".
    scheme, _, place = url.partition("://")
    host, slash, key_path = place.partition("/")
    signed_headers = _signed_headers(host, sent)
    names = ";".join(signed_headers)
    time_text = now.strftime(_TIME_FORMAT)
    scope = f"{time_text[:8]}/{key.region}/s3/aws4_request"
    parameters = {
        **(query or {}),
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{key.access_key}/{scope}",
        "X-Amz-Date": time_text,
        "X-Amz-Expires": str(lifetime_seconds),
        "X-Amz-SignedHeaders": names,
    }
    if key.session_token:
        parameters["X-Amz-Security-Token"] = key.session_token
    path = quote(slash + key_path, safe="/~")
    query_text = "&".join(sorted(f"{_quoted(name)}={_quoted(value)}" for name, value in parameters.items()))
    header_text = "".join(f"{name}:{value}\n" for name, value in signed_headers.items())
    request_text = "\n".join((method, path, query_text, header_text, names, "UNSIGNED-PAYLOAD"))
    to_sign = "\n".join((_ALGORITHM, time_text, scope, hashlib.sha256(request_text.encode()).hexdigest()))
    signature = hmac.new(_derived_key(key, time_text[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    return SignedRequest(
        method=method,
        url=f"{scheme}://{host}{path}?{query_text}&X-Amz-Signature={signature}",
        headers=sent,
        expires_at=now + timedelta(seconds=lifetime_seconds),
    )


def _signed_headers(host: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Give the canonical headers: lower-case names in order, values with single spaces."""
    canonical = {"host": host}
    for name, value in headers.items():
        if "\n" in value or "\r" in value:
            raise ValueError(f"header {name} holds a line break")
        canonical[name.lower()] = " ".join(value.split())
    return dict(sorted(canonical.items()))


def _quoted(text: str) -> str:
    return quote(text, safe="~")


def _derived_key(key: SigningKey, day: str) -> bytes:
    derived = f"AWS4{key.secret_key}".encode()
    for step in (day, key.region, "s3", "aws4_request"):
        derived = hmac.new(derived, step.encode(), hashlib.sha256).digest()
    return derived
