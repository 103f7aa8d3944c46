"""Kept HTTP connections, lent to one thread at a time; every failure of the network becomes Unavailable."""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import os
import select
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from runyard_contracts.pinned_gate import Gate, StoreConnection, is_loopback
from runyard_core.errors import Corrupt, RunyardError, Unavailable

CHUNK_BYTES = 1 << 20

_CONNECT_SECONDS_MAX = 10.0
_USER_AGENT = "runyard-agent"

_Key = tuple[str, str, bool]
"""Scheme, host:port, and whether it is reached through the gate."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request without its body. All headers are sent, exactly as given."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_of_store: bool = False
    """Presigned by the yard. Where the store is on the yard's own loopback, the gate is the way to it."""

    @property
    def shown(self) -> str:
        """The address for messages: without credentials and query, which may hold a signature."""
        url = urlsplit(self.url)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


class RequestRefused(RunyardError):
    """The other side answered, and sending the same again will not help."""

    default_code = "REQUEST_REFUSED"

    def __init__(self, message: str, status: int) -> None:
        """Keep the HTTP status, for callers that can ask for a fresh request (403)."""
        super().__init__(message)
        self.status = status


class Connection:
    """One HTTP connection; a thin layer over ``http.client`` that knows when it may be used again."""

    def __init__(self, url: SplitResult, stall_seconds_max: float, gate: Gate | None = None) -> None:
        """Connect: through the gate if given, or the environment's proxy if it has one for the address."""
        proxy = None if gate is not None else _proxy_of(url)
        self._sends_whole_url = proxy is not None and url.scheme == "http"
        self._proxy_headers = _proxy_headers(proxy) if proxy is not None else {}
        self._http = (
            StoreConnection(url, gate, stall_seconds_max, CHUNK_BYTES)
            if gate
            else _open(url, proxy, self._proxy_headers)
        )
        self._http.connect()
        self._http.sock.settimeout(stall_seconds_max)
        self._sends_from_cache = not isinstance(self._http.sock, ssl.SSLSocket)
        self._answer: http.client.HTTPResponse | None = None
        self._sent_whole_body = True

    def start(self, request: Request, more_headers: Mapping[str, str]) -> None:
        """Send the request line and the headers."""
        self._answer = None
        self._sent_whole_body = True
        url = urlsplit(request.url)
        # Presigned addresses are plain ASCII and pass unchanged; people's may hold spaces and letters.
        target = quote(f"{url.path or '/'}{'?' * bool(url.query)}{url.query}", safe="/%:=&?~+!$,;'@()*[]")
        if self._sends_whole_url:
            target = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{target}"
        headers = {"User-Agent": _USER_AGENT, **more_headers, **request.headers}
        if self._sends_whole_url:
            headers.update(self._proxy_headers)
        self._http.putrequest(
            request.method, target, skip_host=any(name.lower() == "host" for name in headers)
        )
        for name, value in headers.items():
            self._http.putheader(name, value)
        self._http.endheaders()

    def send_file(
        self, descriptor: int, offset_bytes: int, size_bytes: int, given_up: threading.Event
    ) -> None:
        """Send a part of an open file as the body.

        Raises:
            Corrupt: FILE_CHANGED, the file is shorter than that.
            Unavailable: it was given up in the middle.
        """
        self._sent_whole_body = False
        end_bytes = offset_bytes + size_bytes
        try:
            while offset_bytes < end_bytes:
                if given_up.is_set():
                    raise Unavailable("nobody waits for this upload any more")
                sent_bytes = self._pass_on(descriptor, offset_bytes, end_bytes - offset_bytes)
                if not sent_bytes:
                    raise Corrupt("the file became shorter while it was sent", code="FILE_CHANGED")
                offset_bytes += sent_bytes
        except (BrokenPipeError, ConnectionResetError):
            # A store that refuses may answer and close before it has read the body: the answer says why.
            return
        self._sent_whole_body = True

    def answer(self) -> http.client.HTTPResponse:
        """Wait for the status and headers of the answer."""
        self._answer = self._http.getresponse()
        return self._answer

    def is_reusable(self) -> bool:
        """Say whether the last exchange is over and both sides keep the connection."""
        answer = self._answer
        return answer is not None and answer.isclosed() and not answer.will_close and self._sent_whole_body

    def close(self) -> None:
        """Close the socket."""
        self._http.close()
        if self._answer is not None:
            # One that ends with its connection has taken the socket over.
            self._answer.close()

    def _pass_on(self, descriptor: int, offset_bytes: int, size_bytes: int) -> int:
        """Send the next bytes of a file; gives how many, none at its end."""
        if self._sends_from_cache:
            try:
                return self._send_from_cache(descriptor, offset_bytes, size_bytes)
            except OSError as error:
                # Not every file system can.
                if error.errno != errno.EINVAL:
                    raise
                self._sends_from_cache = False
        chunk = os.pread(descriptor, min(CHUNK_BYTES, size_bytes), offset_bytes)
        self._http.send(chunk)
        return len(chunk)

    def _send_from_cache(self, descriptor: int, offset_bytes: int, size_bytes: int) -> int:
        """Let the kernel do it: less than half the processor time of reading and sending."""
        sock = self._http.sock
        while True:
            try:
                return os.sendfile(sock.fileno(), descriptor, offset_bytes, size_bytes)
            except BlockingIOError:
                _wait_for_room(sock)


