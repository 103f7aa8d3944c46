"""What is said of outputs: sidecars and lines, which are no outputs themselves."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from runyard.artifact.v1.registry_types_pb2 import DescribedOutput
from runyard.artifact.v1.types_pb2 import Origin
from runyard_agent import collecting, live_outputs
from runyard_agent.domain.redaction import Redaction
from runyard_agent.live_outputs import LiveOutputs
from runyard_agent.outputs import OutputsIncomplete

from .output_folder import collect, folder, output, outputs_of, said, yard
from .store_double import Yard

__all__ = ["folder", "yard"]

pytestmark = pytest.mark.system


async def test_many_outputs_have_the_time_that_many_take(yard: Yard) -> None:
    for count in (1, 8_000):
        outputs = [DescribedOutput(path=f"{number}") for number in range(count)]
        await yard.client.describe_outputs("id", Origin(run_id="r"), outputs)
    few, many = yard.registry.seconds_given
    assert 15 < few < 21
    assert 400 < many < 421


async def test_sidecars_and_lines_describe_outputs_and_are_none(yard: Yard, folder: Path) -> None:
    (folder / "a").mkdir()
    for name in ("a/model.pt", "plain.txt", "both.txt"):
        (folder / name).write_bytes(name.encode())
    (folder / "a/model.pt.metadata.json").write_text('{"valohai.tags": ["good"], "n": 1}', encoding="utf-8")
    (folder / "both.txt.metadata.json").write_text('{"n": 2}', encoding="utf-8")
    lines = [{"file": "both.txt", "metadata": {"n": 1, "of": "lines"}}, {"file": "gone", "metadata": {}}, 5]
    (folder / "valohai.metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    yard.registry.problems.append("no such alias")
    told: list[str] = []

    found = await collect(yard, folder, told)

    assert [file.path for file in found] == ["a/model.pt", "both.txt", "plain.txt"]
    assert said(yard) == {
        "a/model.pt": {"valohai.tags": ["good"], "n": 1.0},
        "both.txt": {"n": 2.0, "of": "lines"},
    }
    assert told == [
        "output 'valohai.metadata.jsonl', line 2: there is no output 'gone'",
        "output 'valohai.metadata.jsonl', line 3: it is no JSON object",
        "no such alias",
    ]


async def test_each_version_of_a_live_output_keeps_what_its_sidecar_said_then(
    yard: Yard, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outputs, "_LOOK_SECONDS", 0.01)
    best, sidecar = folder / "best.pt", folder / "best.pt.metadata.json"
    of, ended = outputs_of(yard, folder), asyncio.Event()
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(LiveOutputs(of).follow(ended))
        for epoch, weights in enumerate((b"first", b"second", b"first"), start=1):
            sidecar.write_text(json.dumps({"epoch": epoch, f"of-{epoch}": True}), encoding="utf-8")
            best.write_bytes(weights)
            best.chmod(0o444)
            while best.exists():  # noqa: ASYNC110 - what is tested brings it about
                await asyncio.sleep(0.01)
        ended.set()

    found = await collecting.collect(of)

    # What came again is the newest of its path.
    assert found == [output("best.pt", b"second"), output("best.pt", b"first")]
    [request] = yard.registry.described
    assert [MessageToDict(each.metadata) for each in request.outputs] == [
        {"epoch": 2.0, "of-2": True},
        {"epoch": 3.0, "of-3": True},
    ]


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"x": NaN}', b"\xff", b'{"x": "\\ud800"}', b"[" * 100_000]
)
async def test_a_sidecar_that_cannot_be_read_is_said_and_stored(
    yard: Yard, folder: Path, content: bytes
) -> None:
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt.metadata.json").write_bytes(content)
    (folder / "alone.metadata.json").write_bytes(b"{}")
    told: list[str] = []

    found = await collect(yard, folder, told)

    assert [file.path for file in found] == ["alone.metadata.json", "model.pt", "model.pt.metadata.json"]
    assert len(told) == 1
    assert "says nothing of 'model.pt'" in told[0]
    assert yard.registry.described == []


async def test_metadata_that_cannot_be_applied_is_an_incomplete_end(yard: Yard, folder: Path) -> None:
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "model.pt.metadata.json").write_bytes(b'{"n": 1}')
    yard.registry.status = grpc.StatusCode.PERMISSION_DENIED

    with pytest.raises(OutputsIncomplete) as error:
        await collect(yard, folder)

    assert [file.path for file in error.value.stored] == ["model.pt"]


async def test_names_of_outputs_and_what_is_said_of_them_hold_no_secret(yard: Yard, folder: Path) -> None:
    word = "xyzzy-plugh"
    of = replace(outputs_of(yard, folder), redaction=Redaction([word]))
    for name in (f"{word}.pt", f"live {word}"):
        (folder / name).write_bytes(name.encode())
        (folder / f"{name}.metadata.json").write_text(json.dumps({"word": word}), encoding="utf-8")
    line = {"file": f"{word}.pt", "metadata": {"n": 1}}
    (folder / "valohai.metadata.jsonl").write_text(json.dumps(line), encoding="utf-8")
    os.chmod(folder / f"live {word}", 0o444)
    stored = asyncio.Event()
    live = replace(of, tell=lambda _: stored.set())
    async with asyncio.timeout(40):
        await LiveOutputs(live).follow(stored)

    found = await collecting.collect(of)

    assert [file.path for file in found] == ["***.pt", "live ***"]
    assert {origin.path for origin in yard.catalogue.origins()} == {"***.pt", "live ***"}
    assert said(yard) == {"***.pt": {"word": "***", "n": 1.0}, "live ***": {"word": "***"}}
