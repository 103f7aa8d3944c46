from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from runyard.artifact.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from runyard_artifact.main import main
from runyard_artifact.settings import ArtifactSettings
from runyard_engines import choose_port
from runyard_servicekit.channels import service_channel
from runyard_testkit import Bucket, Database

from .yard import TOKEN, Yard, sha256_of


@pytest.fixture
async def yard(database: Database, bucket: Bucket, tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving_yard(database, bucket, tmp_path) as yard:
        yield yard


@asynccontextmanager
async def serving_yard(database: Database, bucket: Bucket, tmp_path: Path) -> AsyncIterator[Yard]:
    tokens_file = tmp_path / "tokens.json"
    entry = {"sha256": sha256_of(TOKEN.encode()), "actor": "user:alice", "roles": ["client"]}
    tokens_file.write_text(json.dumps({"tokens": [entry]}))
    settings = ArtifactSettings(
        listen=f"127.0.0.1:{choose_port()}",
        tokens_file=tokens_file,
        database_url=SecretStr(database.url("artifact")),
        s3_endpoint=bucket.endpoint,
        s3_region=bucket.region,
        s3_bucket=f"{bucket.name}-new",
        s3_access_key=SecretStr(bucket.access_key),
        s3_secret_key=SecretStr(bucket.secret_key),
        stop_grace_seconds=0,
    )
    service = asyncio.create_task(main(settings))
    channel = service_channel(settings.listen, TOKEN)
    try:
        async with asyncio.timeout(20):
            await channel.channel_ready()
        yield Yard(ArtifactServiceStub(channel), database, bucket, settings.listen)
    finally:
        await channel.close()
        service.cancel()
        with suppress(asyncio.CancelledError):
            await service
