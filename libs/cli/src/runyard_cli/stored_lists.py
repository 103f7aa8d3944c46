"""Lists that a record names by their hash: fetched when somebody wants to see all of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from runyard.run.v1.types_pb2 import Environment, Input
from runyard_client import Client
from runyard_client.files import download_file
from runyard_contracts.file_list import ListedFile, parse_file_list


async def system_packages(client: Client, environment: Environment) -> Sequence[str]:
    """Get the stored list of an environment's system packages; none where there is none."""
    if not environment.system_packages_sha256:
        return ()
    content = await _content(client, environment.system_packages_sha256)
    return [" ".join(line.split("\t")[1:]) for line in content.decode().splitlines()]


async def fetch_listed(client: Client, inputs: Iterable[Input]) -> None:
    """Add to inputs the files that only their stored lists name."""
    for one in inputs:
        if one.file_list.sha256:
            add_listed(one, parse_file_list(await _content(client, one.file_list.sha256)))


def add_listed(one: Input, listed: Iterable[ListedFile]) -> None:
    """Add the files of an input's list that it does not name itself."""
    named = {file.path for file in one.files}
    for file in listed:
        if file.path not in named:
            one.files.add(
                uri=f"datum://{file.sha256}", path=file.path, sha256=file.sha256, size_bytes=file.size_bytes
            )


async def _content(client: Client, sha256: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="runyard-show-") as scratch:
        file = Path(scratch, "list")
        await download_file(client, sha256, file)
        return await asyncio.to_thread(file.read_bytes)
