"""Any S3 store, behind the port of ``objects``.

The `minio` client blocks and has no public call for conditional writes or multipart uploads. So it runs
in threads, of which there are few, and those requests are signed by ``presign`` and sent over its pool.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import html
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from runyard_artifact.objects import StoredObject
from runyard_artifact.read_back import ABSENT_CODES, FILES_AT_ONCE, RANGES_AT_ONCE, ReadBack
from runyard_core.clock import Clock
from runyard_core.errors import Conflict, InvalidInput, RunyardError, Unavailable
from runyard_core.presign import SignedRequest, SigningKey, presign

QUICK_THREADS = 16
"""HEADs and small requests at once."""

REQUEST_SECONDS_MAX = 30.0
"""Longest silence of the store within one request."""

PRESIGNED_FOR = timedelta(hours=12)
"""Long enough for a large file over a slow line, short enough to lose."""

_OWN_REQUEST_FOR = timedelta(minutes=15)
_QUOTE = '"'
_UPLOAD = re.compile(r"<Upload>(.*?)</Upload>", re.DOTALL)
_CHECKSUM_HEADER = "x-amz-checksum-sha256"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the store is and how to get in."""

    endpoint: str
    """http(s)://host:port, as this service reaches it."""
    public_endpoint: str
    """The same store as agents and clients reach it: what presigned requests name."""
    key: SigningKey
    bucket: str


