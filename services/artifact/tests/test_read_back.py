"""Reading back from a real store, in ranges of a mebibyte so that small objects have several."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from minio import Minio
from urllib3 import BaseHTTPResponse

from runyard_artifact import read_back
from runyard_artifact.objects import StoredObject
from runyard_artifact.read_back import FILES_AT_ONCE, RANGES_AT_ONCE, ReadBack
from runyard_testkit import Bucket

from .yard import sha256_of

pytestmark = pytest.mark.engines

MIB = 1024 * 1024


class Looks(threading.Event):
    """Does something when the reader looks for the first time whether it was given up."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__()
        self._then: Callable[[], object] | None = then

    def is_set(self) -> bool:
        if self._then is not None:
            then, self._then = self._then, None
            then()
        return super().is_set()


class CountingMinio(Minio):
    """A client that counts the ranges it was asked for."""

    asked_count = 0

    def get_object(self, *args: object, **kwargs: object) -> BaseHTTPResponse:
        self.asked_count += 1
        return super().get_object(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def client(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> CountingMinio:
    monkeypatch.setattr(read_back, "RANGE_BYTES", MIB)
    return CountingMinio(
        bucket.endpoint.removeprefix("http://"),
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        secure=False,
        region=bucket.region,
    )


@pytest.fixture
def reader(bucket: Bucket, client: Minio) -> Iterator[ReadBack]:
    reader = ReadBack(client, bucket.name)
    yield reader
    reader.close()


def stored(bucket: Bucket, data: bytes) -> StoredObject:
    result = bucket.client.put_object(bucket.name, "a", io.BytesIO(data), len(data))
    return StoredObject(size_bytes=len(data), etag=(result.etag or "").strip('"'), sha256=None)


@pytest.mark.parametrize("size_bytes", [0, 1, MIB, 2 * MIB, 5 * MIB + 3])
async def test_an_object_of_several_ranges_has_its_hash(
    bucket: Bucket, reader: ReadBack, client: CountingMinio, size_bytes: int
) -> None:
    data = os.urandom(size_bytes)
    found = stored(bucket, data)
    assert await asyncio.to_thread(reader.sha256_of, "a", found, threading.Event()) == sha256_of(data)
    assert client.asked_count == -(-size_bytes // MIB)


async def test_an_object_that_changes_meanwhile_has_no_hash(bucket: Bucket, reader: ReadBack) -> None:
    found = stored(bucket, os.urandom(6 * MIB))
    changes = Looks(lambda: stored(bucket, os.urandom(6 * MIB)))
    assert await asyncio.to_thread(reader.sha256_of, "a", found, changes) is None


async def test_an_object_that_goes_meanwhile_has_no_hash(bucket: Bucket, reader: ReadBack) -> None:
    found = stored(bucket, os.urandom(6 * MIB))
    goes = Looks(lambda: bucket.client.remove_object(bucket.name, "a"))
    assert await asyncio.to_thread(reader.sha256_of, "a", found, goes) is None


async def test_what_is_given_up_is_read_no_further_and_holds_no_thread(
    bucket: Bucket, reader: ReadBack, client: CountingMinio
) -> None:
    data = os.urandom(8 * MIB)
    found = stored(bucket, data)
    given_up_count = 2 * FILES_AT_ONCE + 1
    for _ in range(given_up_count):
        given_up = threading.Event()
        given_up.set()
        assert await asyncio.to_thread(reader.sha256_of, "a", found, given_up) is None
    assert client.asked_count <= given_up_count * RANGES_AT_ONCE
    assert await asyncio.to_thread(reader.sha256_of, "a", found, threading.Event()) == sha256_of(data)


async def test_as_many_files_as_may_be_are_read_at_once(bucket: Bucket, reader: ReadBack) -> None:
    data = os.urandom(8 * MIB)
    found = stored(bucket, data)
    readings = [
        asyncio.to_thread(reader.sha256_of, "a", found, threading.Event()) for _ in range(FILES_AT_ONCE)
    ]
    assert await asyncio.gather(*readings) == [sha256_of(data)] * FILES_AT_ONCE


async def test_what_is_asked_for_ahead_is_not_held_here(
    bucket: Bucket, reader: ReadBack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_back, "RANGE_BYTES", 16 * MIB)
    data = os.urandom(36 * MIB)
    found = stored(bucket, data)
    tracemalloc.start()
    try:
        assert await asyncio.to_thread(reader.sha256_of, "a", found, threading.Event()) == sha256_of(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * MIB


async def test_a_closed_reader_ends_what_it_reads_and_its_threads(bucket: Bucket, client: Minio) -> None:
    reader = ReadBack(client, bucket.name)
    found = stored(bucket, os.urandom(6 * MIB))
    with pytest.raises(RuntimeError, match="shutdown"):
        await asyncio.to_thread(reader.sha256_of, "a", found, Looks(reader.close))
    for thread in threading.enumerate():
        if thread.name.startswith("store-asking"):
            thread.join(10)
            assert not thread.is_alive()
