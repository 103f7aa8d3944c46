"""A command beside a program that runs in a container: the daemon starts it, we pass its streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runyard_agent import process_table
from runyard_agent.docker_daemon import DEFAULT_ADDRESS, DockerDaemon
from runyard_agent.runtime import Handle
from runyard_agent.side_command import CHUNK_BYTES, CommandExit, CommandPlan, Output
from runyard_core.errors import NotFound, Rejected, RunyardError, Unavailable

_MARK = "runyard-hands-on"
_COMMAND = 'exec "$@"'
_SHELL = "if command -v bash >/dev/null; then exec bash; fi; exec sh"
_SIGNAL_GROUP = "kill -$2 -- -$1"
_WORKING_DIRECTORY = "/valohai/repository"
_ANSWER_SECONDS_MAX = 30.0
_END_SECONDS_MAX = 10.0
_HANG_UP_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_FRAME_HEAD_BYTES = 8
_FRAME_OF_ERRORS = 2


async def start_beside_container(
    daemon: DockerDaemon, handle: Handle, asked: CommandPlan
) -> ContainerCommand:
    """Start a command in the container of an attempt, as its user and with its variables.

    Raises:
        Rejected: the container has ended (ATTEMPT_ENDED).
        Unavailable: the daemon does not answer.
        RunyardError: the daemon says no.
    """
    script = [_COMMAND, _MARK, *asked.command] if asked.command else [_SHELL, _MARK]
    try:
        created = await daemon.call(
            daemon.api.exec_create,
            handle.id,
            ["/bin/sh", "-c", *script],
            stdin=True,
            tty=bool(asked.terminal_type),
            workdir=_WORKING_DIRECTORY,
            environment={"TERM": asked.terminal_type} if asked.terminal_type else None,
        )
        return await ContainerCommand.start(daemon, handle, str(created["Id"]), asked)
    except RunyardError as error:
        if isinstance(error, NotFound) or "is not running" in error.message:
            raise Rejected("the container has ended", code="ATTEMPT_ENDED") from error
        raise


async def end_left_behind(daemon: DockerDaemon, handle: Handle) -> None:
    """End commands that an earlier life of the agent left in a container: nobody reads them any more."""
    try:
        container = await daemon.call(daemon.api.inspect_container, handle.id)
        for exec_id in container.get("ExecIDs") or ():
            found = await daemon.call(daemon.api.exec_inspect, exec_id)
            if found["Running"] and _MARK in (found["ProcessConfig"].get("arguments") or ()):
                await _end(daemon, handle, exec_id)
    except NotFound:
        return


async def address_of(daemon: DockerDaemon, handle: Handle) -> str:
    """Give the address at which this machine reaches a container.

    Raises:
        Rejected: it has ended (ATTEMPT_ENDED), or has no network (NO_NETWORK).
        Unavailable: the daemon does not answer.
    """
    try:
        container = await daemon.call(daemon.api.inspect_container, handle.id)
    except NotFound:
        raise Rejected("the container has ended", code="ATTEMPT_ENDED") from None
    if container["HostConfig"]["NetworkMode"] == "host":
        return "127.0.0.1"
    networks = container["NetworkSettings"]["Networks"].values()
    found = next((str(network["IPAddress"]) for network in networks if network["IPAddress"]), "")
    if not found:
        raise Rejected("the container has no network that leads to it", code="NO_NETWORK")
    return found


class ContainerCommand:
    """A ``SideCommand`` that the daemon started. What it leaves behind may go on until the container ends."""

    def __init__(
        self,
        daemon: DockerDaemon,
        handle: Handle,
        exec_id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        has_terminal: bool,
    ) -> None:
        """Take over a stream that the daemon has opened."""
        self._daemon = daemon
        self._handle = handle
        self._exec_id = exec_id
        self._reader = reader
        self._writer = writer
        self._has_terminal = has_terminal
        self._frame_left = 0
        self._frame_is_error = False
        self._has_ended = False

    @classmethod
    async def start(
        cls, daemon: DockerDaemon, handle: Handle, exec_id: str, asked: CommandPlan
    ) -> ContainerCommand:
        """Start what was created."""
        has_terminal = bool(asked.terminal_type)
        # By ourselves: the package reads answers through a buffer, in which the first output would stay.
        reader, writer = await _upgraded(f"/exec/{exec_id}/start", {"Detach": False, "Tty": has_terminal})
        made = cls(daemon, handle, exec_id, reader, writer, has_terminal=has_terminal)
        if has_terminal:
            await made.resize(asked.columns, asked.rows)
        return made

    async def read(self) -> Output | None:
        """Give what it wrote next; None when nobody will write any more."""
        try:
            if self._has_terminal:
                data = await self._reader.read(CHUNK_BYTES)
                return Output(data) if data else None
            while not self._frame_left:
                head = await self._reader.readexactly(_FRAME_HEAD_BYTES)
                self._frame_is_error = head[0] == _FRAME_OF_ERRORS
                self._frame_left = int.from_bytes(head[4:], "big")
            data = await self._reader.read(min(self._frame_left, CHUNK_BYTES))
        except (asyncio.IncompleteReadError, OSError):
            return None
        self._frame_left -= len(data)
        return Output(data, self._frame_is_error) if data else None

    async def write(self, data: bytes) -> None:
        """Give it input."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def end_input(self) -> None:
        """Close its input; of a terminal nothing is closed."""
        with contextlib.suppress(OSError):
            if self._has_terminal:
                self._writer.write(b"\x04")
            elif self._writer.can_write_eof():
                self._writer.write_eof()

    async def resize(self, columns: int, rows: int) -> None:
        """Tell it of another size of its terminal."""
        if self._has_terminal and columns > 0 and rows > 0:
            with contextlib.suppress(RunyardError):
                # It may have ended; then nobody wants to know.
                await self._daemon.call(self._daemon.api.exec_resize, self._exec_id, rows, columns)

    async def wait(self) -> CommandExit | None:
        """Wait for its end; None when it ended with its container."""
        gives_up_at = asyncio.get_running_loop().time() + _END_SECONDS_MAX
        while True:
            try:
                found = await self._daemon.call(self._daemon.api.exec_inspect, self._exec_id)
            except NotFound:
                return None
            if not found["Running"]:
                break
            # The daemon hears of it a little later than we do.
            if asyncio.get_running_loop().time() > gives_up_at:
                raise Unavailable("the daemon does not say how the command ended", code="COMMAND_LOST")
            await asyncio.sleep(_LOOK_SECONDS)
        self._has_ended = True
        exit_code = int(found["ExitCode"] or 0)
        if exit_code == 128 + signal.SIGKILL and not await self._container_runs():
            return None
        return CommandExit(exit_code, exit_code - 128 if 128 < exit_code <= 128 + signal.SIGRTMAX else 0)

    async def close(self) -> None:
        """End it, if it still runs, and let go of everything."""
        self._writer.close()
        if not self._has_ended:
            self._has_ended = True
            with contextlib.suppress(RunyardError):
                # Closing its streams alone would leave it there.
                await _end(self._daemon, self._handle, self._exec_id)

    async def _container_runs(self) -> bool:
        try:
            found = await self._daemon.call(self._daemon.api.inspect_container, self._handle.id)
        except NotFound:
            return False
        return bool(found["State"]["Running"])


