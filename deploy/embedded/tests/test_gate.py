"""The gate on real sockets: bytes as they came, to the server that was asked for, and to no other."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from runyard_contracts import gate as names
from runyard_embedded.certificate import make_certificate
from runyard_embedded.gate import BUFFER_BYTES, Gate
from runyard_engines import choose_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(30)]

CHUNK = bytes(range(256)) * 256
CHUNKS = 768
"""48 MiB: more than everything on the way may hold."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gate")
    make_certificate(folder / "gate.crt", folder / "gate.key")
    return folder / "gate.crt", folder / "gate.key"


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
        yield host, port
        await asyncio.gather(*tasks)


@asynccontextmanager
async def connected(
    port: int, name: str | None, files: tuple[Path, Path]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    tls = ssl.create_default_context(cafile=str(files[0]))
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
async def opened(files: tuple[Path, Path]) -> AsyncIterator[int]:
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
        async with await loop.create_server(gate.accept, "127.0.0.1", 0, ssl=gate.tls(*files)) as server:
            yield server.sockets[0].getsockname()[1]
            await gate.close()


def test_certificate_and_key_are_their_owners_alone(files: tuple[Path, Path]) -> None:
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600, 0o600]


async def test_a_connection_goes_where_its_name_says(files: tuple[Path, Path]) -> None:
    async with opened(files) as port, connected(port, names.SCHEDULER, files) as (reader, _):
        assert await reader.read() == b"scheduler"


async def test_every_byte_comes_through_also_to_a_slow_reader(files: tuple[Path, Path]) -> None:
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
async def test_other_names_are_refused(files: tuple[Path, Path], name: str | None) -> None:
    async with opened(files) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(port, name, files):
                pass


async def test_a_server_that_is_down_is_a_connection_that_ends(files: tuple[Path, Path]) -> None:
    async with opened(files) as port, connected(port, names.STORE, files) as (reader, _):
        with suppress(ConnectionError):
            assert await reader.read() == b""


async def test_without_tls_nobody_answers(files: tuple[Path, Path]) -> None:
    async with opened(files) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