class Connections:
    """Idle connections by address."""

    def __init__(self, stall_seconds_max: float, gate: Gate | None = None) -> None:
        """Bound the silence on every connection; ``gate`` is the way to a store on the yard's loopback."""
        self._stall_seconds_max = stall_seconds_max
        self._gate = gate
        self._idle: dict[_Key, list[Connection]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    @contextlib.contextmanager
    def borrowed(self, request: Request, *, is_fresh: bool = False) -> Iterator[Connection]:
        """Lend a connection for one exchange; a fresh one cannot have been closed while it was idle.

        Raises:
            RequestRefused: not an http(s) address.
            Unavailable: the network failed in the block.
        """
        url = urlsplit(request.url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise RequestRefused(f"{request.shown}: not an http(s) address", 0)
        gate = self._gate if request.is_of_store and is_loopback(url.hostname) else None
        key = (url.scheme, url.netloc, gate is not None)
        connection: Connection | None = None
        try:
            kept = None if is_fresh else self._take(key)
            connection = kept or Connection(url, self._stall_seconds_max, gate)
            yield connection
        except (OSError, http.client.HTTPException) as error:
            # The other side was restarted or closed what was idle: the others are as stale.
            self._drop(key)
            raise Unavailable(f"{request.shown}: {type(error).__name__}: {error}") from error
        finally:
            if connection is not None:
                self._give_back(key, connection)

    def close(self) -> None:
        """Close what is idle, and what is lent as soon as it comes back."""
        self._is_closed = True
        for key in list(self._idle):
            self._drop(key)

    def _take(self, key: _Key) -> Connection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def _drop(self, key: _Key) -> None:
        with self._lock:
            dropped = self._idle.pop(key, [])
        for connection in dropped:
            connection.close()

    def _give_back(self, key: _Key, connection: Connection) -> None:
        with self._lock:
            is_kept = connection.is_reusable() and not self._is_closed
            if is_kept:
                self._idle.setdefault(key, []).append(connection)
        if not is_kept:
            connection.close()


def _open(
    url: SplitResult, proxy: SplitResult | None, proxy_headers: Mapping[str, str]
) -> http.client.HTTPConnection:
    through = proxy or url
    host, port = through.hostname or "", through.port
    if url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=_CONNECT_SECONDS_MAX)
    connection = http.client.HTTPSConnection(
        host, port, timeout=_CONNECT_SECONDS_MAX, context=ssl.create_default_context()
    )
    if proxy is not None:
        connection.set_tunnel(url.hostname or "", url.port or 443, headers=dict(proxy_headers))
    return connection


def _wait_for_room(sock: socket.socket) -> None:
    """Wait until the other side has taken something; a socket with a timeout never blocks by itself."""
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    seconds_max: float | None = sock.gettimeout()
    if not poll.poll(None if seconds_max is None else seconds_max * 1000):
        raise TimeoutError("the other side takes nothing more")


def _proxy_of(url: SplitResult) -> SplitResult | None:
    host = url.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    address = urllib.request.getproxies().get(url.scheme)
    if not address:
        return None
    return urlsplit(address if "://" in address else f"http://{address}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
