"""Outputs that a program hands over while it runs: a file made read-only is stored at once, and removed.

The mode bits say so, not who may write: root may always. What was stored is on disk before its file goes, so
that the last report has it whatever happens to the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.below import remove_below, walk_below
from runyard_agent.blocking import BlockingPool
from runyard_agent.domain.safe_paths import relative_path
from runyard_agent.output_metadata import LINES_FILE, SIDECAR_SUFFIX, read_sidecar
from runyard_agent.output_uploads import FILES_AT_ONCE
from runyard_agent.outputs import OutputsOf, PathVersions, opened_output, store_output
from runyard_core.errors import InvalidInput, RunyardError
from runyard_core.fan_out import fan_out

_WRITE_BITS = 0o222
_LOOK_SECONDS = 1.0
# A folder of a million files takes seconds to look through: most of the time is the program's.
_REST_FOR_EACH_SECOND = 20.0


@dataclass(frozen=True, slots=True)
class LiveOutput:
    """An output that is stored already."""

    file: OutputFile
    metadata: Struct
    """What its sidecar said then."""


class LiveOutputs:
    """Watches the outputs folder of one attempt."""

    def __init__(self, of: OutputsOf) -> None:
        """Prepare; nothing is looked at before ``follow``."""
        self._of = of
        self._refused: set[tuple[str, int, int]] = set()

    async def follow(self, ended: asyncio.Event) -> None:
        """Store what is handed over, until the program has ended; the rest is collected then."""
        pool = BlockingPool("live outputs", thread_count=FILES_AT_ONCE)
        # One thread: lines come one after the other.
        records = BlockingPool("live records", thread_count=1)

        async def take(path: PurePosixPath) -> None:
            if not ended.is_set():
                await self._take(pool, records, path)

        try:
            self._of = replace(self._of, versions=await pool.run(None, stored_versions, self._of))
            while not ended.is_set():
                began_at = time.monotonic()
                found = await pool.run(None, lambda: list(_handed_over(self._of.folder)))
                rest = _REST_FOR_EACH_SECOND * (time.monotonic() - began_at)
                await fan_out(FILES_AT_ONCE, take, found)
                await _wait(ended, max(_LOOK_SECONDS, rest))
        finally:
            pool.close()
            records.close()

    async def _take(self, pool: BlockingPool, records: BlockingPool, path: PurePosixPath) -> None:
        tell = self._of.tell
        try:
            with opened_output(self._of, path) as descriptor:
                opened = os.fstat(descriptor)
                key = (str(path), opened.st_ino, opened.st_mtime_ns)
                if key in self._refused:
                    return
                self._refused.add(key)
                metadata = await pool.run(None, read_sidecar, self._of.folder, str(path), tell)
                file = await store_output(self._of, pool, path, descriptor)
                await records.run(None, _remember, self._of, LiveOutput(file, metadata or Struct()))
                self._of.versions.add(file.path, file.sha256)
                if await pool.run(None, remove_below, self._of.folder, path, opened):
                    self._refused.discard(key)
                    tell(f"output {str(path)!r} is stored: {file.size_bytes} bytes")
        except (RunyardError, OSError) as error:
            tell(f"output {str(path)!r} is not stored yet: {error}")


def stored_live(of: OutputsOf) -> list[LiveOutput]:
    """Give what was stored while the program ran, each version of each path once, the newest last."""
    found: dict[tuple[str, str], LiveOutput] = {}
    for output in _remembered(of):
        file = output.file
        # What came again is the newest once more.
        found.pop((file.path, file.sha256), None)
        found[file.path, file.sha256] = output
    return list(found.values())


def stored_versions(of: OutputsOf) -> PathVersions:
    """Give the versions of each path that were stored while the program ran."""
    versions = PathVersions()
    for output in _remembered(of):
        versions.add(output.file.path, output.file.sha256)
    return versions


def _remembered(of: OutputsOf) -> Iterator[LiveOutput]:
    """Give every line, in the order in which they were written."""
    try:
        content = of.live_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            kept = json.loads(line)
        except ValueError:
            # The agent died while it wrote this line: its file is still there.
            continue
        file = OutputFile(path=kept["path"], sha256=kept["sha256"], size_bytes=kept["size_bytes"])
        yield LiveOutput(file, ParseDict(kept["metadata"], Struct()))


def _remember(of: OutputsOf, output: LiveOutput) -> None:
    line = json.dumps(
        {
            "path": output.file.path,
            "sha256": output.file.sha256,
            "size_bytes": output.file.size_bytes,
            "metadata": MessageToDict(output.metadata),
        }
    )
    with of.live_file.open("a", encoding="utf-8") as file:
        # On a line of its own, also after one that was cut off.
        file.write(f"\n{line}\n")
        file.flush()
        os.fsync(file.fileno())


def _handed_over(folder: Path) -> Iterator[PurePosixPath]:
    for name, mode in walk_below(folder, lambda *_: None):
        if name.endswith(SIDECAR_SUFFIX) or name.rpartition("/")[2] == LINES_FILE:
            continue
        if stat.S_ISREG(mode) and not mode & _WRITE_BITS:
            with contextlib.suppress(InvalidInput):
                yield relative_path(name)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
