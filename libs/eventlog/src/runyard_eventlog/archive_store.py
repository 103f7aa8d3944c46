"""Where segments are kept: the port, a folder, and any S3 store."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from runyard_core.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager

REQUEST_SECONDS_MAX = 30.0
"""Longest silence of the store within one request."""
_THREADS = 4
_ABSENT_CODES = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})
_BUCKET = re.compile(r"(?!.*(?:\.\.|\.-|-\.))[A-Za-z0-9][A-Za-z0-9._:-]{1,61}[A-Za-z0-9]")
_S3_SCHEMES = {"s3+http": "http", "s3+https": "https"}

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

    def close(self) -> None:
        """Let go of threads and connections."""
        ...


def open_store(url: str) -> ArchiveStore:
    """Open the store that an address names; nothing is asked of it yet.

    Args:
        url: a folder (``/srv/archive``), or ``s3+https://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET/PREFIX`` with
            ``?region=`` (default us-east-1) and the keys quoted as in any URL; ``s3+http`` without TLS.

    Raises:
        InvalidInput: it is neither (BAD_ARCHIVE_URL); the message shows no secret.
    """
    if "://" not in url:
        return FolderStore(Path(url))
    try:
        parts = urlsplit(url)
        bucket, _, prefix = parts.path.strip("/").partition("/")
        place = S3Place(
            endpoint=f"{_S3_SCHEMES[parts.scheme]}://{parts.netloc.rpartition('@')[2]}",
            region=parse_qs(parts.query).get("region", ["us-east-1"])[-1],
            bucket=bucket,
            access_key=unquote(parts.username or ""),
            secret_key=unquote(parts.password or ""),
            prefix=f"{prefix}/" if prefix else "",
        )
        if not (parts.hostname and place.access_key and place.secret_key and parts.port != 0):
            raise ValueError("something is missing")
        if _BUCKET.fullmatch(bucket) is None:
            raise ValueError("no store has such a bucket")
    except (KeyError, ValueError):
        raise InvalidInput(
            "the address of the archive is neither a folder nor of the form "
            "s3+https://ACCESS_KEY:SECRET_KEY@HOST:PORT/BUCKET/PREFIX",
            code="BAD_ARCHIVE_URL",
        ) from None
    return S3Store(place)


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

    def close(self) -> None:
        """Nothing is held."""

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

    @property
    def url(self) -> str:
        """Write it as ``open_store`` reads it, the secret key too."""
        scheme, _, host = self.endpoint.partition("://")
        keys = f"{quote(self.access_key, safe='')}:{quote(self.secret_key, safe='')}"
        return f"s3+{scheme}://{keys}@{host}/{self.bucket}/{self.prefix}?region={quote(self.region, safe='')}"


class S3Store:
    """Keeps objects in an S3 store. The `minio` client blocks, so it runs in a few threads."""

    def __init__(self, place: S3Place) -> None:
        """Connect nothing yet, and load no library."""
        self.place = place
        self._threads = ThreadPoolExecutor(_THREADS, "archive")

    def __reduce__(self) -> tuple[type[S3Store], tuple[S3Place]]:
        """Go to another process without threads and connections."""
        return S3Store, (self.place,)

    @cached_property
    def _pool(self) -> PoolManager:
        import urllib3

        return urllib3.PoolManager(
            maxsize=_THREADS,
            timeout=urllib3.Timeout(connect=REQUEST_SECONDS_MAX, read=REQUEST_SECONDS_MAX),
            retries=urllib3.Retry(2, backoff_factor=0.2),
        )

    @cached_property
    def _minio(self) -> Minio:
        from minio import Minio

        endpoint = urlsplit(self.place.endpoint)
        return Minio(
            endpoint.netloc,
            access_key=self.place.access_key,
            secret_key=self.place.secret_key,
            secure=endpoint.scheme == "https",
            region=self.place.region,
            http_client=self._pool,
        )

    def close(self) -> None:
        """Let go of threads and connections; requests in flight end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if "_pool" in vars(self):
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
                f"the archive at {self.place.endpoint} does not answer as it should: "
                f"{type(error).__name__}: {error}",
                code="ARCHIVE_UNAVAILABLE",
            ) from error

    def _put(self, key: str, content: bytes) -> None:
        self._minio.put_object(
            self.place.bucket, self.place.prefix + key, io.BytesIO(content), length=len(content)
        )

    def _get(self, key: str) -> bytes | None:
        from minio.error import S3Error

        try:
            answer = self._minio.get_object(self.place.bucket, self.place.prefix + key)
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
        own = self.place.prefix
        found = self._minio.list_objects(self.place.bucket, prefix=own + prefix, recursive=True)
        return sorted(one.object_name.removeprefix(own) for one in found if one.object_name)
