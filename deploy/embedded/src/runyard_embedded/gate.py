"""The gate: the one process of a yard that other machines reach. ``python -m runyard_embedded.gate``.

Engines and services listen on loopback, without TLS. The gate listens outside, with TLS and one certificate,
and hands each connection on, byte for byte, by the name that was asked for
(``runyard_contracts.gate``). It knows no tokens: who may do what is decided behind it. Any proxy that ends
TLS and routes by server name can take its place.

RUNYARD_GATE_LISTEN               host:port to listen on
RUNYARD_GATE_CERTIFICATE_FILE     PEM: key, certificate, authority that signed it; read again when it changes
RUNYARD_GATE_<WAY>                host:port behind the gate; ways are SCHEDULER, ARTIFACT, METRICS, COST,
                                  LINEAGE, BUS and STORE
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from runyard_contracts import gate as names

WAYS: Mapping[str, str] = {
    "SCHEDULER": names.SCHEDULER,
    "ARTIFACT": names.ARTIFACT,
    "METRICS": names.METRICS,
    "COST": names.COST,
    "LINEAGE": names.LINEAGE,
    "BUS": names.BUS,
    "STORE": names.STORE,
}
CONNECTIONS_MAX = 2_000
HANDSHAKE_SECONDS_MAX = 10.0
CONNECT_SECONDS_MAX = 10.0
BUFFER_BYTES = 1 << 20
"""Most bytes that wait on one side of a connection before the other side is not read from."""

log = logging.getLogger("runyard.gate")

Address = tuple[str, int]


class Gate:
    """Hands connections on."""

    def __init__(self, ways: Mapping[str, Address]) -> None:
        """Keep the address behind each name."""
        self._ways = ways
        self._open: set[_Outside] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def tls(self, certificate_file: Path) -> ssl.SSLContext:
        """Give the context of the listening socket; it shows what the file holds at each handshake.

        Raises:
            OSError: the file cannot be used.
        """
        certificate = _Certificate(certificate_file)
        context = certificate.context()

        def asked_for(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
            if name not in self._ways:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = certificate.context()
            connection.runyard_way = name  # type: ignore[attr-defined]  # its only way to the protocol
            return None

        context.sni_callback = asked_for
        return context

    def accept(self) -> asyncio.Protocol:
        """Make the protocol of a connection from outside."""
        return _Outside(self)

    def opened(self, outside: _Outside, transport: asyncio.Transport) -> None:
        """Hand on a connection whose handshake is done."""
        way = getattr(transport.get_extra_info("ssl_object"), "runyard_way", None)
        address = self._ways.get(way or "")
        if address is None or len(self._open) >= CONNECTIONS_MAX:
            transport.abort()
            return
        self._open.add(outside)
        self._none_open.clear()
        transport.pause_reading()
        task = asyncio.get_running_loop().create_task(_join(outside, transport, address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def closed(self, outside: _Outside) -> None:
        """Forget a connection."""
        self._open.discard(outside)
        if not self._open:
            self._none_open.set()

    async def close(self) -> None:
        """Cut every connection."""
        for task in self._tasks:
            task.cancel()
        for outside in self._open:
            if outside.transport is not None:
                outside.transport.abort()
        await self._none_open.wait()


class _Certificate:
    """What the gate shows: read again when its file has changed, so that it can be renewed under way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._context = _context(path)

    def context(self) -> ssl.SSLContext:
        """Give the newest; one that cannot be used changes nothing."""
        try:
            seen = self._stamp()
            if seen != self._seen:
                self._seen = seen
                self._context = _context(self._path)
                log.info("showing another certificate from now on")
        except OSError as error:
            log.warning("the new certificate cannot be used, the former stays: %s", error)
        return self._context

    def _stamp(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _context(certificate_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate_file)
    # gRPC hangs up on a server that does not choose it; the others do not offer it.
    context.set_alpn_protocols(["h2"])
    return context


class _Side(asyncio.Protocol):
    """One side of a connection that is handed on: what it gets, the other side sends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.is_lost:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None and not self.other.is_lost:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.is_lost = True
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()  # sends what is left first


class _Outside(_Side):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._gate.opened(self, cast("asyncio.Transport", transport))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._gate.closed(self)


async def _join(outside: _Outside, transport: asyncio.Transport, address: Address) -> None:
    inside = _Side()
    inside.other = outside
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            await asyncio.get_running_loop().create_connection(lambda: inside, *address)
    except (OSError, TimeoutError) as error:
        log.warning("nobody answers at %s:%d: %s", *address, error)
        transport.abort()
        return
    if transport.is_closing():
        if inside.transport is not None:
            inside.transport.close()
        return
    outside.other = inside
    transport.resume_reading()


async def serve(environment: Mapping[str, str]) -> None:
    """Hand connections on until SIGTERM or SIGINT."""
    ways = {
        name: address_of(environment[f"RUNYARD_GATE_{way}"])
        for way, name in WAYS.items()
        if environment.get(f"RUNYARD_GATE_{way}")
    }
    gate = Gate(ways)
    tls = gate.tls(Path(environment["RUNYARD_GATE_CERTIFICATE_FILE"]))
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    host, port = address_of(environment["RUNYARD_GATE_LISTEN"])
    server = await loop.create_server(
        gate.accept, host, port, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS_MAX, backlog=256
    )
    log.info("listening on %s:%d for %s", host, port, ", ".join(sorted(ways)))
    async with server:
        await stopping.wait()
        await gate.close()


def address_of(text: str) -> Address:
    """Take host:port apart; an IPv6 host stands in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main() -> int:
    """Run the gate; 1 means that it cannot listen or lacks a setting, and why is in its log."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(os.environ))
    except (OSError, KeyError, ValueError) as error:
        log.critical("cannot open the gate: %r", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
