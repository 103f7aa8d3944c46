"""Environments that attempts share: found again, given up when somebody changed them, removed when old."""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runyard_agent.environment.shared import SharedEnvironment, SharedEnvironments, site_packages

FAKE_BYTES = 1 << 16


def fake_environment(
    environments: SharedEnvironments, key: str, *, user: Path | None = None
) -> SharedEnvironment:
    directory = environments.new_directory(key)
    packages = directory / "lib/python3.11/site-packages/one-1.0.dist-info"
    packages.mkdir(parents=True)
    (packages / "file").write_bytes(os.urandom(FAKE_BYTES))
    (packages / "the same file").hardlink_to(packages / "file")
    return environments.publish(key, directory, "{}", user=user)


def test_an_environment_that_somebody_changed_is_not_given_out(tmp_path: Path) -> None:
    environments = SharedEnvironments(tmp_path)
    shared = fake_environment(environments, "key")
    assert environments.find("key") == shared

    (site_packages(shared.directory) / "__pycache__").mkdir()
    assert environments.find("key") == shared
    (site_packages(shared.directory) / "two-1.0.dist-info").mkdir()
    assert environments.find("key") is None
    shutil.rmtree(shared.directory)
    assert environments.find("key") is None


def test_the_least_recently_used_goes_first_and_nothing_in_use_goes(tmp_path: Path) -> None:
    environments = SharedEnvironments(tmp_path, size_bytes_max=int(2.5 * FAKE_BYTES))
    for age, key in enumerate(("newest", "middle", "oldest", "used")):
        fake_environment(environments, key, user=tmp_path / "attempt" if key == "used" else None)
        os.utime(tmp_path / f"{key}.json", (1e9 - age, 1e9 - age))

    environments.trim()
    assert [key for key in ("newest", "middle", "oldest", "used") if environments.find(key)] == [
        "newest",
        "middle",
        "used",
    ]
    (tmp_path / "attempt").rmdir()
    os.utime(tmp_path / "used.json", (1, 1))
    environments.trim()
    assert environments.find("used") is None
    assert len(list(tmp_path.glob("*-*"))) == 2


def test_an_environment_that_is_taken_while_others_are_removed_stays(tmp_path: Path) -> None:
    environments = SharedEnvironments(tmp_path / "cache", size_bytes_max=FAKE_BYTES)
    for number in range(20):
        fake_environment(environments, f"key{number}")

    def take(number: int) -> bool:
        user = tmp_path / f"attempt{number}"
        found = environments.take(f"key{number}", user)
        return found is None or found.directory.exists()

    with ThreadPoolExecutor(4) as threads:
        trimming = [threads.submit(environments.trim) for _ in range(4)]
        taken = list(threads.map(take, range(20)))
    assert [each.result() for each in trimming] == [None] * 4
    environments.trim()
    assert all(taken)
    for number in range(20):
        if (tmp_path / f"attempt{number}").exists():
            assert environments.find(f"key{number}") is not None


def test_what_a_killed_agent_had_put_away_is_removed(tmp_path: Path) -> None:
    environments = SharedEnvironments(tmp_path, size_bytes_max=FAKE_BYTES)
    fake_environment(environments, "key").directory.rename(tmp_path / "gone-1234")
    environments.trim()
    assert not (tmp_path / "gone-1234").exists()


async def test_two_builders_of_one_environment_wait_for_each_other(tmp_path: Path) -> None:
    environments = SharedEnvironments(tmp_path)
    order: list[str] = []
    holds, let_go = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with environments.locked("key"):
            holds.set()
            await let_go.wait()
            order.append("first")

    async def second() -> None:
        await holds.wait()
        async with environments.locked("key"):
            order.append("second")

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        waiting = group.create_task(second())
        await holds.wait()
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        let_go.set()
    assert order == ["first", "second"]
