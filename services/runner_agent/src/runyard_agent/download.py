"""One file that is fetched: where a cut download goes on, and writing it while its next bytes come."""

from __future__ import annotations

import hashlib
import http
import http.client
import itertools
import os
import threading
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from runyard_agent.http_connections import CHUNK_BYTES, Connections, Request, RequestRefused
from runyard_agent.refusals import SAID_BYTES_MAX, refusal
from runyard_core.errors import ResourceExhausted, Unavailable

_REDIRECTS_MAX = 5
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a download gave."""

    sha256: str
    size_bytes: int
    etag: str = ""
    """What the address calls these bytes; empty unless it has a strong name for them."""


class Download:
    """One download over all its tries: what is written and hashed so far."""

    def __init__(self, request: Request, destination: Path, writing: Executor) -> None:
        """Begin nothing yet; chunks are written in a thread of ``writing``."""
        self._request = request
        self._destination = destination
        self._writing = writing
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._asked_bytes = 0
        self._validator = ""
        self._given_up = threading.Event()

    def go_on(self, connections: Connections) -> Fetched:
        """Fetch from the start, or from where the last try broke off.

        Raises:
            RequestRefused: the other side says no (not found, not allowed).
            Unavailable: no whole answer; another call goes on.
            ResourceExhausted: DISK_UNAVAILABLE, the file cannot be written.
        """
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
                answer.read(SAID_BYTES_MAX)
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
            raise refusal(request, answer, answer.read(SAID_BYTES_MAX))
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


def _disk_error(path: Path, error: OSError) -> ResourceExhausted:
    return ResourceExhausted(f"cannot write {path}: {error.strerror}", code="DISK_UNAVAILABLE")
