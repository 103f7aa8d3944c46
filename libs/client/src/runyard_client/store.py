"""Presigned requests to the object store: bytes go there and come back without passing a service."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import http.client
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar
from urllib.parse import urlsplit

from runyard.artifact.v1.types_pb2 import PresignedRequest
from runyard_client.errors import ClientError, LocalError, Unreachable
from runyard_contracts.pinned_gate import Gate, StoreConnection, is_loopback
from runyard_core.errors import Unavailable
from runyard_core.retry import Backoff, Retries, Telling, retried

TRANSFER_COUNT_MAX = 8
"""Transfers at once: enough to hide latency, few enough not to starve the machine."""

_BLOCK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0
_BACKOFF = Backoff(first_seconds=0.4, seconds_max=2.0, tries_max=4)
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_CHECKSUM_ERRORS = ("BadDigest", "ChecksumMismatch", "SHA256Mismatch", "InvalidDigest")

Progress = Callable[[int], None]
"""Takes the number of bytes that went just now; one below zero takes back what a failed try had told."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FilePart:
    """A range of a local file."""

    path: Path
    """The file."""
    offset_bytes: int
    """Where the range begins."""
    size_bytes: int
    """How long it is."""


class NobodyWaits(Exception):
    """Ends a thread's work on a file in the middle: whoever wanted it has left."""


def no_progress(byte_count: int) -> None:
    """Ignore progress."""


class Store:
    """A limited number of threads that send and fetch; http.client blocks, so it never runs on the loop."""

    def __init__(self, gate: Gate | None = None, transfer_count_max: int = TRANSFER_COUNT_MAX) -> None:
        """Prepare the threads; they start with the first transfer.

        Args:
            gate: the way to a store on the loopback of the yard's machine, when that is another.
            transfer_count_max: transfers at once.
        """
        self._gate = gate
        self._left = threading.Event()
        self._executor = ThreadPoolExecutor(transfer_count_max, thread_name_prefix="store")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Transfers under way end with their next block: the process would wait for all bytes of theirs.
            self._left.set()
        self._executor.shutdown(wait=kind is None, cancel_futures=True)

    async def put(
        self, request: PresignedRequest, body: bytes | FilePart, on_bytes: Progress = no_progress
    ) -> str:
        """Send bytes and give the store's ETag; empty when the store had them already.

        Raises:
            Unreachable: the store does not answer, after retries.
            LocalError: ``FILE_CHANGED`` when the bytes are not the ones announced.
            ClientError: the store refused.
        """
        return await self._run(partial(_put, request, self._gate, body), on_bytes)

    async def get(
        self,
        request: PresignedRequest,
        target: Path,
        *,
        sha256: str,
        on_bytes: Progress = no_progress,
    ) -> int:
        """Fetch bytes into a file, which appears only when their hash is right; give their number.

        Raises:
            Unreachable: the store does not answer, after retries.
            LocalError: ``FILE_UNWRITABLE``, the disk is full or read-only.
            ClientError: the store refused, or sent other bytes (``CHECKSUM_MISMATCH``).
        """
        return await self._run(partial(_get, request, self._gate, target, sha256), on_bytes)

    async def _run(self, work: Callable[[Progress], Result], on_bytes: Progress) -> Result:
        loop = asyncio.get_running_loop()

        async def try_once() -> Result:
            counted = _Counted(on_bytes, self._left)
            try:
                return await loop.run_in_executor(self._executor, partial(_tried, work, counted.add))
            except Unavailable:
                counted.take_back()
                raise

        # It is over within seconds, so nobody is told of it before.
        retries = Retries("the object store", _BACKOFF, Telling(lambda _: None))
        try:
            return await retried(try_once, (Unavailable,), retries)
        except Unavailable as error:
            message = f"the object store does not answer: {error}"
            raise Unreachable("UNAVAILABLE", "STORE_UNREACHABLE", message) from error


class _Counted:
    """The bytes of one try: they are told as they go, and do not count when it fails."""

    def __init__(self, on_bytes: Progress, left: threading.Event) -> None:
        self._on_bytes = on_bytes
        self._left = left
        self._byte_count = 0

    def add(self, byte_count: int) -> None:
        if self._left.is_set():
            raise NobodyWaits
        self._byte_count += byte_count
        self._on_bytes(byte_count)

    def take_back(self) -> None:
        if self._byte_count:
            self._on_bytes(-self._byte_count)


