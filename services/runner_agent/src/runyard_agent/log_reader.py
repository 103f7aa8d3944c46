"""Follows the output files of an attempt: bytes to numbered lines in the spool, each exactly once.

The program writes to files and never waits for us. How far each file was read is written to the spool in
the same step as the lines, so that after any death of the agent reading goes on at the very next byte.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runyard.metric.v1.batches_pb2 import LogStream
from runyard_agent.domain.batching import LogLine
from runyard_agent.domain.line_assembler import Line, LineAssembler
from runyard_agent.domain.redaction import Redaction
from runyard_agent.file_watch import FileWatch
from runyard_agent.telemetry import AttemptTelemetry
from runyard_core.retry import Backoff, Retries, retried

logger = logging.getLogger(__name__)

_REST_SECONDS = 0.1
"""Between two reads: a batch costs about 3 ms of everybody's time, however few lines it has."""
_READ_BYTES = 256 * 1024
_PROGRESS_SECONDS = 10.0
_NO_ROOM_SECONDS = 1.0
_KNOWN_BYTES = 64
_BACKOFF = Backoff(first_seconds=1.0, seconds_max=1.0)


@dataclass(slots=True)
class _Source:
    """One output file."""

    name: str
    stream: LogStream.ValueType
    path: Path
    assembler: LineAssembler
    descriptor: int = -1
    first_bytes: bytes = b""
    last_bytes: bytes = b""
    """What was read last; nothing in the first look of an agent."""
    was_emptied: bool = False

    def read(self) -> bytes | None:
        """Give the next bytes, none when there are none yet; None when the file was emptied since."""
        if self.descriptor < 0:
            try:
                self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        known, offset = self.last_bytes, self.assembler.read_offset
        found = os.pread(self.descriptor, len(known) + _READ_BYTES, offset - len(known))
        is_other, chunk = found[: len(known)] != known, found[len(known) :]
        if (is_other or not chunk) and os.fstat(self.descriptor).st_size < offset:
            return None
        # Who only writes over the last bytes (two writers with places of their own) has left the first ones.
        if is_other and os.pread(self.descriptor, len(self.first_bytes), 0) != self.first_bytes:
            return None
        if len(self.first_bytes) < _KNOWN_BYTES:
            self.first_bytes = os.pread(self.descriptor, _KNOWN_BYTES, 0)
        self.last_bytes = (known + chunk)[-_KNOWN_BYTES:]
        return chunk

    def begin_again(self, redaction: Redaction) -> list[Line]:
        """Read from the start of the file; gives what was left of the line before."""
        left = self.assembler.finish()
        self.assembler = LineAssembler(redaction=redaction)
        self.first_bytes = self.last_bytes = b""
        return left

    def close(self) -> None:
        """Close the file."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class LogReader:
    """Reads standard output and standard error of one attempt."""

    def __init__(self, stdout: Path, stderr: Path, telemetry: AttemptTelemetry) -> None:
        """Go on where the attempt's mark says."""
        self.on_lines: Callable[[Sequence[LogLine]], None] = lambda _: None
        """Called with lines that are in the spool."""
        self._telemetry = telemetry
        self._sources = [
            self._source("stdout", LogStream.LOG_STREAM_STDOUT, stdout),
            self._source("stderr", LogStream.LOG_STREAM_STDERR, stderr),
        ]
        self._progress_at = time.monotonic() + _PROGRESS_SECONDS
        self._is_behind = False

    async def follow(self, ended: asyncio.Event) -> None:
        """Read as lines come, until the program has ended and everything is read."""
        watch = FileWatch({source.path.parent for source in self._sources})
        end = asyncio.ensure_future(ended.wait())
        try:
            while True:
                # Looked at before reading: what was written before the end is there to read after it.
                is_last = ended.is_set()
                if not self._telemetry.has_room:
                    await asyncio.sleep(_NO_ROOM_SECONDS)
                elif await self._read_once():
                    if self._is_behind:
                        await asyncio.sleep(0)
                    else:
                        await asyncio.wait((end,), timeout=_REST_SECONDS)
                elif is_last:
                    await self._write([(source, source.assembler.finish()) for source in self._sources])
                    return
                else:
                    await self._write_progress()
                    await watch.wait(end)
        finally:
            end.cancel()
            watch.close()
            for source in self._sources:
                source.close()

    async def _read_once(self) -> bool:
        """Take what is there, up to a bound; False when there was nothing."""
        found = self._is_behind = False
        lines: list[tuple[_Source, list[Line]]] = []
        notes: list[str] = []
        for source in self._sources:
            chunk = source.read()
            if chunk is None:
                found = True
                lines.append((source, source.begin_again(self._telemetry.redaction)))
                if not source.was_emptied:
                    source.was_emptied = True
                    notes.append(_emptied(source.name))
                chunk = source.read() or b""
            self._is_behind = self._is_behind or len(chunk) == _READ_BYTES
            if chunk:
                found = True
                lines.append((source, source.assembler.feed(chunk)))
        await self._write(lines, notes)
        return found

    async def _write_progress(self) -> None:
        if time.monotonic() >= self._progress_at:
            self._progress_at = time.monotonic() + _PROGRESS_SECONDS
            await self._write([(source, source.assembler.take_progress()) for source in self._sources])

    async def _write(self, found: list[tuple[_Source, list[Line]]], notes: Sequence[str] = ()) -> None:
        now = self._telemetry.now_unix_milliseconds()
        lines = [LogLine(note, LogStream.LOG_STREAM_STATUS, now) for note in notes]
        lines += [
            LogLine(line.text, source.stream, now, line.is_whole)
            for source, assembled in found
            for line in assembled
        ]
        if not lines:
            return

        async def write() -> None:
            self._telemetry.write_lines(lines, self._positions())

        # Most likely a full disk: the lines stay here, the program goes on.
        await retried(write, (OSError,), Retries(f"spooling {len(lines)} log lines", _BACKOFF, logger))
        self.on_lines(lines)

    def _positions(self) -> dict[str, int]:
        positions = {}
        for source in self._sources:
            positions[f"{source.name}_offset"] = source.assembler.offset
            positions[f"{source.name}_in_cut_line"] = int(source.assembler.in_cut_line)
        return positions

    def _source(self, name: str, stream: LogStream.ValueType, path: Path) -> _Source:
        offset = self._telemetry.position(f"{name}_offset")
        in_cut_line = bool(self._telemetry.position(f"{name}_in_cut_line"))
        redaction = self._telemetry.redaction
        assembler = LineAssembler(offset, in_cut_line=in_cut_line, redaction=redaction)
        return _Source(name, stream, path, assembler)


def _emptied(name: str) -> str:
    number = {"stdout": 1, "stderr": 2}[name]
    return (
        f"the program has emptied its own {name}, which is a file, and lines of it may be missing: "
        f'"> /dev/{name}" and "tee /dev/{name}" do that; ">&{number}" and "tee -a" do not'
    )