async def _end(daemon: DockerDaemon, handle: Handle, exec_id: str) -> None:
    """End a command and what it started, as far as it can be found: the daemon has no call for that."""
    found = await daemon.call(daemon.api.exec_inspect, exec_id)
    pid = int(found.get("Pid") or 0)
    if not found["Running"] or not pid or not _is_in_container(pid, handle.id):
        return
    pids = [pid, *process_table.descendants(pid)]
    number = _pid_inside(pid)
    await _signal(daemon, handle, pids, number, signal.SIGHUP)
    await _ended_within(_HANG_UP_SECONDS, daemon, exec_id)
    left = [each for each in pids if _is_in_container(each, handle.id)]
    await _signal(daemon, handle, left, number, signal.SIGKILL)
    await _ended_within(_END_SECONDS_MAX, daemon, exec_id)


async def _ended_within(seconds: float, daemon: DockerDaemon, exec_id: str) -> None:
    """Wait until the daemon says that a command has ended, or as long as that."""
    gives_up_at = asyncio.get_running_loop().time() + seconds
    while (await daemon.call(daemon.api.exec_inspect, exec_id))["Running"]:
        if asyncio.get_running_loop().time() > gives_up_at:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _signal(
    daemon: DockerDaemon, handle: Handle, pids: Sequence[int], number: int, sent: signal.Signals
) -> None:
    refused = False
    for pid in pids:
        try:
            os.kill(pid, sent)
        except ProcessLookupError:
            continue
        except PermissionError:
            refused = True
    if refused and number:
        # Not ours to signal: the container's user does it, to the command's process group.
        script = ["/bin/sh", "-c", _SIGNAL_GROUP, "sh", str(number), sent.name.removeprefix("SIG")]
        created = await daemon.call(daemon.api.exec_create, handle.id, script)
        await daemon.call(daemon.api.exec_start, created["Id"], detach=True)


def _is_in_container(pid: int, container_id: str) -> bool:
    """Say whether a pid, which the daemon knows from another view maybe, is of this container."""
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False


def _pid_inside(pid: int) -> int:
    """Give the number that a process has in its container; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


async def _upgraded(
    path: str, content: Mapping[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask the daemon for a stream: HTTP up to its answer, bytes after that."""
    address = os.environ.get("DOCKER_HOST", DEFAULT_ADDRESS).removeprefix("unix://")
    body = json.dumps(content)
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: docker",
        "Connection: Upgrade",
        "Upgrade: tcp",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    writer = None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS_MAX):
            reader, writer = await asyncio.open_unix_connection(address, limit=2 * CHUNK_BYTES)
            writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            if status in {101, 200}:
                return reader, writer
            reason = (await reader.read(CHUNK_BYTES)).decode(errors="replace").strip()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
        if writer is not None:
            writer.close()
        raise Unavailable(f"the Docker daemon does not answer: {error!r}") from error
    writer.close()
    raise RunyardError(f"the Docker daemon says {status}: {reason}", code="DOCKER_REFUSED")
