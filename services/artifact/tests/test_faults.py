from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest

from runyard.artifact.v1 import artifact_service_pb2 as pb
from runyard.artifact.v1.types_pb2 import Origin
from runyard.event.v1.read_pb2 import ReadOptions
from runyard_engines import Store
from runyard_testkit import Database
from runyard_testkit.engines import new_bucket

from .conftest import serving_yard
from .yard import new_id, reason, send, sha256_of

pytestmark = pytest.mark.engines


async def test_uploads_wait_for_a_killed_store_and_lose_nothing(
    own_store: Store, database: Database, tmp_path: Path
) -> None:
    async with serving_yard(database, new_bucket(own_store, "artifacts-own"), tmp_path) as yard:
        kept = os.urandom(10_000)
        committed = await yard.put(kept, Origin(path="kept.bin"))

        assert own_store.process is not None
        own_store.process.kill()
        await own_store.process.wait()
        begin = pb.BeginUploadRequest(
            request_id=new_id(), sha256=sha256_of(b"new"), size_bytes=3, origin=Origin(path="new.bin")
        )
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await yard.artifact.BeginUpload(begin)
        assert (away.value.code(), reason(away.value)) == (
            grpc.StatusCode.UNAVAILABLE,
            "STORE_UNAVAILABLE",
        )
        shown = await yard.artifact.GetArtifact(
            pb.GetArtifactRequest(
                name=committed.artifact.sha256, read=ReadOptions(min_position=committed.position)
            )
        )
        assert shown.artifact == committed.artifact

        await own_store.start()
        await own_store.ready()
        [part] = (await yard.artifact.BeginUpload(begin)).parts
        assert send(part.request, b"new")[0] == 200
        assert (await yard.commit(sha256_of(b"new"), 3, Origin(path="new.bin"))).artifact.size_bytes == 3
        download = await yard.artifact.GetDownload(pb.GetDownloadRequest(sha256=sha256_of(kept)))
        assert send(download.request)[1] == kept
