"""Outputs that are stored while the program runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent import collecting, live_outputs, outputs
from runyard_agent.live_outputs import LiveOutputs, stored_live
from runyard_agent.output_uploads import FILES_AT_ONCE

from .output_folder import folder, output, outputs_of, said, yard
from .store_double import Yard, sha256_of

__all__ = ["folder", "yard"]

pytestmark = pytest.mark.system


async def test_a_file_made_read_only_is_stored_and_removed_while_the_program_runs(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.02)
    (folder / "sub").mkdir()
    (folder / "sub/step1.pt").write_bytes(b"one")
    (folder / "sub/step1.pt.metadata.json").write_bytes(b'{"step": 1}')
    (folder / "sub/step1.pt").chmod(0o444)
    (folder / "growing.txt").write_bytes(b"still")
    of, ended = outputs_of(yard, folder), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        async with asyncio.timeout(20):
            await gone(folder / "sub/step1.pt")
            (folder / "sub/step1.pt").write_bytes(b"one again")
            (folder / "sub/step1.pt").chmod(0o400)
            await gone(folder / "sub/step1.pt")
        ended.set()
    # What an agent that died between record and removal finds.
    (folder / "sub/step1.pt").write_bytes(b"one again")
    of.live_file.write_text(of.live_file.read_text(encoding="utf-8") + '\n{"path": "cut', encoding="utf-8")
    found = await collecting.collect(of)

    assert sorted((file.path, file.sha256) for file in found) == sorted(
        (path, sha256_of(data))
        for path, data in (
            ("growing.txt", b"still"),
            ("sub/step1.pt", b"one"),
            ("sub/step1.pt", b"one again"),
        )
    )
    assert said(yard) == {"sub/step1.pt": {"step": 1.0}}


async def test_a_link_to_a_file_that_was_handed_over_is_no_loss(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.02)
    (folder / "sub").mkdir()
    (folder / "sub/step1.pt").write_bytes(b"one")
    (folder / "last.pt").symlink_to("sub/step1.pt")
    (folder / "sub/step1.pt").chmod(0o444)
    told: list[str] = []
    of, ended = outputs_of(yard, folder, told), asyncio.Event()

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        await gone(folder / "sub/step1.pt")
        ended.set()

    assert await collecting.collect(of) == [output("sub/step1.pt", b"one")]
    assert told[-1] == "output 'last.pt' is skipped: it is a symlink to 'sub/step1.pt', which is stored"


async def test_files_handed_over_together_are_stored_together(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = asyncio.Barrier(FILES_AT_ONCE)

    async def store(*arguments: Any) -> OutputFile:
        async with together:
            return await outputs.store_output(*arguments)

    monkeypatch.setattr(live_outputs, "store_output", store)
    paths = [folder / f"{number}.pt" for number in range(2 * FILES_AT_ONCE)]
    for path in paths:
        path.write_bytes(path.name.encode())
        path.chmod(0o444)
    of, ended = outputs_of(yard, folder), asyncio.Event()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        for path in paths:
            await gone(path)
        ended.set()

    assert {kept.file.path for kept in stored_live(of)} == {path.name for path in paths}


async def test_after_a_file_that_took_long_to_store_the_next_one_waits_no_longer(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def store(*arguments: Any) -> OutputFile:
        await asyncio.sleep(1)  # a large file on its way
        return await outputs.store_output(*arguments)

    monkeypatch.setattr(live_outputs, "store_output", store)
    of, ended = outputs_of(yard, folder), asyncio.Event()

    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        for name in ("first.pt", "second.pt"):
            (folder / name).write_bytes(name.encode())
            (folder / name).chmod(0o444)
            await gone(folder / name)
        ended.set()


async def test_the_same_file_may_be_handed_over_again(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the time and the inode that it had: by a link, or by "cp -p" where a number is used again."""
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.01)
    best = folder.parent / "best.pt"
    best.write_bytes(b"weights")
    best.chmod(0o444)
    ended = asyncio.Event()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(outputs_of(yard, folder)).follow(ended))
        for _ in range(2):
            (folder / "best.pt").hardlink_to(best)
            await gone(folder / "best.pt")
        ended.set()


async def gone(path: Path) -> None:
    while path.exists():  # noqa: ASYNC110, ASYNC240 - what is tested brings it about
        await asyncio.sleep(0.01)


async def test_a_live_output_that_cannot_be_stored_stays_for_the_end(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.01)
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt").chmod(0o444)
    yard.catalogue.failures.append(grpc.StatusCode.PERMISSION_DENIED)
    told: list[str] = []
    of, ended = outputs_of(yard, folder, told), asyncio.Event()

    async with asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        async with asyncio.timeout(20):
            while not told:  # noqa: ASYNC110 - what is tested brings it about
                await asyncio.sleep(0.01)
        ended.set()

    assert "not stored yet" in told[0]
    assert await collecting.collect(of) == [output("model.pt", b"weights")]
