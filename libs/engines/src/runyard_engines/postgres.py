"""PostgreSQL: the engine of the event log and of the read models."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from runyard_engines.ports import require_free
from runyard_engines.process import (
    POLL_SECONDS,
    ChildProcess,
    EngineFailed,
    ProcessSpec,
    started,
    wait_for_exit,
)
from runyard_engines.rootless import WayToRun, way_to_run

ADMIN = "postgres"
PREDECESSOR_SECONDS_MAX = 20.0
NOT_YET = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a server says that starts, recovers, stops, or lets nobody in: only time tells them apart."""

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    # TCP only: the path of a socket may have 107 bytes, and homes are longer than that.
    "unix_socket_directories": "",
    "shared_buffers": "192MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class PostgresSpec:
    """Where a server keeps its data and how it is reached."""

    data_dir: Path
    port: int
    password: str
    """Of the superuser ``postgres``."""
    log_path: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    """Server settings over the ones of this module."""

    def url(self, *, user: str = ADMIN, password: str | None = None, database: str = "postgres") -> str:
        """Give the address for a user of a database; without a password the superuser's."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"


class Postgres:
    """One PostgreSQL server as a child process."""

    name = "postgres"

    def __init__(self, spec: PostgresSpec) -> None:
        self.spec = spec
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Create the data directory when there is none, and start the server.

        Raises:
            PortInUse: somebody else listens on the port.
            EngineFailed: the directory could not be made, or a former server still holds it.
        """
        way = await asyncio.to_thread(way_to_run)
        if not self.spec.data_dir.exists():
            await asyncio.to_thread(_create_data_dir, self.spec, way)
        await _let_predecessor_end(self.spec.data_dir)
        require_free(self.name, [self.spec.port])
        settings = {**SETTINGS, **self.spec.settings}
        self.process = ChildProcess.start(
            ProcessSpec(
                name=self.name,
                argv=(
                    *way.prefix,
                    str(way.bin_dir / "postgres"),
                    *("-D", str(self.spec.data_dir), "-p", str(self.spec.port)),
                    *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
                ),
                log_path=self.spec.log_path,
                stop_signal=signal.SIGINT,  # fast: does not wait for clients, loses nothing
                stop_seconds_max=30.0,
                uid=way.uid,
            )
        )

    async def ready(self, timeout: float = 60.0) -> None:
        """Wait until a query is answered; recovery after a crash may take most of ``timeout`` seconds.

        Raises:
            EngineFailed: the server ended or did not answer in time.
        """
        process = started(self.process)
        deadline = time.monotonic() + timeout
        while True:
            if await process.wait(POLL_SECONDS) is not None:
                raise process.failed("did not start")
            try:
                connection = await asyncpg.connect(self.spec.url(), timeout=5)
            except NOT_YET as reason:
                if time.monotonic() > deadline:
                    raise process.failed(f"did not answer within {timeout:.0f} s ({reason})") from None
                continue
            try:
                await connection.execute("select 1")
            finally:
                await connection.close(timeout=5)
            return

    async def stop(self) -> None:
        """End the server in order (fast shutdown)."""
        if self.process is not None:
            await self.process.stop()

    async def version(self) -> str:
        """Ask the server for its version."""
        connection = await asyncpg.connect(self.spec.url(), timeout=5)
        try:
            return str(await connection.fetchval("show server_version"))
        finally:
            await connection.close(timeout=5)


def _create_data_dir(spec: PostgresSpec, way: WayToRun) -> None:
    """Make a data directory beside its place and rename it: a half-made one is never taken for a good one."""
    new = spec.data_dir.with_name(f"{spec.data_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True, mode=0o700)
    password_file = new.with_name(f"{new.name}.password")
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(spec.password, encoding="utf-8")
    if way.popen_uid is not None:
        os.chown(new, way.popen_uid, way.popen_uid)
        os.chown(password_file, way.popen_uid, way.popen_uid)
    try:
        done = subprocess.run(
            [
                *way.prefix,
                way.bin_dir / "initdb",
                *("-D", new, "-U", ADMIN, "--auth=scram-sha-256", f"--pwfile={password_file}"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            user=way.popen_uid,
            group=way.popen_uid,
        )
    finally:
        password_file.unlink()
    if done.returncode != 0:
        reason = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:])
        raise EngineFailed(
            f"initdb failed in {spec.data_dir.parent}: {reason}",
            metadata={"engine": Postgres.name, "last_lines": done.stderr},
        )
    new.rename(spec.data_dir)


async def _let_predecessor_end(data_dir: Path) -> None:
    """Wait for a server that is still shutting down here; forget one whose number is now somebody else's."""
    lock = data_dir / "postmaster.pid"
    pid = _read_pid(lock)
    if pid is None:
        return
    if not _is_postgres(pid):
        # Dead, but its number answers (a zombie, or a later process), so postgres would believe it alive.
        lock.unlink(missing_ok=True)
    elif not await wait_for_exit(pid, PREDECESSOR_SECONDS_MAX):
        raise EngineFailed(f"another PostgreSQL (pid {pid}) runs on {data_dir}: stop it first")


def _read_pid(lock: Path) -> int | None:
    """Read who holds the directory; None when nobody does, or the process is gone: postgres sees to that."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int(lock.read_text(encoding="utf-8").split("\n", 1)[0])
        return pid if Path(f"/proc/{pid}").exists() else None
    return None


def _is_postgres(pid: int) -> bool:
    try:
        program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return program.endswith(b"postgres")
