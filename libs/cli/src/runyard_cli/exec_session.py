"""One session of ``runyard exec``: keys and input go there, output comes back, until the command ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

from runyard.run.v1.hands_on_pb2 import Terminal as WantedTerminal
from runyard.run.v1.hands_on_pb2 import WindowSize
from runyard.run.v1.hands_on_service_pb2 import ExecRequest, ExecResponse, ExecStart, HandsOnStreamEnd
from runyard_cli.output import is_json, note
from runyard_cli.terminal import Terminal
from runyard_client import Client, ClientError

_CHUNK_BYTES = 32_768
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class ExecSession:
    """Passes between this process's streams and those of a command elsewhere."""

    def __init__(self, client: Client, terminal: Terminal | None) -> None:
        """Prepare; with a terminal the command gets one of its size."""
        self._terminal = terminal
        self._call = client.hands_on.Exec()
        # One write at a time: keys and sizes come from different places.
        self._writing = asyncio.Lock()
        self._resizing: asyncio.Task[None] | None = None

    async def run(self, name: str, command: Sequence[str]) -> int:
        """Run a command of the run with this name to its end; gives its exit status.

        Raises:
            ClientError: it was refused, or the session ended before the command.
        """
        try:
            start = ExecStart(name=name, command=command)
            if self._terminal is not None:
                start.terminal.CopyFrom(WantedTerminal(type=self._terminal.kind, size=self._size()))
            await self._write(ExecRequest(start=start))
            opened = (await self._read()).opened
            if self._terminal is None:
                return await self._pass()
            if not is_json():
                where = f"attempt {opened.attempt} on {opened.node_id}"
                note(f"{opened.title}, {where}; that somebody was here is recorded")
            with self._terminal.raw():
                return await self._pass()
        finally:
            self._call.cancel()

    async def _pass(self) -> int:
        loop = asyncio.get_running_loop()
        if self._terminal is not None:
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        # A thread that nobody waits for: it may be waiting for a key when all is over.
        threading.Thread(target=self._read_input, args=(loop,), daemon=True).start()
        while True:
            answer = await self._read()
            match answer.WhichOneof("message"):
                case "output":
                    _write_all(_STDOUT, answer.output)
                case "error_output":
                    _write_all(_STDERR, answer.error_output)
                case "exit_status":
                    return answer.exit_status.exit_code
                case _:
                    pass

    def _resized(self) -> None:
        request = ExecRequest(window_size=self._size())
        # Kept: the loop itself would let go of a task that waits.
        self._resizing = asyncio.get_running_loop().create_task(self._write(request))

    def _read_input(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass input on, no faster than it is taken."""
        while True:
            try:
                data = os.read(_STDIN, _CHUNK_BYTES)
            except OSError:
                data = b""
            request = ExecRequest(input=data) if data else ExecRequest(input_end=HandsOnStreamEnd())
            # The loop is closed when all is over.
            with contextlib.suppress(RuntimeError, asyncio.CancelledError):
                asyncio.run_coroutine_threadsafe(self._write(request), loop).result()
            if not data:
                return

    def _size(self) -> WindowSize:
        columns, rows = self._terminal.size if self._terminal is not None else (0, 0)
        return WindowSize(columns=columns, rows=rows)

    async def _write(self, request: ExecRequest) -> None:
        async with self._writing:
            await self._call.write(request)

    async def _read(self) -> ExecResponse:
        answer = await self._call.read()
        if isinstance(answer, ExecResponse):
            return answer
        raise ClientError("UNAVAILABLE", "SESSION_LOST", "the session ended without saying how")


def _write_all(descriptor: int, data: bytes) -> None:
    sys.stdout.flush()
    while data:
        data = data[os.write(descriptor, data) :]
