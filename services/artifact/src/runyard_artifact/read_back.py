"""Reads a stored object back to hash it: in ranges, of which the next is on its way while one is hashed.

The store fetches a range whole before it sends the first of it. So each is asked for while the one before
arrives, over a connection of its own: what comes early waits in the store and in the socket, never here.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from minio import Minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from runyard_artifact.objects import StoredObject

FILES_AT_ONCE = 2
"""Files that are read back at once; hashing one keeps a core busy."""

RANGES_AT_ONCE = 2
"""Of one file: the one that is hashed and the next; each may be held whole by the store."""

RANGE_BYTES = 32 * 1024 * 1024
"""SeaweedFS fetches all of a range at once: 1 GiB in one request took it to 1.3 GB."""

ABSENT_CODES = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})

_CHUNK_BYTES = 1024 * 1024


class ReadBack:
    """Hashes objects of one bucket; blocks, so it is called in threads, one for each of ``FILES_AT_ONCE``."""

    def __init__(self, client: Minio, bucket: str) -> None:
        """Ask nothing yet; ``client`` needs ``FILES_AT_ONCE * RANGES_AT_ONCE`` connections."""
        self._client = client
        self._bucket = bucket
        self._asking = ThreadPoolExecutor(FILES_AT_ONCE, "store-asking")

    def close(self) -> None:
        """Take no more objects; what is asked for already ends by itself."""
        self._asking.shutdown(wait=False)

    def sha256_of(self, object_key: str, found: StoredObject, given_up: threading.Event) -> str | None:
        """Hash the object that was found; None when it is there no more, or when it was given up meanwhile.

        Raises:
            MinioException, urllib3.exceptions.HTTPError: the store does not answer as it should.
        """
        digest = hashlib.sha256()
        try:
            with contextlib.closing(self._answers(object_key, found)) as answers:
                for answer in answers:
                    for chunk in answer.stream(_CHUNK_BYTES):
                        if given_up.is_set():
                            return None
                        digest.update(chunk)
        except S3Error as error:
            if error.code in ABSENT_CODES or error.code == "PreconditionFailed":
                return None
            raise
        return digest.hexdigest()

    def _answers(self, object_key: str, found: StoredObject) -> Generator[BaseHTTPResponse, None, None]:
        """Give the answer to every range in order, to be read before the next is taken."""
        asked: deque[Future[BaseHTTPResponse]] = deque()
        remaining = iter(range(0, found.size_bytes, RANGE_BYTES))
        try:
            for offset in remaining:
                asked.append(self._asking.submit(self._ask, object_key, found, offset))
                if len(asked) == RANGES_AT_ONCE:
                    yield from _taken(asked)
            while asked:
                yield from _taken(asked)
        finally:
            for answer in asked:
                answer.cancel()
                answer.add_done_callback(_let_go)

    def _ask(self, object_key: str, found: StoredObject, offset: int) -> BaseHTTPResponse:
        return self._client.get_object(
            self._bucket,
            object_key,
            offset=offset,
            length=min(RANGE_BYTES, found.size_bytes - offset),
            request_headers={"If-Match": f'"{found.etag}"'},
        )


def _taken(asked: deque[Future[BaseHTTPResponse]]) -> Iterator[BaseHTTPResponse]:
    """Give the oldest answer; its connection is free again, or closed when it was not read to its end."""
    answer = asked.popleft().result()
    try:
        yield answer
    finally:
        _release(answer)


def _let_go(asked: Future[BaseHTTPResponse]) -> None:
    """Close what nobody will read any more."""
    if not asked.cancelled() and asked.exception() is None:
        _release(asked.result())


def _release(answer: BaseHTTPResponse) -> None:
    answer.close()
    answer.release_conn()
