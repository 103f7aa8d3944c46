"""Transfers with the real S3 store: signed requests, parts and ranges."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from minio.datatypes import Part

from runyard_agent.download import Download
from runyard_agent.http_connections import Request, RequestRefused
from runyard_agent.transfers import Transfers
from runyard_core.fan_out import fan_out
from runyard_testkit.engines import Bucket

from .store_double import sha256_of

pytestmark = pytest.mark.engines

SIZE_BYTES = 24 << 20
DATA = os.urandom(SIZE_BYTES)


@pytest.fixture
async def transfers() -> AsyncIterator[Transfers]:
    found = Transfers()
    yield found
    found.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


def presigned(bucket: Bucket, method: str, key: str) -> str:
    return bucket.client.get_presigned_url(
        method=method, bucket_name=bucket.name, object_name=key, expires=timedelta(minutes=5)
    )


async def test_a_file_comes_back_as_it_went(
    bucket: Bucket, transfers: Transfers, source: Path, tmp_path: Path
) -> None:
    with source.open("rb") as file:
        etag = await transfers.put(
            Request("PUT", presigned(bucket, "PUT", "blobs/a b/é")),
            file.fileno(),
            offset_bytes=0,
            size_bytes=SIZE_BYTES,
        )
    fetched = await transfers.get(Request("GET", presigned(bucket, "GET", "blobs/a b/é")), tmp_path / "back")

    assert etag.strip('"') == hashlib.md5(DATA, usedforsecurity=False).hexdigest()
    assert fetched.sha256 == sha256_of(DATA)


async def test_the_store_refuses_wrong_bytes_and_a_second_write(
    bucket: Bucket, transfers: Transfers, source: Path
) -> None:
    checksum = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    with source.open("rb") as file:
        wrong = Request("PUT", presigned(bucket, "PUT", "wrong"), {"Content-MD5": checksum})
        with pytest.raises(RequestRefused, match="BadDigest") as refused:
            await transfers.put(wrong, file.fileno(), offset_bytes=0, size_bytes=1000)
        assert refused.value.status == 400

        once = Request("PUT", presigned(bucket, "PUT", "once"), {"If-None-Match": "*"})
        await transfers.put(once, file.fileno(), offset_bytes=0, size_bytes=1000)
        with pytest.raises(RequestRefused) as second:
            await transfers.put(once, file.fileno(), offset_bytes=0, size_bytes=1000)
        assert second.value.status == 412


async def test_an_expired_request_is_refused_with_403(
    bucket: Bucket, transfers: Transfers, source: Path, tmp_path: Path
) -> None:
    url = presigned(bucket, "GET", "x").replace("X-Amz-Expires=300", "X-Amz-Expires=299")
    with pytest.raises(RequestRefused) as refused:
        await transfers.get(Request("GET", url), tmp_path / "x")
    assert refused.value.status == 403


async def test_an_object_is_read_on_from_where_it_broke_off(
    bucket: Bucket, transfers: Transfers, source: Path, tmp_path: Path
) -> None:
    bucket.client.fput_object(bucket.name, "object", str(source))
    request = Request("GET", presigned(bucket, "GET", "object"))
    download = Download(request, tmp_path / "back", transfers._writing)
    whole = download.go_on(transfers._connections)
    # As if the last bytes had not come: what was hashed and written until then stays.
    cut_bytes = SIZE_BYTES - 12345
    os.truncate(tmp_path / "back", cut_bytes)
    download._hash = hashlib.sha256(DATA[:cut_bytes])
    download._size_bytes = cut_bytes

    again = download.go_on(transfers._connections)

    assert again == whole
    assert (tmp_path / "back").read_bytes() == DATA


async def test_parts_go_at_the_same_time_and_make_one_object(
    bucket: Bucket, transfers: Transfers, source: Path
) -> None:
    part_bytes = 8 << 20
    client = bucket.client
    upload_id = client._create_multipart_upload(bucket.name, "parts", {})

    def signed(number: int) -> str:
        return client.get_presigned_url(
            method="PUT",
            bucket_name=bucket.name,
            object_name="parts",
            extra_query_params={"uploadId": upload_id, "partNumber": str(number)},
        )

    with source.open("rb") as file:

        async def put(number: int) -> str:
            offset_bytes = (number - 1) * part_bytes
            return await transfers.put(
                Request("PUT", signed(number)),
                file.fileno(),
                offset_bytes=offset_bytes,
                size_bytes=part_bytes,
            )

        etags = await fan_out(3, put, [1, 2, 3])
    client._complete_multipart_upload(
        bucket.name,
        "parts",
        upload_id,
        [Part(index + 1, etag.strip('"')) for index, etag in enumerate(etags)],
    )

    stored = client.get_object(bucket.name, "parts")
    assert sha256_of(stored.read()) == sha256_of(DATA)
    stored.close()
