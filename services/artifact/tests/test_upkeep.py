"""Uploads in parts that nobody ended."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard_artifact import upkeep
from runyard_artifact.s3_store import PRESIGNED_FOR, S3ObjectStore
from runyard_artifact.upkeep import UploadUpkeep
from runyard_core.clock import ManualClock, SystemClock
from runyard_testkit import Bucket, Database

from .conftest import serving_yard
from .test_s3_store import settings_of
from .yard import MODEL, Yard, begin, send, sha256_of

pytestmark = pytest.mark.engines


def used_by_service(bucket: Bucket) -> Bucket:
    """The bucket that the service of a test has made."""
    return replace(bucket, name=f"{bucket.name}-new")


def open_uploads(bucket: Bucket) -> list[str]:
    """The ids of the uploads in parts that the store keeps."""
    found = bucket.client._list_multipart_uploads(bucket.name)
    return sorted(str(upload.upload_id) for upload in found.uploads)


async def test_an_upload_that_was_begun_twice_leaves_nothing_open(yard: Yard) -> None:
    data = os.urandom(1024) * (65 * 1024)
    left, ended = [await yard.artifact.BeginUpload(begin(data)) for _ in range(2)]
    send(left.parts[0].request, data[: left.parts[0].size_bytes])
    etags = []
    for part in ended.parts:
        end = part.offset_bytes + part.size_bytes
        etags.append(send(part.request, data[part.offset_bytes : end])[2]["ETag"])
    await yard.commit(sha256_of(data), len(data), MODEL, upload_id=ended.upload_id, part_etags=etags)
    bucket = used_by_service(yard.bucket)
    objects = S3ObjectStore(settings_of(bucket), SystemClock())
    of_others = await objects.begin_multipart("archive/segment-1")
    clock = ManualClock(datetime.now(UTC))
    keeping = UploadUpkeep(objects, clock)

    # Its parts can still be sent, and an upload whose last part has just come be committed.
    for hours in (0, PRESIGNED_FOR / timedelta(hours=1) + 1):
        clock.advance(timedelta(hours=hours))
        await keeping.look()
        assert open_uploads(bucket) == sorted([left.upload_id, of_others])
    clock.advance(PRESIGNED_FOR)
    for _ in range(2):
        await keeping.look()
        assert open_uploads(bucket) == [of_others]
    objects.close()
    download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(data)))
    assert sha256_of(send(download.request)[1]) == sha256_of(data)


async def test_a_service_looks_for_what_was_left_when_it_starts(
    database: Database, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = begin(b"")
    large.sha256, large.size_bytes = sha256_of(b"large"), 65 * 1024 * 1024
    async with serving_yard(database, bucket, tmp_path) as yard:
        left = await yard.artifact.BeginUpload(large)
        assert open_uploads(used_by_service(bucket)) == [left.upload_id]

    # As if it had been begun a day ago.
    monkeypatch.setattr(upkeep, "UPLOAD_LIFE", -timedelta(hours=1))
    async with serving_yard(database, bucket, tmp_path), asyncio.timeout(20):
        while open_uploads(used_by_service(bucket)):  # noqa: ASYNC110 - the store tells nobody
            await asyncio.sleep(0.05)
