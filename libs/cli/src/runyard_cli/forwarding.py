"""A local port whose connections come out at a port of a running attempt."""

from __future__ import annotations

import asyncio
import contextlib
import errno

from runyard.run.v1.hands_on_pb2 import HandsOnOpened
from runyard.run.v1.hands_on_service_pb2 import (
    ConnectRequest,
    ConnectResponse,
    ConnectStart,
    ForwardRequest,
    HandsOnStreamEnd,
)
from runyard_cli.output import is_json, note, safe, say, say_json_line
from runyard_cli.words import size_words
from runyard_client import Client, ClientError
from runyard_client.errors import LocalError
from runyard_core.counted import count_words

_HOST = "127.0.0.1"
_CHUNK_BYTES = 32_768


class Forwarding:
    """One forwarded port."""

    def __init__(self, client: Client, name: str, remote_port: int, local_port: int) -> None:
        """Prepare; nothing is opened."""
        self._client = client
        self._name = name
        self._remote_port = remote_port
        self._local_port = local_port
        self._session_id = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._connection_count = 0
        self._sent_bytes = 0
        self._received_bytes = 0
        self._said: set[str] = set()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            LocalError: the local port cannot be had (LOCAL_PORT_IN_USE).
            ClientError: the session was refused, or has ended.
        """
        server = await self._listen()
        try:
            request = ForwardRequest(name=self._name, port=self._remote_port)
            async for answer in self._client.hands_on.Forward(request):
                self._session_id = answer.opened.session_id
                await server.start_serving()
                self._say_open(answer.opened, int(server.sockets[0].getsockname()[1]))
            raise ClientError("UNAVAILABLE", "SESSION_LOST", "the session ended without saying how")
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def say_end(self) -> None:
        """Say what has passed."""
        if not is_json() and self._session_id:
            passed = f"{size_words(self._sent_bytes)} sent, {size_words(self._received_bytes)} received"
            note(f"closed: {count_words(self._connection_count, 'connection')}, {passed}")

    async def _listen(self) -> asyncio.Server:
        try:
            return await asyncio.start_server(self._accept, _HOST, self._local_port, start_serving=False)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
            text = f"port {self._local_port} of this machine {why}; choose another: {self._remote_port}:LOCAL"
            raise LocalError("LOCAL_PORT_IN_USE", text) from error

    def _say_open(self, opened: HandsOnOpened, port: int) -> None:
        if is_json():
            say_json_line(opened)
            return
        where = f"attempt {opened.attempt} on {opened.node_id}"
        say(f"{_HOST}:{port} leads to port {self._remote_port} of {opened.title} ({where}); ctrl-C ends it")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        self._connections.add(task)
        self._connection_count += 1
        try:
            await self._connect(reader, writer)
        except ClientError as error:
            if error.message not in self._said:
                # Browsers try again and again.
                self._said.add(error.message)
                note(f"{safe(error.message)} [{error.reason}]")
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = self._client.hands_on.Connect()
        try:
            await call.write(ConnectRequest(start=ConnectStart(session_id=self._session_id)))
            await call.read()

            async def send() -> None:
                with contextlib.suppress(ConnectionError):
                    while data := await reader.read(_CHUNK_BYTES):
                        self._sent_bytes += len(data)
                        await call.write(ConnectRequest(input=data))
                await call.write(ConnectRequest(input_end=HandsOnStreamEnd()))

            sending = asyncio.create_task(send())
            try:
                while isinstance(answer := await call.read(), ConnectResponse):
                    if answer.HasField("output_end"):
                        break
                    self._received_bytes += len(answer.output)
                    writer.write(answer.output)
                    await writer.drain()
                with contextlib.suppress(OSError):
                    writer.write_eof()
                await sending
            except ConnectionError:
                # Whoever connected here has had enough.
                return
            finally:
                sending.cancel()
        finally:
            call.cancel()
