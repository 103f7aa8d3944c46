"""Inputs from web addresses: recorded, held to what they were, and not moved twice."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Input
from runyard_agent import known_addresses
from runyard_agent.known_addresses import Known, KnownAddresses
from runyard_core.errors import Unavailable

from .input_folder import fetch, yard
from .store_double import Yard, sha256_of

__all__ = ["yard"]


async def test_a_web_address_is_fetched_and_its_hash_recorded(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/data/my%20set.csv"] = b"1,2"
    uri = f"{yard.store.address}/data/my%20set.csv?version=3"

    [found] = await fetch(yard, tmp_path, Input(name="set", uris=[uri]))

    assert (tmp_path / "inputs/set/my set.csv").read_bytes() == b"1,2"
    assert found.files[0].sha256 == sha256_of(b"1,2")
    assert sorted(os.listdir(tmp_path / "inputs/set")) == ["my set.csv"]


async def test_a_web_file_that_is_not_what_it_was_is_refused(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/data.csv"] = b"new"
    wanted = Input(name="set", uris=[f"{yard.store.address}/data.csv"])
    wanted.files.add(uri=wanted.uris[0], path="data.csv", sha256=sha256_of(b"old"))

    with pytest.raises(Unavailable, match=f"want {sha256_of(b'old')}"):
        await fetch(yard, tmp_path, wanted)


async def test_a_web_file_that_is_still_the_same_is_not_moved_again(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/data.csv"] = b"first"
    wanted, addresses = Input(name="set", uris=[f"{yard.store.address}/data.csv"]), KnownAddresses()
    moved = []
    for run in range(4):
        if run == 2:
            yard.store.objects["/data.csv"] = b"second!"
        [found] = await fetch(yard, tmp_path / str(run), wanted, addresses=addresses)
        moved.append((found.files[0].moved_bytes, found.files[0].sha256))
        assert (tmp_path / str(run) / "inputs/set/data.csv").read_bytes() == yard.store.objects["/data.csv"]

    first, second = sha256_of(b"first"), sha256_of(b"second!")
    assert moved == [(5, first), (0, first), (7, second), (0, second)]


async def test_a_web_file_whose_bytes_left_the_cache_is_fetched_whole(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/data.csv"] = b"first"
    wanted, addresses = Input(name="set", uris=[f"{yard.store.address}/data.csv"]), KnownAddresses()
    await fetch(yard, tmp_path / "1", wanted, addresses=addresses)
    (tmp_path / "cache" / sha256_of(b"first")[:2] / sha256_of(b"first")).unlink()

    [found] = await fetch(yard, tmp_path / "2", wanted, addresses=addresses)

    assert found.files[0].moved_bytes == 5


async def test_a_run_that_wants_its_files_fetched_asks_without_a_condition(
    yard: Yard, tmp_path: Path
) -> None:
    yard.store.objects["/data.csv"] = b"first"
    wanted, addresses = Input(name="set", uris=[f"{yard.store.address}/data.csv"]), KnownAddresses()
    for run in "12":
        [found] = await fetch(
            yard, tmp_path / run, wanted, addresses=addresses, variables={"VH_NO_DATA_CACHE": "1"}
        )
        assert found.files[0].moved_bytes == 5


async def test_an_agent_that_was_started_anew_moves_no_bytes_that_it_has(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/data.csv"] = b"first"
    wanted = Input(name="set", uris=[f"{yard.store.address}/data.csv?token=abc"])
    moved = []
    for life in range(4):
        if life == 2:
            yard.store.objects["/data.csv"] = b"second!"
        addresses = KnownAddresses(tmp_path / "addresses.jsonl")
        [found] = await fetch(yard, tmp_path / str(life), wanted, addresses=addresses)
        moved.append((found.files[0].moved_bytes, found.files[0].sha256))

    first, second = sha256_of(b"first"), sha256_of(b"second!")
    assert moved == [(5, first), (0, first), (7, second), (0, second)]
    assert "token" not in (tmp_path / "addresses.jsonl").read_text()


async def test_only_so_many_addresses_are_known_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_addresses, "_ADDRESSES_MAX", 10)
    monkeypatch.setattr(known_addresses, "_LINES_MAX", 20)
    file = tmp_path / "none-yet/addresses.jsonl"
    addresses = KnownAddresses(file)
    for number in range(99):
        await addresses.put(str(number), Known('"e"', str(number)))
        assert len(file.read_text().splitlines()) <= 21
    for known in (addresses, KnownAddresses(file)):
        assert [known.get(str(number)) for number in (88, 89, 98)] == [
            None, Known('"e"', "89"), Known('"e"', "98")
        ]  # fmt: skip


async def test_a_line_that_a_crash_cut_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "addresses.jsonl"
    await KnownAddresses(file).put("a", Known('"a"', "1"))
    await KnownAddresses(file).put("b", Known('"b"', "2"))
    file.write_bytes(file.read_bytes()[:-9] + b"\xff")
    await KnownAddresses(file).put("c", Known('"c"', "3"))
    known = KnownAddresses(file)
    assert [known.get(each) for each in "abc"] == [Known('"a"', "1"), None, Known('"c"', "3")]


async def test_a_disk_without_room_costs_no_input(tmp_path: Path) -> None:
    file = tmp_path / "addresses.jsonl"
    file.mkdir()
    addresses = KnownAddresses(file)
    await addresses.put("a", Known('"a"', "1"))
    assert addresses.get("a") == Known('"a"', "1")


async def test_a_disk_that_is_slow_holds_up_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "addresses.jsonl"
    addresses = KnownAddresses(file)
    # Nothing is written to a pipe before somebody reads.
    os.mkfifo(file)
    putting = asyncio.create_task(addresses.put("a", Known('"a"', "1")))
    await asyncio.sleep(0)
    assert addresses.get("a") is not None
    assert not putting.done()
    [_, line] = (await asyncio.to_thread(file.read_text)).split("\n")
    assert json.loads(line)[1:] == ['"a"', "1"]
    await putting


async def test_a_web_page_that_says_no_is_not_quoted_and_its_address_said_once(
    yard: Yard, tmp_path: Path
) -> None:
    uri = f"{yard.store.address}/none.csv"
    yard.store.refusals["/none.csv"] = b"<!DOCTYPE HTML><html><body>Not found</body></html>"

    with pytest.raises(Unavailable) as error:
        await fetch(yard, tmp_path, Input(name="set", uris=[uri]))

    assert error.value.message == f"input 'set' ({uri}) cannot be had: answered 404 Not Found"
