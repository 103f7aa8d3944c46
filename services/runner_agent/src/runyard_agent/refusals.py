"""What an answer of a store or of the web that gives nothing means: to ask again, when, or to stop asking."""

from __future__ import annotations

import http
import http.client
import time
from email.utils import parsedate_to_datetime

from runyard_agent.http_connections import Request, RequestRefused
from runyard_core.errors import Unavailable

SAID_BYTES_MAX = 1 << 16
"""Most that is read of an answer that is no file: anybody may give an address, and a page may be endless."""

_PAUSE_ASKED_SECONDS_MAX = 60.0
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def refusal(request: Request, answer: http.client.HTTPResponse, body: bytes) -> RequestRefused | Unavailable:
    """Give the error of an answer that is no success; Unavailable if asking again may help."""
    status = answer.status
    reason = " ".join(body[:300].decode("utf-8", "replace").split())
    # A page for people's browsers says no more than its status.
    said = "" if reason.lower().startswith(("<!doctype", "<html")) or not reason else f": {reason}"
    sentence = f"{request.shown}: answered {status} {http.client.responses.get(status, '')}{said}"
    # 416: what was resumed is not there any more; the next try starts anew.
    if status in _PASSING_STATUSES or status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        asked_seconds = pause_asked(answer.getheader("Retry-After") or "", time.time())
        return Unavailable(sentence, pause_seconds_min=asked_seconds)
    return RequestRefused(sentence, status)


def pause_asked(retry_after: str, now: float) -> float:
    """Read for how long, or until when, a ``Retry-After`` asks (RFC 9110, 10.2.3); at most 60 s."""
    try:
        if retry_after.isdecimal():
            seconds = float(retry_after)
        else:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _PAUSE_ASKED_SECONDS_MAX)
