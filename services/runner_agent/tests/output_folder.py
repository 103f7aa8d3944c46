"""What the tests of outputs share: a folder of a program, and a yard that stores what is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.types_pb2 import OutputFile
from runyard_agent import collecting
from runyard_agent.outputs import OutputsOf

from .store_double import Yard, serving, sha256_of


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs"


async def collect(yard: Yard, folder: Path, told: list[str] | None = None) -> list[OutputFile]:
    return await collecting.collect(outputs_of(yard, folder, told))


def outputs_of(yard: Yard, folder: Path, told: list[str] | None = None) -> OutputsOf:
    said = told if told is not None else []
    origin = Origin(run_id="run-1", attempt=2, project="vision")
    return OutputsOf(yard.client, folder, origin, folder.parent / "live.jsonl", said.append)


def output(path: str, data: bytes) -> OutputFile:
    return OutputFile(path=path, sha256=sha256_of(data), size_bytes=len(data))


def said(yard: Yard) -> dict[str, object]:
    [request] = yard.registry.described
    assert (request.origin.run_id, request.origin.attempt, request.origin.path) == ("run-1", 2, "")
    return {output.path: MessageToDict(output.metadata) for output in request.outputs}
