from __future__ import annotations

import asyncio
import io
import secrets
from pathlib import Path

import pytest
import urllib3
from minio import Minio
from minio.error import S3Error

from runyard_engines import PortInUse, Store, StoreSpec, start_ready
from runyard_engines.ports import GRPC_OFFSET, is_free
from runyard_engines.store import PORT_OFFSETS, REGION
from runyard_testkit import Bucket
from runyard_testkit.engines import store_client

pytestmark = pytest.mark.engines


async def test_an_acknowledged_object_survives_a_kill(own_store: Store) -> None:
    content = secrets.token_bytes(300_000)
    client = store_client(own_store.spec)
    await asyncio.to_thread(client.put_object, "artifacts", "kept", io.BytesIO(content), len(content))
    assert own_store.process is not None
    own_store.process.kill()
    await own_store.process.wait()
    await start_ready(own_store)
    response = await asyncio.to_thread(client.get_object, "artifacts", "kept")
    assert response.read() == content
    response.close()
    response.release_conn()


def test_only_the_right_key_opens_it(bucket: Bucket) -> None:
    address = bucket.endpoint.removeprefix("http://")
    wrong = Minio(address, access_key=bucket.access_key, secret_key="wrong", secure=False, region=REGION)
    with pytest.raises(S3Error, match=r"SignatureDoesNotMatch|AccessDenied"):
        wrong.bucket_exists(bucket_name=bucket.name)
    pool = urllib3.PoolManager()
    assert pool.request("GET", f"{bucket.endpoint}/{bucket.name}/").status == 403
    pool.clear()


def test_every_port_is_open_on_loopback_only(store: Store) -> None:
    ports = {store.spec.port + offset for offset in PORT_OFFSETS}
    assert {f"{port:04X}" for port in ports} == {
        row.local_port for row in listening() if int(row.local_port, 16) in ports
    }
    assert {row.local_address for row in listening() if int(row.local_port, 16) in ports} == {"0100007F"}


class Row:
    def __init__(self, line: str) -> None:
        self.local_address, self.local_port = line.split()[1].split(":")
        self.state = line.split()[3]


def listening() -> list[Row]:
    files = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()[1:]]
    return [row for row in map(Row, lines) if row.state == "0A"]


async def test_a_taken_port_of_the_ten_is_named(store: Store, tmp_path: Path) -> None:
    taken = store.spec.port + 4
    spec = StoreSpec(tmp_path, taken, "key", "secret", "artifacts", tmp_path / "store.log")
    with pytest.raises(PortInUse, match=f"store cannot listen on 127.0.0.1:{taken}"):
        await start_ready(Store(spec))


async def test_it_starts_again_on_the_same_ports_after_an_orderly_stop(own_store: Store) -> None:
    await own_store.stop()
    assert own_store.process is not None
    assert own_store.process.exit_code() == 0
    assert is_free(own_store.spec.port + GRPC_OFFSET)
    await start_ready(own_store)
