"""The small HTTP server by which programs reach their agent: calls of ``api.json``, input files on demand.

It listens on addresses of this machine only: loopback for processes, the gateway of their network for
containers. The first part of every path is the token of an attempt, which only its own program knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from runyard_agent.durable_files import write_atomically
from runyard_core.errors import RunyardError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_HEAD_BYTES_MAX = 16 * 1024
_BODY_BYTES_MAX = 64 * 1024
_CONNECTIONS_MAX = 64
_REQUEST_SECONDS_MAX = 30.0
_CHUNK_SECONDS_MAX = 120.0
_TOKEN_SECONDS_MAX = 5.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """What a program asks."""

    method: str
    path: Sequence[str]
    """Its parts, without the token."""
    query: Mapping[str, Sequence[str]]
    body: bytes
    base_url: str
    """The address of the attempt's calls, as the program reached it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What it gets: a JSON value, or the bytes of a file."""

    status: http.HTTPStatus = http.HTTPStatus.OK
    content: object = None
    file: Path | None = None


class Calls(Protocol):
    """Answers the calls of one attempt."""

    async def answer(self, call: Call) -> Answer:
        """Answer a call.

        Raises:
            RunyardError: it cannot be answered now; the program gets 503 with the message.
        """
        ...


class CallServer:
    """Serves the calls of all attempts of the node."""

    def __init__(self, port_file: Path) -> None:
        """Keep the port in a file: programs know it longer than an agent lives."""
        self._port_file = port_file
        self._port = 0
        self._servers: dict[str, asyncio.Server] = {}
        self._opening = asyncio.Lock()
        self._attempts: dict[str, Calls] = {}
        self._news = asyncio.Event()
        self._connection_count = 0

    async def url(self, host: str, token: str) -> str:
        """Give the address of an attempt's calls at an address of this machine, listening there from now on.

        Raises:
            OSError: nobody can listen there.
        """
        async with self._opening:
            if host not in self._servers:
                self._servers[host] = await self._listen(host)
        return f"http://{host}:{self._port}/{token}"

    def serve(self, token: str, calls: Calls) -> None:
        """Answer the calls of an attempt."""
        self._attempts[token] = calls
        self._news.set()

    def end(self, token: str) -> None:
        """Answer no more calls of an attempt."""
        self._attempts.pop(token, None)

    async def close(self) -> None:
        """Stop listening."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def _calls_of(self, token: str) -> Calls | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TOKEN_SECONDS_MAX):
                while token not in self._attempts:
                    self._news.clear()
                    await self._news.wait()
        return self._attempts.get(token)

    async def _listen(self, host: str) -> asyncio.Server:
        known = self._port or _read_port(self._port_file)
        try:
            server = await asyncio.start_server(self._connected, host, known, limit=_HEAD_BYTES_MAX)
        except OSError:
            if self._port or not known:
                raise
            # Somebody else has it since: programs that are running cannot call any more.
            logger.exception("port %d of the programs' calls is taken; taking another", known)
            server = await asyncio.start_server(self._connected, host, 0, limit=_HEAD_BYTES_MAX)
        if not self._port:
            self._port = int(server.sockets[0].getsockname()[1])
            write_atomically(self._port_file, str(self._port).encode())
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection_count += 1
        try:
            if self._connection_count <= _CONNECTIONS_MAX:
                await self._serve_one(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # A program that hangs up, or speaks something else: its own affair.
            pass
        finally:
            await _hang_up(writer)
            self._connection_count -= 1

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_REQUEST_SECONDS_MAX):
            token, call = await _read_call(reader)
            # A program may be quicker than an agent that has just started it, or was just started itself.
            calls = await self._calls_of(token)
        if calls is None:
            answer = Answer(http.HTTPStatus.NOT_FOUND, {"error": "no attempt has this token"})
        else:
            answer = await _answered(calls.answer, call)
        await _write(writer, answer)


async def _answered(answer: Callable[[Call], Awaitable[Answer]], call: Call) -> Answer:
    try:
        return await answer(call)
    except RunyardError as error:
        return Answer(http.HTTPStatus.SERVICE_UNAVAILABLE, {"error": error.message})


async def _read_call(reader: asyncio.StreamReader) -> tuple[str, Call]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    headers = {
        name.strip().lower(): value.strip()
        for name, separator, value in (line.partition(":") for line in head[1:])
        if separator
    }
    size_bytes = int(headers.get("content-length") or 0)
    if not 0 <= size_bytes <= _BODY_BYTES_MAX:
        raise ValueError("the body is too large")
    body = await reader.readexactly(size_bytes)
    url = urlsplit(target)
    token, *path = url.path.strip("/").split("/")
    base_url = f"http://{headers.get('host', '')}/{token}"
    return token, Call(method, path, parse_qs(url.query), body, base_url)


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    if answer.file is None:
        body = json.dumps(answer.content).encode()
        await _send(writer, _head(answer, "application/json", len(body)) + body)
        return
    with await asyncio.to_thread(answer.file.open, "rb") as file:
        size_bytes = (await asyncio.to_thread(answer.file.stat)).st_size
        await _send(writer, _head(answer, "application/octet-stream", size_bytes))
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            await _send(writer, chunk)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_CHUNK_SECONDS_MAX):
        await writer.drain()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, for a bounded time with all that was written: who has stopped reading takes it never."""
    writer.close()
    try:
        async with asyncio.timeout(_CHUNK_SECONDS_MAX):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except OSError:
        # The other side has closed it.
        pass


def _head(answer: Answer, content_type: str, size_bytes: int) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {size_bytes}",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _read_port(port_file: Path) -> int:
    try:
        return int(port_file.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0