class S3ObjectStore:
    """An S3 store, reached with the `minio` client out of a few threads."""

    def __init__(self, settings: StoreSettings, clock: Clock) -> None:
        """Connect nothing yet."""
        self._settings = settings
        self._clock = clock
        # urllib3 applies the connect timeout to sending the body too.
        timeout = urllib3.Timeout(connect=REQUEST_SECONDS_MAX, read=REQUEST_SECONDS_MAX)
        self._pool = urllib3.PoolManager(
            maxsize=QUICK_THREADS + FILES_AT_ONCE * RANGES_AT_ONCE,
            timeout=timeout,
            # A store may ask for a pause of hours, and the thread would sleep: who called asks again.
            retries=urllib3.Retry(2, backoff_factor=0.2, respect_retry_after_header=False),
        )
        endpoint = urlsplit(settings.endpoint)
        self._minio = Minio(
            endpoint.netloc,
            access_key=settings.key.access_key,
            secret_key=settings.key.secret_key,
            secure=endpoint.scheme == "https",
            region=settings.key.region,
            http_client=self._pool,
        )
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "store")
        self._reading = ThreadPoolExecutor(FILES_AT_ONCE, "store-reading")
        self._read_back = ReadBack(self._minio, settings.bucket)

    def close(self) -> None:
        """Let go of threads and connections; requests in flight end by themselves."""
        for threads in (self._quick, self._reading):
            threads.shutdown(wait=False, cancel_futures=True)
        self._read_back.close()
        self._pool.clear()

    async def ensure_bucket(self) -> None:
        """See ``ObjectStore``."""
        await self._in_thread(self._quick, self._ensure_bucket)

    async def head(self, object_key: str) -> StoredObject | None:
        """See ``ObjectStore``."""
        return await self._in_thread(self._quick, lambda: self._head(object_key))

    async def read(self, object_key: str, bytes_max: int) -> bytes | None:
        """See ``ObjectStore``."""
        return await self._in_thread(self._quick, lambda: self._read(object_key, bytes_max))

    async def sha256_of(self, object_key: str, found: StoredObject) -> str | None:
        """See ``ObjectStore``. A cancelled call stops reading at the next chunk."""
        given_up = threading.Event()
        try:
            return await self._in_thread(
                self._reading, lambda: self._read_back.sha256_of(object_key, found, given_up)
            )
        finally:
            given_up.set()

    async def remove(self, object_key: str, etag: str) -> None:
        """See ``ObjectStore``."""
        status, body = await self._send("DELETE", object_key, headers={"If-Match": f'"{etag}"'})
        if status not in (200, 204, 404, 412):
            raise _store_error(f"remove {object_key}", status, body)

    async def begin_multipart(self, object_key: str) -> str:
        """See ``ObjectStore``."""
        status, body = await self._send("POST", object_key, query={"uploads": ""})
        upload_id = _element("UploadId", body)
        if status != 200 or not upload_id:
            raise _store_error(f"begin an upload of {object_key}", status, body)
        return upload_id

    async def complete_multipart(self, object_key: str, upload_id: str, etags: Sequence[str]) -> None:
        """See ``ObjectStore``."""
        query = {"uploadId": upload_id}
        status, body = await self._send(
            "POST", object_key, query=query, headers={"If-None-Match": "*"}, body=_parts_xml(etags)
        )
        # The store may find an error after it has sent 200.
        code = _element("Code", body)
        if status == 200 and not code:
            return
        if status == 412 or code == "PreconditionFailed":
            await self._send("DELETE", object_key, query=query)
            return
        if code == "NoSuchUpload":
            return
        if status == 409:
            raise Conflict(
                f"another upload of {object_key} is ending now; commit again", code="UPLOAD_CONFLICT"
            )
        if status == 400:
            raise InvalidInput(
                f"the store cannot join the parts of {object_key}: {code} {_element('Message', body)}; "
                "send every part, then commit with the ETags in order",
                code="BAD_PARTS",
                field_violations={"part_etags": code},
            )
        raise _store_error(f"join the parts of {object_key}", status, body)

    async def abort_multiparts(self, key_prefix: str, begun_before: datetime) -> int:
        """See ``ObjectStore``. Sees the first 1,000 or more that are open: the others another time.

        Not page by page, as SeaweedFS gives them in another order than the one in which it goes on.
        """
        aborted: set[tuple[str, str]] = set()
        while True:
            status, body = await self._send("GET", "", query={"uploads": "", "prefix": key_prefix})
            if status != 200:
                raise _store_error(f"list the uploads of {key_prefix}", status, body)
            left = {
                (_element("Key", upload), _element("UploadId", upload))
                for upload in _UPLOAD.findall(body)
                if _is_before(_element("Initiated", upload), begun_before)
            }
            new = left - aborted
            for object_key, upload_id in new:
                await self._abort_multipart(object_key, upload_id)
            aborted |= new
            # A store that still lists what it gave up is not asked for ever.
            if not new or _element("IsTruncated", body) != "true":
                return len(aborted)

    def presign_put(self, object_key: str, sha256: str) -> SignedRequest:
        """See ``ObjectStore``."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        return self._presign("PUT", object_key, headers={_CHECKSUM_HEADER: checksum, "If-None-Match": "*"})

    def presign_part(self, object_key: str, upload_id: str, number: int) -> SignedRequest:
        """See ``ObjectStore``."""
        return self._presign("PUT", object_key, query={"partNumber": str(number), "uploadId": upload_id})

    def presign_get(self, object_key: str) -> SignedRequest:
        """See ``ObjectStore``."""
        return self._presign("GET", object_key)

    async def _abort_multipart(self, object_key: str, upload_id: str) -> None:
        status, body = await self._send("DELETE", object_key, query={"uploadId": upload_id})
        if status not in (200, 204, 404):
            raise _store_error(f"give up an upload of {object_key}", status, body)

    def _presign(
        self,
        method: str,
        object_key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> SignedRequest:
        return presign(
            self._settings.key,
            method,
            f"{self._settings.public_endpoint.rstrip('/')}/{self._settings.bucket}/{object_key}",
            now=self._clock.now(),
            expires=PRESIGNED_FOR,
            query=query,
            headers=headers,
        )

    async def _send(
        self,
        method: str,
        object_key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> tuple[int, str]:
        """Sign and send a request of our own; gives status and text."""
        request = presign(
            self._settings.key,
            method,
            f"{self._settings.endpoint.rstrip('/')}/{self._settings.bucket}/{object_key}",
            now=self._clock.now(),
            expires=_OWN_REQUEST_FOR,
            query=query,
            headers=headers,
        )

        def send() -> tuple[int, str]:
            answer = self._pool.request(method, request.url, body=body, headers=dict(request.headers))
            return answer.status, answer.data.decode(errors="replace")

        return await self._in_thread(self._quick, send)

    async def _in_thread(self, threads: ThreadPoolExecutor, work: Callable[[], ResultT]) -> ResultT:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise Unavailable(
                f"the object store at {self._settings.endpoint} does not answer as it should: "
                f"{type(error).__name__}: {error}",
                code="STORE_UNAVAILABLE",
            ) from error

    def _ensure_bucket(self) -> None:
        bucket = self._settings.bucket
        if self._minio.bucket_exists(bucket):
            return
        try:
            self._minio.make_bucket(bucket, location=self._settings.key.region)
        except S3Error as error:
            # Another instance of the service was faster.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def _head(self, object_key: str) -> StoredObject | None:
        try:
            found = self._minio.stat_object(
                self._settings.bucket, object_key, extra_headers={"x-amz-checksum-mode": "ENABLED"}
            )
        except S3Error as error:
            if error.code in ABSENT_CODES:
                return None
            raise
        headers = found.metadata or {}
        return StoredObject(
            size_bytes=found.size or 0,
            etag=(found.etag or "").strip('"'),
            sha256=_whole_sha256(headers.get(_CHECKSUM_HEADER, ""), headers.get("x-amz-checksum-type", "")),
        )

    def _read(self, object_key: str, bytes_max: int) -> bytes | None:
        try:
            answer = self._minio.get_object(self._settings.bucket, object_key)
        except S3Error as error:
            if error.code in ABSENT_CODES:
                return None
            raise
        try:
            data: bytes = answer.read(bytes_max + 1)
        finally:
            answer.close()
            answer.release_conn()
        return data if len(data) <= bytes_max else None


def _whole_sha256(header: str, checksum_type: str) -> str | None:
    """Read the checksum of a whole object; one over its parts' checksums ("...-3") says nothing of it."""
    if checksum_type.upper() == "COMPOSITE":
        return None
    try:
        digest = base64.b64decode(header, validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _parts_xml(etags: Sequence[str]) -> bytes:
    parts = "".join(
        f'<Part><PartNumber>{number}</PartNumber><ETag>"{html.escape(etag.strip(_QUOTE))}"</ETag></Part>'
        for number, etag in enumerate(etags, start=1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def _element(name: str, body: str) -> str:
    """Give the text of the first element of a name; empty when there is none."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", body)
    return html.unescape(found.group(1)) if found else ""


def _is_before(text: str, moment: datetime) -> bool:
    """Say whether a time of the store is before a moment; one that is none is not."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return False
    return time.tzinfo is not None and time < moment


def _store_error(action: str, status: int, body: str) -> RunyardError:
    return Unavailable(
        f"the store refused to {action}: {status} {_element('Code', body)} {_element('Message', body)}",
        code="STORE_UNAVAILABLE",
    )
