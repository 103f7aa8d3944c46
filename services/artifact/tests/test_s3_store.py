from __future__ import annotations

import asyncio
import http.server
import io
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import urllib3

from runyard_artifact.objects import StoredObject
from runyard_artifact.read_back import FILES_AT_ONCE
from runyard_artifact.s3_store import PRESIGNED_FOR, S3ObjectStore, StoreSettings
from runyard_core.clock import ManualClock
from runyard_core.errors import Unavailable
from runyard_core.presign import SignedRequest, SigningKey
from runyard_engines import choose_port
from runyard_testkit import Bucket

from .yard import sha256_of

pytestmark = pytest.mark.engines


def settings_of(bucket: Bucket, *, endpoint: str = "", public_endpoint: str = "") -> StoreSettings:
    return StoreSettings(
        endpoint=endpoint or bucket.endpoint,
        public_endpoint=public_endpoint or bucket.endpoint,
        key=SigningKey(bucket.access_key, bucket.secret_key, bucket.region),
        bucket=bucket.name,
    )


def status_of(request: SignedRequest, body: bytes = b"") -> int:
    with urllib3.PoolManager(retries=False) as pool:
        return pool.request(request.method, request.url, body=body, headers=dict(request.headers)).status


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def objects(bucket: Bucket, clock: ManualClock) -> Iterator[S3ObjectStore]:
    store = S3ObjectStore(settings_of(bucket), clock)
    yield store
    store.close()


async def test_a_presigned_request_ends_with_its_life(bucket: Bucket) -> None:
    signed_before = ManualClock(datetime.now(UTC) - PRESIGNED_FOR - timedelta(minutes=1))
    store = S3ObjectStore(settings_of(bucket), signed_before)
    assert status_of(store.presign_put("a", sha256_of(b"a")), b"a") == 403
    store.close()


async def test_the_store_tells_the_hash_of_what_came_in_one_request(objects: S3ObjectStore) -> None:
    assert await objects.head("a") is None
    assert status_of(objects.presign_put("a", sha256_of(b"abc")), b"abc") == 200
    found = await objects.head("a")
    assert found is not None
    assert (found.size_bytes, found.sha256) == (3, sha256_of(b"abc"))
    assert await objects.sha256_of("a", found) == sha256_of(b"abc")


async def test_what_the_store_did_not_check_has_no_hash(bucket: Bucket, objects: S3ObjectStore) -> None:
    bucket.client.put_object(bucket.name, "a", io.BytesIO(b"abc"), 3)
    found = await objects.head("a")
    assert found is not None
    assert found.sha256 is None


async def test_a_read_gives_nothing_above_its_limit(bucket: Bucket, objects: S3ObjectStore) -> None:
    bucket.client.put_object(bucket.name, "a", io.BytesIO(b"abc"), 3)
    assert await objects.read("a", 3) == b"abc"
    assert await objects.read("a", 2) is None
    assert await objects.read("b", 3) is None


async def test_only_the_object_that_was_found_is_hashed(bucket: Bucket, objects: S3ObjectStore) -> None:
    data = os.urandom(1024) * (33 * 1024)
    bucket.client.put_object(bucket.name, "a", io.BytesIO(data), len(data))
    found = await objects.head("a")
    assert found is not None
    assert await objects.sha256_of("a", found) == sha256_of(data)
    bucket.client.put_object(bucket.name, "a", io.BytesIO(b"other"), 5)
    assert await objects.sha256_of("a", found) is None
    bucket.client.remove_object(bucket.name, "a")
    assert await objects.sha256_of("a", found) is None


async def test_a_cancelled_reading_leaves_its_place_to_others(bucket: Bucket, objects: S3ObjectStore) -> None:
    data = os.urandom(1024) * (40 * 1024)
    bucket.client.put_object(bucket.name, "a", io.BytesIO(data), len(data))
    found = await objects.head("a")
    assert found is not None
    readings = [asyncio.ensure_future(objects.sha256_of("a", found)) for _ in range(2 * FILES_AT_ONCE)]
    await asyncio.sleep(0)
    for reading in readings:
        reading.cancel()
    assert await asyncio.wait_for(objects.sha256_of("a", found), 20) == sha256_of(data)
    assert all(reading.cancelled() for reading in readings)


async def test_only_the_object_that_was_looked_at_is_removed(bucket: Bucket, objects: S3ObjectStore) -> None:
    bucket.client.put_object(bucket.name, "a", io.BytesIO(b"new"), 3)
    await objects.remove("a", "0" * 32)
    found = await objects.head("a")
    assert found is not None
    await objects.remove("a", found.etag)
    assert await objects.head("a") is None
    await objects.remove("a", found.etag)


async def test_parts_are_not_joined_over_an_object(bucket: Bucket, objects: S3ObjectStore) -> None:
    upload_id = await objects.begin_multipart("a")
    with urllib3.PoolManager() as pool:
        part = objects.presign_part("a", upload_id, 1)
        etag = pool.request("PUT", part.url, body=b"parts").headers["ETag"]
    bucket.client.put_object(bucket.name, "a", io.BytesIO(b"there before"), 12)
    await objects.complete_multipart("a", upload_id, [etag])
    assert await objects.read("a", 100) == b"there before"
    await objects.complete_multipart("a", upload_id, [etag])


async def test_clients_get_the_address_that_they_can_reach(bucket: Bucket, clock: ManualClock) -> None:
    store = S3ObjectStore(settings_of(bucket, public_endpoint="https://store.example:9000/"), clock)
    assert store.presign_get("a").url.startswith(f"https://store.example:9000/{bucket.name}/a?")
    assert await store.head("a") is None
    store.close()


async def test_the_bucket_is_made_once(bucket: Bucket, objects: S3ObjectStore) -> None:
    bucket.client.remove_bucket(bucket.name)
    await objects.ensure_bucket()
    await objects.ensure_bucket()
    assert bucket.client.bucket_exists(bucket.name)


async def test_a_store_that_asks_for_a_long_pause_holds_no_thread_that_long(
    bucket: Bucket, clock: ManualClock
) -> None:
    class Busy(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(503)
            self.send_header("Retry-After", "3600")
            self.end_headers()

        def do_DELETE(self) -> None:
            self.do_HEAD()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        serving.start()
        busy = S3ObjectStore(settings_of(bucket, endpoint=f"http://127.0.0.1:{server.server_port}"), clock)
        async with asyncio.timeout(20):
            for call in (busy.head("a"), busy.remove("a", "0")):
                with pytest.raises(Unavailable, match="503"):
                    await call
        busy.close()
        server.shutdown()


async def test_a_store_that_is_away_is_said_so(bucket: Bucket, clock: ManualClock) -> None:
    nobody = S3ObjectStore(settings_of(bucket, endpoint=f"http://127.0.0.1:{choose_port()}"), clock)
    reading = nobody.sha256_of("a", StoredObject(size_bytes=1, etag="0", sha256=None))
    for call in (nobody.head("a"), nobody.begin_multipart("a"), nobody.ensure_bucket(), reading):
        with pytest.raises(Unavailable) as refused:
            await call
        assert refused.value.code == "STORE_UNAVAILABLE"
        assert bucket.secret_key not in refused.value.message
    nobody.close()
