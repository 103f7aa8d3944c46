"""Bytes to and from the object store and the web: requests sent as they stand, from and to files on disk."""

from __future__ import annotations

import hashlib
import http
import http.client
import itertools
import logging
import os
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin

from runyard_agent.blocking import BlockingPool
from runyard_agent.gate import Gate
from runyard_agent.http_connections import CHUNK_BYTES, Connections, Request, RequestRefused
from runyard_core.errors import Corrupt, ResourceExhausted, Unavailable
from runyard_core.retry import Backoff, Retries, retried

_REDIRECTS_MAX = 5
_WHOLE_FILES_AT_ONCE = 2
_PAUSE_ASKED_SECONDS_MAX = 60.0
_BACKOFF = Backoff(first_seconds=0.1, seconds_max=10.0, tries_max=9)
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a download gave."""

    sha256: str
    size_bytes: int
    etag: str = ""
    """What the address calls these bytes; empty unless it has a strong name for them."""


@dataclass(frozen=True, slots=True)
class _Body:
    """A stretch of an open file."""

    descriptor: int
    offset_bytes: int
    size_bytes: int


class Transfers:
    """Sends and fetches files in a bounded number of threads, with kept connections.

    Retries what may pass (no connection, a cut, 429, 5xx) and goes on where a download broke off.
    """

    def __init__(
        self,
        *,
        thread_count: int = 4,
        stall_seconds_max: float = 60.0,
        backoff: Backoff = _BACKOFF,
        gate: Gate | None = None,
    ) -> None:
        """Bound the threads; ``stall_seconds_max`` is the longest silence on a connection."""
        self._pool = BlockingPool("transfers", thread_count=thread_count)
        self._whole_files = BlockingPool("whole files", thread_count=_WHOLE_FILES_AT_ONCE)
        self._writing = ThreadPoolExecutor(thread_count, "writing")
        self._connections = Connections(stall_seconds_max, gate)
        self._backoff = backoff

    async def put(self, request: Request, descriptor: int, *, offset_bytes: int, size_bytes: int) -> str:
        """Send a part of an open file as the body of a presigned request; gives the ETag of the answer.

        The file is read by position, so parts of one file may go at the same time.

        Raises:
            RequestRefused: the store says no (expired, wrong checksum).
            Unavailable: no answer after all retries.
            Corrupt: FILE_CHANGED, the file became shorter.
        """
        return await retried(
            lambda: self._sent(self._pool, request, _Body(descriptor, offset_bytes, size_bytes)),
            (Unavailable,),
            self._retries(request),
        )

    async def put_once(self, request: Request, descriptor: int, size_bytes: int) -> str:
        """Send a whole open file as ``put`` does, over a connection of its own and without another try.

        It may take long, so it has threads of its own: nothing else waits for its end.

        Raises:
            RequestRefused, Corrupt: as ``put``.
            Unavailable: it was cut, or the store is away.
        """
        return await self._sent(self._whole_files, request, _Body(descriptor, 0, size_bytes), is_fresh=True)

    async def get(self, request: Request, destination: Path, *, sha256: str = "") -> Fetched:
        """Fetch to a file, hashing while reading; nothing of it is left after an error.

        Raises:
            RequestRefused: the other side says no (not found, not allowed).
            Unavailable: no whole answer after all retries.
            Corrupt: CHECKSUM_MISMATCH, all bytes came, but not those of ``sha256``.
            ResourceExhausted: DISK_UNAVAILABLE, the file cannot be written.
        """
        download = _Download(request, destination, self._writing)
        retries = self._retries(request)

        async def go_on() -> Fetched:
            try:
                return await self._pool.run(None, download.go_on, self._connections)
            except Unavailable:
                # What takes hours is cut many times: cuts with much in between are no failures in a row.
                if download.came_further():
                    retries.succeeded()
                raise

        try:
            fetched = await retried(go_on, (Unavailable,), retries)
            if sha256 and fetched.sha256 != sha256:
                raise Corrupt(
                    f"{request.shown}: the bytes have SHA-256 {fetched.sha256}, want {sha256}",
                    code="CHECKSUM_MISMATCH",
                )
        except BaseException:
            download.give_up()
            raise
        return fetched

    def close(self) -> None:
        """Take no more transfers and drop the kept connections."""
        self._pool.close()
        self._whole_files.close()
        self._writing.shutdown(wait=False)
        self._connections.close()

    def _retries(self, request: Request) -> Retries:
        return Retries(f"{request.method} {request.shown}", self._backoff, logger)

    async def _sent(
        self, pool: BlockingPool, request: Request, body: _Body, *, is_fresh: bool = False
    ) -> str:
        given_up = threading.Event()
        try:
            return await pool.run(None, self._send, request, body, is_fresh, given_up)
        finally:
            given_up.set()

    def _send(self, request: Request, body: _Body, is_fresh: bool, given_up: threading.Event) -> str:
        # A descriptor of our own: the caller may be cancelled and close its file while this thread reads.
        own = os.dup(body.descriptor)
        try:
            with self._connections.borrowed(request, is_fresh=is_fresh) as connection:
                connection.start(request, {"Content-Length": str(body.size_bytes)})
                connection.send_file(own, body.offset_bytes, body.size_bytes, given_up)
                answer = connection.answer()
                reason = answer.read()
                if not 200 <= answer.status < 300:
                    raise _refusal(request, answer, reason)
                return answer.getheader("ETag") or ""
        finally:
            os.close(own)


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


class _Download:
    """One download over all its tries: what is written and hashed so far."""

    def __init__(self, request: Request, destination: Path, writing: Executor) -> None:
        self._request = request
        self._destination = destination
        self._writing = writing
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._asked_bytes = 0
        self._validator = ""
        self._given_up = threading.Event()

    def go_on(self, connections: Connections) -> Fetched:
        """Fetch from the start, or from where the last try broke off."""
        request = self._request
        for _ in range(_REDIRECTS_MAX + 1):
            with connections.borrowed(request) as connection:
                connection.start(request, self._range_headers())
                answer = connection.answer()
                location = answer.getheader("Location") or ""
                if answer.status not in _REDIRECT_STATUSES or not location:
                    self._take(request, answer)
                    # Of another address it would not help: who asks again asks the first.
                    etag = self._validator if request is self._request and '"' in self._validator else ""
                    return Fetched(self._hash.hexdigest(), self._size_bytes, etag)
                answer.read()
                # Headers were meant for the first address only: they may hold a credential.
                request = Request("GET", urljoin(request.url, location))
        raise RequestRefused(f"{self._request.shown}: more than {_REDIRECTS_MAX} redirects", 310)

    def came_further(self) -> bool:
        """Say whether a good piece more is here than ever before when this was asked."""
        if self._size_bytes < self._asked_bytes + CHUNK_BYTES:
            return False
        self._asked_bytes = self._size_bytes
        return True

    def give_up(self) -> None:
        """Remove what was written; a thread that still reads stops at its next chunk."""
        self._given_up.set()
        self._destination.unlink(missing_ok=True)

    def _range_headers(self) -> dict[str, str]:
        # Without a validator the file might have changed between two tries: then from the start again.
        if not (self._size_bytes and self._validator):
            return {}
        return {"Range": f"bytes={self._size_bytes}-", "If-Range": self._validator}

    def _take(self, request: Request, answer: http.client.HTTPResponse) -> None:
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            self._check_range(request, answer)
        elif answer.status == http.HTTPStatus.OK:
            self._hash = hashlib.sha256()
            self._size_bytes = 0
            self._validator = _strong_validator(answer)
        else:
            self._validator = ""
            raise _refusal(request, answer, answer.read())
        expected_bytes = None if answer.length is None else self._size_bytes + answer.length
        self._write(answer)
        if expected_bytes is not None and self._size_bytes != expected_bytes:
            raise Unavailable(f"{request.shown}: cut off after {self._size_bytes} of {expected_bytes} bytes")

    def _check_range(self, request: Request, answer: http.client.HTTPResponse) -> None:
        if not (answer.getheader("Content-Range") or "").startswith(f"bytes {self._size_bytes}-"):
            self._validator = ""
            raise Unavailable(f"{request.shown}: answered with another range than asked for")

    def _write(self, answer: http.client.HTTPResponse) -> None:
        if self._given_up.is_set():
            return
        descriptor = self._open()
        try:
            self._write_all(answer, descriptor)
        finally:
            os.close(descriptor)

    def _write_all(self, answer: http.client.HTTPResponse, descriptor: int) -> None:
        """Write each chunk while the next one comes: where the disk's cache is slow, that takes longest."""
        buffers = itertools.cycle([memoryview(bytearray(CHUNK_BYTES)) for _ in range(2)])
        written: Future[None] = Future()
        written.set_result(None)
        try:
            while not self._given_up.is_set() and (count := answer.readinto(buffer := next(buffers))) > 0:
                self._hash.update(buffer[:count])
                written.result()
                written = self._writing.submit(self._write_chunk, descriptor, buffer[:count])
                self._size_bytes += count
        finally:
            # Its error comes before that of a cut: nothing can go on after bytes that are not on disk.
            written.result()

    def _open(self) -> int:
        try:
            descriptor = os.open(self._destination, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.ftruncate(descriptor, self._size_bytes)
            os.lseek(descriptor, self._size_bytes, os.SEEK_SET)
        except OSError as error:
            raise _disk_error(self._destination, error) from error
        return descriptor

    def _write_chunk(self, descriptor: int, chunk: memoryview) -> None:
        try:
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
        except OSError as error:
            raise _disk_error(self._destination, error) from error


def _strong_validator(answer: http.client.HTTPResponse) -> str:
    etag = answer.getheader("ETag") or ""
    if etag and not etag.startswith("W/"):
        return etag
    return "" if etag else answer.getheader("Last-Modified") or ""


def _refusal(request: Request, answer: http.client.HTTPResponse, body: bytes) -> RequestRefused | Unavailable:
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


def _disk_error(path: Path, error: OSError) -> ResourceExhausted:
    return ResourceExhausted(f"cannot write {path}: {error.strerror}", code="DISK_UNAVAILABLE")
