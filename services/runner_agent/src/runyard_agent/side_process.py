"""A command beside a program that runs as a process: in its view of the file system, variables and limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import struct
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from runyard_agent import private_view, process_table, shim, side_shim
from runyard_agent.runtime import LaunchPlan
from runyard_agent.side_command import CHUNK_BYTES, CommandExit, CommandPlan, Output
from runyard_core.errors import Rejected, RunyardError

_CLOSE_SECONDS_MAX = 10.0
_PIPE_BYTES_MAX = 1024 * 1024
_PYTHON = (sys.executable, "-I", "-S")


async def start_beside_process(plan: LaunchPlan, groups: Sequence[str], asked: CommandPlan) -> ProcessCommand:
    """Start a command beside the program of an attempt.

    Args:
        plan: of the attempt.
        groups: folders of its control group.
        asked: the command.

    Raises:
        Rejected: the program has ended (ATTEMPT_ENDED).
    """
    program = _program_of(plan)
    try:
        has_view = os.readlink(f"/proc/{program}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    except OSError as error:
        raise Rejected(f"the program cannot be looked into: {error}", code="ATTEMPT_ENDED") from error
    content = {
        "program": program,
        "program_start_ticks": process_table.start_ticks(program),
        "groups": list(groups),
        "command": list(asked.command),
        "terminal_type": asked.terminal_type,
        "working_directory": f"{private_view.CONTRACT_ROOT}/repository" if has_view else str(plan.repository),
    }
    return await ProcessCommand.start(json.dumps(content).encode(), asked)


class ProcessCommand:
    """A ``SideCommand`` below a shim of its own, which ends it when the program or this agent ends."""

    def __init__(
        self,
        parent: asyncio.subprocess.Process,
        streams: _Streams,
        status_descriptor: int,
        life_descriptor: int,
    ) -> None:
        """Take over what ``start`` has made."""
        self._parent = parent
        self._streams = streams
        self._status_descriptor = status_descriptor
        self._life_descriptor = life_descriptor

    @classmethod
    async def start(cls, plan: bytes, asked: CommandPlan) -> ProcessCommand:
        """Start the shim with its streams."""
        terminal = _Terminal(asked.columns, asked.rows) if asked.terminal_type else None
        plan_end, our_plan_end = os.pipe()
        our_status_end, status_end = os.pipe()
        life_end, our_life_end = os.pipe()
        stream = asyncio.subprocess.PIPE if terminal is None else terminal.command_end
        arguments = [str(end) for end in (plan_end, status_end, life_end)]
        try:
            fcntl.fcntl(our_plan_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES_MAX)
            os.write(our_plan_end, plan)
            parent = await asyncio.create_subprocess_exec(
                *_PYTHON, side_shim.__file__, *arguments,
                stdin=stream, stdout=stream, stderr=stream, env={}, limit=2 * CHUNK_BYTES,
                pass_fds=(plan_end, status_end, life_end), start_new_session=True,
            )  # fmt: skip
        except BaseException:
            for descriptor in (our_status_end, our_life_end):
                os.close(descriptor)
            if terminal is not None:
                os.close(terminal.our_end)
            raise
        finally:
            for descriptor in (plan_end, our_plan_end, status_end, life_end):
                os.close(descriptor)
            if terminal is not None:
                os.close(terminal.command_end)
        streams = _PipeStreams(parent) if terminal is None else await _TerminalStreams.open(terminal.our_end)
        return cls(parent, streams, our_status_end, our_life_end)

    @property
    def pid(self) -> int:
        """Pid of its shim: it, and all that it starts, are below that."""
        return self._parent.pid

    async def read(self) -> Output | None:
        """Give what it wrote next; None when nobody will write any more."""
        return await self._streams.read()

    async def write(self, data: bytes) -> None:
        """Give it input."""
        with contextlib.suppress(OSError):
            self._streams.input.write(data)
            await self._streams.input.drain()

    async def end_input(self) -> None:
        """Close its input; of a terminal nothing is closed."""
        self._streams.end_input()

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it of another size of its terminal."""
        self._streams.resize(columns, rows)

    async def wait(self) -> CommandExit | None:
        """Wait for its end; None when it ended with its program.

        Raises:
            RunyardError: it could not be started (COMMAND_NOT_STARTED).
        """
        await self._parent.wait()
        # There at once, or never: whoever could write it has ended.
        status = json.loads(os.read(self._status_descriptor, CHUNK_BYTES) or b"{}")
        if problem := status.get("problem"):
            raise RunyardError(f"the command could not be started: {problem}", code="COMMAND_NOT_STARTED")
        # Without a word it was killed with everything of the attempt.
        return CommandExit(status["exit_code"], status["signal"]) if "exit_code" in status else None

    async def close(self) -> None:
        """End it, if it still runs, and let go of everything."""
        if self._life_descriptor >= 0:
            os.close(self._life_descriptor)
            self._life_descriptor = -1
        self._streams.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                await self._parent.wait()
        except TimeoutError:
            self._parent.kill()
        if self._status_descriptor >= 0:
            os.close(self._status_descriptor)
            self._status_descriptor = -1


