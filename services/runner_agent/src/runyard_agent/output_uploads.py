"""Files of an outputs folder on their way to the store: large ones by themselves, small ones in groups.

A group shares the calls that announce and record it: by itself a file of a kilobyte cost 36 ms of all
services together, of which its bytes took 3.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from runyard.artifact.v1.artifact_service_pb2 import FileOfMany
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent.blocking import BlockingPool
from runyard_agent.http_connections import Request, RequestRefused
from runyard_agent.outputs import FoundFile, OutputsOf, hash_output, opened_output, store_output
from runyard_core.errors import Corrupt, RunyardError
from runyard_core.fan_out import fan_out

FILES_AT_ONCE = 4
SMALL_BYTES_MAX = 8 << 20
"""Larger files go by themselves: there the calls do not count, and what is sent again does."""
GROUP_FILES_MAX = 250
"""Most files that share a call; the service takes 500."""
_GROUPS_AT_ONCE = 2
_PUTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class _Hashed:
    found: FoundFile
    file: FileOfMany


async def store_files(
    of: OutputsOf, pool: BlockingPool, files: Sequence[FoundFile], refused: list[str]
) -> list[OutputFile]:
    """Store files; a sentence for each that cannot be is told, and added to those refused."""
    stored: list[OutputFile] = []
    alone: list[FoundFile] = []

    async def store_group(group: Sequence[FoundFile]) -> None:
        there = await _stored_together(of, pool, group)
        stored.extend(there.values())
        alone.extend(file for file in group if file not in there)

    async def store_alone(file: FoundFile) -> None:
        try:
            stored.append(await _store_whole(of, pool, file))
        except (RunyardError, OSError) as error:
            sentence = f"output {str(file.path)!r} is not stored: {error}"
            of.tell(sentence)
            refused.append(sentence)

    starts = range(0, len(files), GROUP_FILES_MAX)
    groups = [files[start : start + GROUP_FILES_MAX] for start in starts]
    await fan_out(_GROUPS_AT_ONCE, store_group, groups)
    await fan_out(FILES_AT_ONCE, store_alone, alone)
    return stored


async def _store_whole(of: OutputsOf, pool: BlockingPool, file: FoundFile) -> OutputFile:
    for is_last in (False, True):
        try:
            # From its own name: the file behind a symlink may be another by now.
            with opened_output(of, file.real_path) as descriptor:
                return await store_output(of, pool, file.path, descriptor)
        except (RequestRefused, Corrupt):
            # The store holds the bytes against the hash; something may still have been writing. Once more.
            if is_last:
                raise
    raise AssertionError("unreachable")


async def _stored_together(
    of: OutputsOf, pool: BlockingPool, files: Sequence[FoundFile]
) -> dict[FoundFile, OutputFile]:
    """Store a group; what is missing in the answer is to be stored by itself.

    That way tries harder and says what is wrong: with a file that is still being written, with wrong bytes
    in the store, with a service that is away or older than these calls.
    """
    hashed = await pool.run(None, _hash_small, of, files)
    if not hashed:
        return {}
    client = of.artifact_client

    async def send(one: tuple[_Hashed, Request | None]) -> _Hashed | None:
        return one[0] if one[1] is None or await _is_sent(of, one[0], one[1]) else None

    try:
        requests = await client.begin_uploads([one.file for one in hashed], of.origin)
        sent = await fan_out(_PUTS_AT_ONCE, send, list(zip(hashed, requests, strict=True)))
        there = [one for one in sent if one is not None]
        refusals = await client.commit_uploads([one.file for one in there], of.origin)
    except RunyardError:
        return {}
    return {
        one.found: OutputFile(path=one.file.path, sha256=one.file.sha256, size_bytes=one.file.size_bytes)
        for one, refusal in zip(there, refusals, strict=True)
        if not refusal
    }


def _hash_small(of: OutputsOf, files: Sequence[FoundFile]) -> list[_Hashed]:
    hashed: list[_Hashed] = []
    for found in files:
        try:
            with opened_output(of, found.real_path) as descriptor:
                if os.fstat(descriptor).st_size > SMALL_BYTES_MAX:
                    continue
                sha256, size_bytes = hash_output(descriptor)
        except OSError:
            # Gone, or no file any more: said when it is stored by itself.
            continue
        path = of.recorded_name(found.path)
        before = of.versions.before(path, sha256)
        file = FileOfMany(path=path, sha256=sha256, size_bytes=size_bytes, versions_before=before)
        hashed.append(_Hashed(found, file))
    return hashed


async def _is_sent(of: OutputsOf, hashed: _Hashed, request: Request) -> bool:
    try:
        with opened_output(of, hashed.found.real_path) as descriptor:
            await of.artifact_client.put(request, descriptor, hashed.file.size_bytes)
    except (RunyardError, OSError):
        return False
    return True
