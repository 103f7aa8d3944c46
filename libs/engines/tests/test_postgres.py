from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from runyard_engines import EngineFailed, PortInUse, Postgres, PostgresSpec, choose_port, start_ready
from runyard_testkit import connected

pytestmark = pytest.mark.engines

GONE = (asyncpg.PostgresError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def described(folder: Path, **settings: str) -> Postgres:
    spec = PostgresSpec(folder / "data", choose_port(), "p@ss/word", folder / "postgres.log", settings)
    return Postgres(spec)


async def value(engine: Postgres, query: str) -> object:
    async with connected(engine.spec.url()) as connection:
        return await connection.fetchval(query)


async def test_data_survives_a_stop_and_a_start(own_postgres: Postgres) -> None:
    await value(own_postgres, "create table kept as select 7 as seven")
    await own_postgres.stop()
    await start_ready(own_postgres)
    assert await value(own_postgres, "select seven from kept") == 7


async def test_a_killed_server_recovers_what_it_has_answered(own_postgres: Postgres) -> None:
    await value(own_postgres, "create table kept (n int)")
    async with connected(own_postgres.spec.url()) as connection:
        for number in range(200):
            await connection.execute("insert into kept values ($1)", number)
        assert own_postgres.process is not None
        own_postgres.process.kill()
        await own_postgres.process.wait()
        with pytest.raises(
            (asyncpg.PostgresError, OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        ):
            await connection.execute("select 1")
    await start_ready(own_postgres)
    assert await value(own_postgres, "select count(*) from kept") == 200


async def test_a_stop_does_not_wait_for_clients(own_postgres: Postgres) -> None:
    async with connected(own_postgres.spec.url()):
        await own_postgres.stop()
        assert own_postgres.process is not None
        assert own_postgres.process.exit_code() == 0


async def test_a_wrong_password_is_refused(own_postgres: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(own_postgres.spec.url(password="wrong"), timeout=20)


async def test_checksums_are_on_and_only_loopback_is_open(own_postgres: Postgres) -> None:
    assert await value(own_postgres, "show data_checksums") == "on"
    assert await value(own_postgres, "show listen_addresses") == "127.0.0.1"
    assert stat.S_IMODE(own_postgres.spec.data_dir.stat().st_mode) == 0o700
    assert not own_postgres.spec.data_dir.with_name("data.new.password").exists()


async def test_a_taken_port_is_named(own_postgres: Postgres, tmp_path: Path) -> None:
    spec = PostgresSpec(tmp_path / "other", own_postgres.spec.port, "p", tmp_path / "other.log")
    with pytest.raises(PortInUse, match=rf"postgres cannot listen on 127\.0\.0\.1:{spec.port}"):
        await start_ready(Postgres(spec))


async def test_a_second_server_on_the_same_data_is_refused(
    own_postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard_engines.postgres.PREDECESSOR_SECONDS_MAX", 0.1)
    spec = PostgresSpec(own_postgres.spec.data_dir, choose_port(), "p", tmp_path / "other.log")
    with pytest.raises(EngineFailed, match="another PostgreSQL"):
        await start_ready(Postgres(spec))


async def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="postgres did not start") as caught:
        await start_ready(described(tmp_path, no_such_setting="1"))
    assert "no_such_setting" in caught.value.metadata["last_lines"]


async def test_a_half_made_data_directory_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "data.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18")
    engine = described(tmp_path)
    try:
        await start_ready(engine)
        assert await value(engine, "select 1") == 1
    finally:
        await engine.stop()


async def test_a_lock_with_the_number_of_another_process_does_not_keep_it_down(
    own_postgres: Postgres,
) -> None:
    assert own_postgres.process is not None
    own_postgres.process.kill()
    await own_postgres.process.wait()
    lock = own_postgres.spec.data_dir / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    await start_ready(own_postgres)
    assert await value(own_postgres, "select 1") == 1


_START = """
import asyncio, sys
from pathlib import Path
from runyard_engines.ports import choose_port
from runyard_engines.postgres import Postgres, PostgresSpec

async def main():
    folder = Path(sys.argv[1])
    server = Postgres(PostgresSpec(folder / "data", choose_port(), "secret", folder / "log"))
    await server.start()
    try:
        await server.ready()
    finally:
        await server.stop()

asyncio.run(main())
"""
_AMONG_THESE_USERS = 'mount --bind "$1" /etc/passwd && exec "$2" -c "$3" "$4"'


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: whoever else runs the programs is who they are")
def test_root_starts_it_where_nobody_else_has_an_account(tmp_path: Path) -> None:
    """A new server, or the image of a container. initdb wants the name of the user that it runs as."""
    users = tmp_path / "passwd"
    users.write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n")
    tried = ["unshare", "--mount", "mount", "--bind", str(users), "/etc/passwd"]
    if subprocess.run(tried, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    program = [sys.executable, _START, str(tmp_path)]
    started = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _AMONG_THESE_USERS, "sh", str(users), *program],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert started.returncode == 0, started.stderr
