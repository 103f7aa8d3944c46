"""Lists of system packages: read from the machine's own database, and stored once for all who found them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from runyard.run.v1.types_pb2 import Environment, Package
from runyard_agent.environment.system_packages import PACKAGES_MAX, MachinePackages, read_packages
from runyard_agent.package_lists import PackageLists, list_content

from .store_double import Yard, serving, sha256_of

OF_PYTHON = Package(name="torch", version="2.4")
OF_SYSTEM = [
    Package(name="libc6", version="2.36", kind="deb"),
    Package(name="adduser", version="3.1", kind="deb"),
]
STATUS = Path("/var/lib/dpkg/status")
CONTENT = b"deb\tadduser\t3.1\ndeb\tlibc6\t2.36\n"


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


def captured() -> Environment:
    return Environment(packages=[OF_PYTHON, *OF_SYSTEM])


async def test_runs_that_found_the_same_system_packages_share_one_stored_list(yard: Yard) -> None:
    lists, of_later_agent = PackageLists(yard.client), PackageLists(yard.client)
    records = [captured() for _ in range(3)]

    for record in records:
        await lists.share(record)
    await of_later_agent.share(captured())

    shared = Environment(
        packages=[OF_PYTHON], system_packages_sha256=sha256_of(CONTENT), system_package_count=2
    )
    assert records == [shared] * 3
    assert yard.store.objects == {f"/blobs/{sha256_of(CONTENT)}": CONTENT}
    # Asked once in a life of the agent, sent once for all.
    assert yard.catalogue.asked_blobs == [[sha256_of(CONTENT)]] * 2
    assert [command for command, *_ in yard.store.requests] == ["PUT"]


async def test_a_list_that_cannot_be_stored_stays_in_the_record_and_somebody_is_told(yard: Yard) -> None:
    yard.catalogue.failures = [grpc.StatusCode.UNIMPLEMENTED]
    record, told = captured(), list[str]()

    await PackageLists(yard.client).share(record, told.append)

    assert record == captured()
    [sentence] = told
    assert "cannot be stored" in sentence


async def test_an_environment_without_a_system_stores_nothing(yard: Yard) -> None:
    record = Environment(packages=[OF_PYTHON])

    await PackageLists(yard.client).share(record)

    assert record == Environment(packages=[OF_PYTHON])
    assert yard.catalogue.asked_blobs == []


def test_a_list_has_one_form_whatever_the_order() -> None:
    assert list_content(OF_SYSTEM) == list_content(OF_SYSTEM[::-1]) == CONTENT


def test_only_installed_packages_count_and_not_too_many_of_them() -> None:
    of_deb = [["deb", "gone", "1", "rc "], ["deb", "here", "1", "ii "]]
    too_many = [["rpm", str(number), "1"] for number in range(PACKAGES_MAX + 1)]

    found = read_packages([*of_deb, ["rpm", "bash", "5-1"], ["os", "x"], ["apk"]])

    assert [each.name for each in found] == ["bash", "here"]
    assert len(read_packages(too_many)) == PACKAGES_MAX


@pytest.mark.system
async def test_the_machines_packages_are_listed_anew_only_when_its_database_changes(tmp_path: Path) -> None:
    database, count_file = tmp_path / "status", tmp_path / "count"
    lister = tmp_path / "bin/dpkg-query"
    lister.parent.mkdir()
    lister.write_text(f"#!/bin/sh\necho x >>{count_file}\nprintf 'deb\\tlibc6\\t2.36\\tii \\n'\n")
    lister.chmod(0o755)
    packages = MachinePackages([str(database)], path_variable=str(lister.parent))

    assert await packages.get() == []
    database.write_text("1")
    assert await packages.get() == await packages.get() == [OF_SYSTEM[0]]
    database.write_text("22")
    assert await packages.get() == [OF_SYSTEM[0]]

    assert count_file.read_text() == "x\nx\n"


@pytest.mark.system
async def test_a_database_that_nothing_reads_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("1")
    told: list[str] = []

    assert await MachinePackages([str(tmp_path / "status")], path_variable="/nowhere").get(told.append) == []

    assert len(told) == 1


@pytest.mark.system
@pytest.mark.skipif(not STATUS.exists(), reason="this machine has no dpkg")
async def test_the_packages_of_this_machine_are_those_of_its_database() -> None:
    lines = (await asyncio.to_thread(STATUS.read_text, encoding="utf-8")).splitlines()

    found = await MachinePackages(path_variable="/usr/bin:/bin").get()

    assert {each.kind for each in found} == {"deb"}
    assert {f"Package: {each.name}" for each in found} <= set(lines)
    assert {f"Version: {each.version}" for each in found} <= set(lines)
    assert "libc6" in {each.name for each in found}
