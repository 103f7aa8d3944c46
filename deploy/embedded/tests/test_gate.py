"""The gate on real sockets: bytes as they came, to the server that was asked for, and to no other."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runyard_contracts import gate as names
from runyard_contracts.pinned_gate import WrongCertificateError, fetch_gate
from runyard_embedded.certificate import make_authority, renew
from runyard_embedded.gate import BUFFER_BYTES, Gate
from runyard_engines import choose_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(30)]

NOW = datetime.now(UTC)
CHUNK = bytes(range(256)) * 256
CHUNKS = 768
"""48 MiB: more than everything on the way may hold."""


@dataclass(frozen=True)
class Files:
    """What a yard keeps of its gate."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "gate-authority.crt"

    @property
    def certificate(self) -> Path:
        return self.folder / "gate.pem"

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.authority.read_text())).digest()

    def renew(self, now: datetime, *, force: bool = False) -> datetime:
        key = self.folder / "gate-authority.key"
        make_authority(self.authority, key, now)
        return renew(self.authority, key, self.certificate, now, force=force)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = Files(tmp_path_factory.mktemp("gate"))
    made.renew(NOW)
    return made


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def say_which(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"scheduler")
    await writer.drain()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[str, int]]:
    """Give the address of a server; its connections have ended with the block."""
    tasks: set[asyncio.Future[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(handle(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        try:
            yield host, port
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def connected(
    port: int, name: str | None, files: Files
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    tls = ssl.create_default_context(cafile=str(files.authority))
    if name is None:
        tls.check_hostname = False
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name or "")
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


@asynccontextmanager
async def opened(files: Files) -> AsyncIterator[int]:
    """Give the port of a gate before an echo (the bus), a server that says its name, and one that is down."""
    async with serving(echo) as bus, serving(say_which) as scheduler:
        gate = Gate(
            {
                names.BUS: bus,
                names.SCHEDULER: scheduler,
                names.STORE: ("127.0.0.1", choose_port()),
            }
        )
        loop = asyncio.get_running_loop()
        async with await loop.create_server(
            gate.accept, "127.0.0.1", 0, ssl=gate.tls(files.certificate)
        ) as server:
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                await gate.close()


def test_keys_are_their_owners_alone(files: Files) -> None:
    assert {path.stat().st_mode & 0o777 for path in files.folder.iterdir()} == {0o600}
    assert len(list(files.folder.iterdir())) == 3


def test_a_certificate_is_renewed_a_month_before_its_end_and_the_authority_never(tmp_path: Path) -> None:
    files = Files(tmp_path)
    due = files.renew(NOW)
    assert due == NOW.replace(microsecond=0) + timedelta(days=60)
    first, authority = files.certificate.read_bytes(), files.authority.read_bytes()
    assert files.renew(due - timedelta(seconds=1)) == due
    assert files.certificate.read_bytes() == first
    assert files.renew(due) == due + timedelta(days=60)
    assert files.certificate.read_bytes() != first
    assert files.authority.read_bytes() == authority
    # A clock that was far ahead when it was made.
    assert files.renew(NOW - timedelta(days=30)) == due - timedelta(days=30)


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_what_cannot_be_shown_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    files, other = Files(tmp_path), Files(tmp_path / "other")
    other.folder.mkdir()
    other.renew(NOW)
    files.renew(NOW)
    files.certificate.write_bytes(other.certificate.read_bytes() if content is None else content)
    files.renew(NOW)
    assert files.authority.read_bytes() in files.certificate.read_bytes()


async def test_a_renewed_certificate_is_shown_at_once_and_open_connections_stay(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.renew(NOW)
    async with opened(files) as port, connected(port, names.BUS, files) as (reader, writer):
        before = _serial(writer)
        files.certificate.write_bytes(b"half of a")
        async with connected(port, names.BUS, files) as (_, meanwhile):
            assert _serial(meanwhile) == before
        files.renew(NOW, force=True)
        async with connected(port, names.BUS, files) as (_, after):
            assert _serial(after) != before
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        gate = await asyncio.to_thread(fetch_gate, f"127.0.0.1:{port}", files.sha256)
        assert gate.certificate_pem == files.authority.read_text()


def _serial(writer: asyncio.StreamWriter) -> str:
    return str(writer.get_extra_info("peercert")["serialNumber"])


async def test_an_impostor_is_not_believed_though_it_shows_the_authority(
    files: Files, tmp_path: Path
) -> None:
    other = Files(tmp_path)
    other.renew(NOW)
    async with opened(other) as port:
        with pytest.raises(WrongCertificateError, match="another authority"):
            await asyncio.to_thread(fetch_gate, f"127.0.0.1:{port}", files.sha256)
    # Anybody can see the authority's certificate, and show it below one of their own.
    other.certificate.write_bytes(other.certificate.read_bytes() + files.authority.read_bytes())
    async with opened(other) as port:
        with pytest.raises(WrongCertificateError, match="somebody stands between"):
            await asyncio.to_thread(fetch_gate, f"127.0.0.1:{port}", files.sha256)


async def test_a_certificate_of_another_time_points_at_the_clock(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.renew(NOW - timedelta(days=100))
    async with opened(files) as port:
        with pytest.raises(WrongCertificateError, match="is the clock of this machine right"):
            await asyncio.to_thread(fetch_gate, f"127.0.0.1:{port}", files.sha256)


async def test_a_connection_goes_where_its_name_says(files: Files) -> None:
    async with opened(files) as port, connected(port, names.SCHEDULER, files) as (reader, _):
        assert await reader.read() == b"scheduler"


async def test_every_byte_comes_through_also_to_a_slow_reader(files: Files) -> None:
    assert len(CHUNK) * CHUNKS > 4 * BUFFER_BYTES
    async with opened(files) as port, connected(port, names.BUS, files) as (reader, writer):

        async def send() -> None:
            for _ in range(CHUNKS):
                writer.write(CHUNK)
                await writer.drain()

        sending = asyncio.create_task(send())
        # Nobody reads: the sender is held up, and what it could not send waits with it.
        _, waiting = await asyncio.wait({sending}, timeout=0.3)
        assert waiting
        got, left = hashlib.sha256(), len(CHUNK) * CHUNKS
        while left:
            data = await reader.read(1 << 16)
            got.update(data)
            left -= len(data)
        await sending
        assert got.digest() == hashlib.sha256(CHUNK * CHUNKS).digest()


@pytest.mark.parametrize("name", ["other.example", None])
async def test_other_names_are_refused(files: Files, name: str | None) -> None:
    async with opened(files) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(port, name, files):
                pass


async def test_a_server_that_is_down_is_a_connection_that_ends(files: Files) -> None:
    async with opened(files) as port, connected(port, names.STORE, files) as (reader, _):
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def test_without_tls_nobody_answers(files: Files) -> None:
    async with opened(files) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
