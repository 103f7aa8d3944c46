"""Bytes to and from the object store and the web: requests sent as they stand, from and to files on disk."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runyard_agent.blocking import BlockingPool
from runyard_agent.download import Download, Fetched
from runyard_agent.gate import Gate
from runyard_agent.http_connections import Connections, Request
from runyard_agent.refusals import SAID_BYTES_MAX, refusal
from runyard_core.errors import Corrupt, Unavailable
from runyard_core.retry import Backoff, Retries, retried

_WHOLE_FILES_AT_ONCE = 2
_BACKOFF = Backoff(first_seconds=0.1, seconds_max=10.0, tries_max=9)

logger = logging.getLogger(__name__)


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
            lambda: self._sent(self._pool, _Upload(request, descriptor, offset_bytes, size_bytes)),
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
        return await self._sent(self._whole_files, _Upload(request, descriptor, 0, size_bytes, is_fresh=True))

    async def get(self, request: Request, destination: Path, *, sha256: str = "") -> Fetched:
        """Fetch to a file, hashing while reading; nothing of it is left after an error.

        Raises:
            RequestRefused: the other side says no (not found, not allowed).
            Unavailable: no whole answer after all retries.
            Corrupt: CHECKSUM_MISMATCH, all bytes came, but not those of ``sha256``.
            ResourceExhausted: DISK_UNAVAILABLE, the file cannot be written.
        """
        download = Download(request, destination, self._writing)
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

    async def _sent(self, pool: BlockingPool, upload: _Upload) -> str:
        try:
            return await pool.run(None, upload.send, self._connections)
        finally:
            upload.give_up()


class _Upload:
    """A stretch of an open file, sent once; ``is_fresh`` over a connection of its own."""

    def __init__(
        self, request: Request, descriptor: int, offset_bytes: int, size_bytes: int, *, is_fresh: bool = False
    ) -> None:
        self._request = request
        self._descriptor = descriptor
        self._offset_bytes = offset_bytes
        self._size_bytes = size_bytes
        self._is_fresh = is_fresh
        self._given_up = threading.Event()

    def send(self, connections: Connections) -> str:
        """Send it; gives the ETag of the answer."""
        # A descriptor of our own: the caller may be cancelled and close its file while this thread reads.
        own = os.dup(self._descriptor)
        try:
            with connections.borrowed(self._request, is_fresh=self._is_fresh) as connection:
                connection.start(self._request, {"Content-Length": str(self._size_bytes)})
                connection.send_file(own, self._offset_bytes, self._size_bytes, self._given_up)
                answer = connection.answer()
                reason = answer.read(SAID_BYTES_MAX)
                if not 200 <= answer.status < 300:
                    raise refusal(self._request, answer, reason)
                return answer.getheader("ETag") or ""
        finally:
            os.close(own)

    def give_up(self) -> None:
        """Let a thread that still sends stop at its next chunk."""
        self._given_up.set()