class _ServerError(Exception):
    """An answer of the 500s: worth another try."""


def _tried(work: Callable[[Progress], Result], on_bytes: Progress) -> Result:
    try:
        return work(on_bytes)
    except (OSError, http.client.HTTPException, _ServerError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise LocalError("FILE_UNREADABLE", f"{error.filename}: {error.strerror}") from None
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise LocalError("FILE_UNWRITABLE", f"what is fetched cannot be kept: {error}") from None
        raise Unavailable(str(error) or type(error).__name__) from error


def _put(request: PresignedRequest, gate: Gate | None, body: bytes | FilePart, on_bytes: Progress) -> str:
    connection, path = _connect(request, gate)
    size_bytes = len(body) if isinstance(body, bytes) else body.size_bytes
    headers = {"Content-Length": str(size_bytes), **request.headers}
    try:
        try:
            if isinstance(body, bytes):
                connection.request(request.method, path, body, headers)
                on_bytes(size_bytes)
            else:
                with body.path.open("rb") as file:
                    part = _PartReader(file, body, on_bytes)
                    connection.request(request.method, path, part, headers)
        except (BrokenPipeError, ConnectionResetError):
            # The store may answer and hang up before it has read everything; its answer says why.
            pass
        response = connection.getresponse()
        text = response.read(_BLOCK_BYTES).decode("utf-8", "replace")
    finally:
        connection.close()
    if response.status in {200, 201, 204}:
        return response.getheader("ETag", "").strip('"')
    # Signed with If-None-Match: the same bytes are there already.
    if response.status == http.client.PRECONDITION_FAILED:
        return ""
    if any(code in text for code in _CHECKSUM_ERRORS):
        raise LocalError("FILE_CHANGED", "a file changed while it was sent: run the command again")
    raise _refusal(response.status, text)


def _get(request: PresignedRequest, gate: Gate | None, target: Path, sha256: str, on_bytes: Progress) -> int:
    connection, path = _connect(request, gate)
    temporary = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}")
    try:
        connection.request(request.method, path, headers=dict(request.headers))
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise _refusal(response.status, response.read(_BLOCK_BYTES).decode("utf-8", "replace"))
        digest = hashlib.sha256()
        count = 0
        with temporary.open("xb") as file:
            while block := response.read(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
                count += len(block)
                on_bytes(len(block))
        if digest.hexdigest() != sha256:
            raise ClientError(
                "DATA_LOSS",
                "CHECKSUM_MISMATCH",
                f"the store sent {count} other bytes for {sha256[:12]}...: nothing was written",
            )
        temporary.replace(target)
        return count
    finally:
        temporary.unlink(missing_ok=True)
        connection.close()


class _PartReader:
    """A range of an open file that http.client can read, counting as it goes."""

    def __init__(self, file: IO[bytes], part: FilePart, on_bytes: Progress) -> None:
        file.seek(part.offset_bytes)
        self._file = file
        self._left_bytes = part.size_bytes
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        wanted = self._left_bytes if size < 0 else min(size, self._left_bytes)
        block = self._file.read(wanted)
        if len(block) < wanted:
            raise LocalError("FILE_CHANGED", "a file became shorter while it was sent: run the command again")
        self._left_bytes -= len(block)
        self._on_bytes(len(block))
        return block


def _connect(request: PresignedRequest, gate: Gate | None) -> tuple[http.client.HTTPConnection, str]:
    url = urlsplit(request.url)
    path = f"{url.path}?{url.query}" if url.query else url.path
    if gate is not None and is_loopback(url.hostname or ""):
        return StoreConnection(url, gate, _TIMEOUT_SECONDS, _BLOCK_BYTES), path
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=_TIMEOUT_SECONDS, blocksize=_BLOCK_BYTES), path


def _refusal(status: int, text: str) -> Exception:
    code = text.partition("<Code>")[2].partition("</Code>")[0] or http.client.responses.get(status, "")
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return _ServerError(f"HTTP {status} {code}")
    if status == http.client.NOT_FOUND:
        return ClientError("NOT_FOUND", "BYTES_NOT_FOUND", "the store does not have these bytes")
    return ClientError("FAILED_PRECONDITION", "STORE_REFUSED", f"the store refused: HTTP {status} {code}")
