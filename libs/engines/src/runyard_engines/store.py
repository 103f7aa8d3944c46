"""The S3 store: SeaweedFS in one process, on loopback, with one key pair.

Memory: with the limit that it is given below the server needs 0.6 GB while four large files arrive at a time,
in parts or whole (decision 0003); without one 2.7 GB when 1 GiB arrives in one request.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

from runyard_engines.ports import GRPC_OFFSET, choose_port, require_free
from runyard_engines.process import POLL_SECONDS, ChildProcess, ProcessSpec, started
from runyard_engines.programs import program_path

PART_OFFSETS = (0, 2, 4, 6, 8)
"""From the S3 port: S3, filer, master, volume and admin."""

PORT_OFFSETS = tuple(offset + extra for offset in PART_OFFSETS for extra in (0, GRPC_OFFSET))
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """Where a store keeps its data and how it is reached."""

    data_dir: Path
    port: int
    """Of the S3 interface; see ``choose_store_port``."""
    access_key: str
    secret_key: str
    bucket: str
    log_path: Path

    @property
    def endpoint(self) -> str:
        """Give the address of the S3 interface."""
        return f"http://127.0.0.1:{self.port}"


class Store:
    """One SeaweedFS as a child process."""

    name = "store"

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Start the store.

        Raises:
            PortInUse: one of its ten ports is taken.
        """
        require_free(self.name, [self.spec.port + offset for offset in PORT_OFFSETS])
        self.spec.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        # It would read the flags of its last start back from here.
        (self.spec.data_dir / "mini.options").unlink(missing_ok=True)
        s3, filer, master, volume, admin = (self.spec.port + offset for offset in PART_OFFSETS)
        self.process = ChildProcess.start(
            ProcessSpec(
                name=self.name,
                argv=(
                    *(str(program_path("weed")), "-logtostderr", "mini", f"-dir={self.spec.data_dir}"),
                    # Both: the defaults are the machine's address and every interface.
                    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    # On by default, and it reports to the vendor.
                    "-master.telemetry=false",
                    # A master that resumes its raft log wakes 700 times a second ever after: 5 % of a core.
                    # Alone it needs none: volumes report their ids and highest file keys.
                    "-master.resumeState=false",
                    *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                    # 0 would be the free disk divided by the volume size; a ceiling, not a reservation.
                    "-volume.max=60",
                    *(f"-s3.port={s3}", f"-filer.port={filer}", f"-master.port={master}"),
                    *(f"-volume.port={volume}", f"-admin.port={admin}", f"-bucket={self.spec.bucket}"),
                ),
                # Without the pair every key would be accepted. Not as flags: those are written to disk.
                environment={
                    "AWS_ACCESS_KEY_ID": self.spec.access_key,
                    "AWS_SECRET_ACCESS_KEY": self.spec.secret_key,
                    # Left to itself its heap grows to 1.4 GB while a 1 GiB file comes in parts.
                    "GOMEMLIMIT": "700MiB",
                },
                log_path=self.spec.log_path,
                # Rarely (1 of 60 stops right after a first start) it waits 10 s for its own admin part.
                stop_seconds_max=20.0,
            )
        )

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until a signed request finds the bucket.

        Raises:
            EngineFailed: the store ended or did not answer in time.
        """
        process = started(self.process)
        deadline = time.monotonic() + timeout
        pool = urllib3.PoolManager(maxsize=1, retries=False, timeout=urllib3.Timeout(total=5))
        client = Minio(
            f"127.0.0.1:{self.spec.port}",
            access_key=self.spec.access_key,
            secret_key=self.spec.secret_key,
            secure=False,
            region=REGION,
            http_client=pool,
        )
        try:
            while not await asyncio.to_thread(self._has_bucket, client):
                if await process.wait(POLL_SECONDS) is not None:
                    raise process.failed("did not start")
                if time.monotonic() > deadline:
                    raise process.failed(f"did not answer within {timeout:.0f} s")
        finally:
            pool.clear()

    def _has_bucket(self, client: Minio) -> bool:
        try:
            return bool(client.bucket_exists(bucket_name=self.spec.bucket))
        except (MinioException, urllib3.exceptions.HTTPError):
            return False

    async def stop(self) -> None:
        """End the store in order: about 2 s, rarely 12 s."""
        if self.process is not None:
            await self.process.stop()


def choose_store_port(taken: frozenset[int] = frozenset()) -> int:
    """Choose the S3 port so that all ten ports are free."""
    return choose_port(taken=taken, offsets=PORT_OFFSETS)