class _Streams:
    """Input and output of a command."""

    input: asyncio.StreamWriter

    async def read(self) -> Output | None:
        raise NotImplementedError

    def end_input(self) -> None:
        raise NotImplementedError

    def resize(self, columns: int, rows: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _PipeStreams(_Streams):
    """Three pipes."""

    def __init__(self, parent: asyncio.subprocess.Process) -> None:
        assert parent.stdin is not None  # noqa: S101 - asked for
        assert parent.stdout is not None  # noqa: S101
        assert parent.stderr is not None  # noqa: S101
        self.input = parent.stdin
        self._readers = {False: parent.stdout, True: parent.stderr}
        self._reading: dict[asyncio.Task[bytes], bool] = {}

    async def read(self) -> Output | None:
        for is_error, reader in self._readers.items():
            if is_error not in self._reading.values():
                self._reading[asyncio.ensure_future(reader.read(CHUNK_BYTES))] = is_error
        while self._reading:
            done, _ = await asyncio.wait(self._reading, return_when=asyncio.FIRST_COMPLETED)
            first = done.pop()
            is_error = self._reading.pop(first)
            if data := first.result():
                return Output(data, is_error)
            del self._readers[is_error]
        return None

    def end_input(self) -> None:
        self.input.close()

    def resize(self, columns: int, rows: int) -> None:
        pass

    def close(self) -> None:
        self.input.close()
        for task in self._reading:
            task.cancel()


class _TerminalStreams(_Streams):
    """Our end of a pseudo-terminal."""

    def __init__(self, descriptor: int, reader: asyncio.StreamReader) -> None:
        self._descriptor = descriptor
        self._reader = reader
        self._transports: list[asyncio.BaseTransport] = []

    @classmethod
    async def open(cls, descriptor: int) -> _TerminalStreams:
        loop = asyncio.get_running_loop()
        made = cls(descriptor, asyncio.StreamReader(limit=2 * CHUNK_BYTES))
        # One file each: a transport closes its own.
        reading, _ = await loop.connect_read_pipe(
            lambda: _UntilHangUp(made._reader), os.fdopen(os.dup(descriptor), "rb", buffering=0)
        )
        writing, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(os.dup(descriptor), "wb", buffering=0)
        )
        made.input = asyncio.StreamWriter(writing, protocol, None, loop)
        made._transports = [reading, writing]
        return made

    async def read(self) -> Output | None:
        data = await self._reader.read(CHUNK_BYTES)
        return Output(data) if data else None

    def end_input(self) -> None:
        # What a terminal's user does for that; the rest is up to the program.
        self.input.write(b"\x04")

    def resize(self, columns: int, rows: int) -> None:
        if self._descriptor >= 0:
            _set_size(self._descriptor, columns, rows)

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _UntilHangUp(asyncio.StreamReaderProtocol):
    """A terminal whose last user has gone gives an error (EIO): the end, behind what was written before."""

    def connection_lost(self, exc: Exception | None) -> None:
        is_hang_up = isinstance(exc, OSError) and exc.errno == errno.EIO
        super().connection_lost(None if is_hang_up else exc)


class _Terminal:
    def __init__(self, columns: int, rows: int) -> None:
        self.our_end, self.command_end = os.openpty()
        _set_size(self.our_end, columns, rows)


def _set_size(descriptor: int, columns: int, rows: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _program_of(plan: LaunchPlan) -> int:
    try:
        return int(json.loads(Path(plan.state / shim.PROGRAM_FILE).read_bytes())["session"])
    except FileNotFoundError:
        raise Rejected("the program is not there any more", code="ATTEMPT_ENDED") from None
