"""Where segments are kept: the port, a folder, and any S3 store (extra ``archive``)."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from runyard_core.errors import Unavailable

REQUEST_SECONDS_MAX = 30.0
"""Longest silence of the store within one request."""
_THREADS = 4
_ABSENT_CODES = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})

ResultT = TypeVar("ResultT")


class ArchiveStore(Protocol):
    """Keeps objects of bytes under keys such as ``domain/00000001-....parquet``."""

    async def put(self, key: str, content: bytes) -> None:
        """Store an object, whole or not at all; one that is there is replaced.

        Raises:
            Unavailable: the store does not take it.
        """
        ...

    async def get(self, key: str) -> bytes | None:
        """Give an object's bytes; None when there is none.

        Raises:
            Unavailable: the store does not answer.
        """
        ...

    async def list(self, prefix: str) -> Sequence[str]:
        """Give the keys that begin with a prefix, sorted.

        Raises:
            Unavailable: the store does not answer.
        """
        ...


class FolderStore:
    """Keeps objects as files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which need not exist yet."""
        self._folder = folder

    async def put(self, key: str, content: bytes) -> None:
        """See ``ArchiveStore``."""
        await self._in_thread(lambda: self._put(key, content))

    async def get(self, key: str) -> bytes | None:
        """See ``ArchiveStore``."""
        return await self._in_thread(lambda: self._get(key))

    async def list(self, prefix: str) -> Sequence[str]:
        """See ``ArchiveStore``."""
        return await self._in_thread(lambda: self._list(prefix))

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        try:
            return await asyncio.to_thread(work)
        except OSError as error:
            raise Unavailable(
                f"the archive in {self._folder} cannot be used: {error}", code="ARCHIVE_UNAVAILABLE"
            ) from error

    def _put(self, key: str, content: bytes) -> None:
        path = self._folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _get(self, key: str) -> bytes | None:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None

    def _list(self, prefix: str) -> Sequence[str]:
        start = (self._folder / prefix).parent
        keys = (
            path.relative_to(self._folder).as_posix()
            for path in start.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )
        return sorted(key for key in keys if key.startswith(prefix))


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where objects are in an S3 store, and how to get in."""

    endpoint: str
    """http(s)://host:port"""
    region: str
    bucket: str
    """Exists already."""
    access_key: str
    secret_key: str = field(repr=False)
    prefix: str = "log/"
    """Put before every key."""


class S3Store:
    """Keeps objects in an S3 store. The `minio` client blocks, so it runs in a few threads."""

    def __init__(self, place: S3Place) -> None:
        """Connect nothing yet."""
        import urllib3
        from minio import Minio

        self._place = place
        self._pool = urllib3.PoolManager(
            maxsize=_THREADS,
            timeout=urllib3.Timeout(connect=REQUEST_SECONDS_MAX, read=REQUEST_SECONDS_MAX),
            retries=urllib3.Retry(2, backoff_factor=0.2),
        )
        endpoint = urlsplit(place.endpoint)
        self._minio = Minio(
            endpoint.netloc,
            access_key=place.access_key,
            secret_key=place.secret_key,
            secure=endpoint.scheme == "https",
            region=place.region,
            http_client=self._pool,
        )
        self._threads = ThreadPoolExecutor(_THREADS, "archive")

    def close(self) -> None:
        """Let go of threads and connections; requests in flight end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    async def put(self, key: str, content: bytes) -> None:
        """See ``ArchiveStore``."""
        await self._in_thread(lambda: self._put(key, content))

    async def get(self, key: str) -> bytes | None:
        """See ``ArchiveStore``."""
        return await self._in_thread(lambda: self._get(key))

    async def list(self, prefix: str) -> Sequence[str]:
        """See ``ArchiveStore``."""
        return await self._in_thread(lambda: self._list(prefix))

    async def _in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except (MinioException, HTTPError) as error:
            raise Unavailable(
                f"the archive at {self._place.endpoint} does not answer as it should: "
                f"{type(error).__name__}: {error}",
                code="ARCHIVE_UNAVAILABLE",
            ) from error

    def _put(self, key: str, content: bytes) -> None:
        self._minio.put_object(
            self._place.bucket, self._place.prefix + key, io.BytesIO(content), length=len(content)
        )

    def _get(self, key: str) -> bytes | None:
        from minio.error import S3Error

        try:
            answer = self._minio.get_object(self._place.bucket, self._place.prefix + key)
        except S3Error as error:
            if error.code in _ABSENT_CODES:
                return None
            raise
        try:
            content: bytes = answer.read()
        finally:
            answer.close()
            answer.release_conn()
        return content

    def _list(self, prefix: str) -> Sequence[str]:
        own = self._place.prefix
        found = self._minio.list_objects(self._place.bucket, prefix=own + prefix, recursive=True)
        return sorted(one.object_name.removeprefix(own) for one in found if one.object_name)
