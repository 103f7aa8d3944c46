"""Images that the agent pulled go when they take too much, the one unused for longest first."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from runyard_agent.container_config import LABEL_PROBE
from runyard_agent.docker_daemon import DockerDaemon
from runyard_agent.image_cache import ImageCache

from .containers import daemon

__all__ = ["daemon"]

pytestmark = pytest.mark.docker

HOUR = 3600.0


@pytest.fixture
def images(docker_client: Any, test_image: str) -> Iterator[list[str]]:
    """Four images that share their layers and have an id each."""
    names = [f"local/runyard-cached-{number}:{os.getpid()}" for number in range(4)]
    ids = []
    for name in names:
        subprocess.run(
            ["docker", "build", "-q", "-t", name, "-"],
            input=f"FROM {test_image}\nLABEL name={name}\n".encode(),
            check=True,
            capture_output=True,
            timeout=60,
        )
        ids.append(str(docker_client.images.get(name).id))
    yield ids
    subprocess.run(["docker", "rmi", "--force", *names], check=False, capture_output=True, timeout=60)


def age(directory: Path, image_id: str, hours: float) -> None:
    at = time.time() - hours * HOUR
    os.utime(directory / image_id.replace(":", "-"), (at, at))


async def test_image_unused_for_longest_goes_and_what_is_needed_stays(
    daemon: DockerDaemon, docker_client: Any, images: list[str], tmp_path: Path
) -> None:
    size_bytes = int(docker_client.images.get(images[0]).attrs["Size"])
    cache = ImageCache(daemon, tmp_path / "images", size_bytes_max=size_bytes + 1)
    foreign, oldest, used, newest = images
    for image_id in (oldest, used, newest):
        cache.note(image_id, was_pulled=True)
    cache.note(foreign, was_pulled=False)
    for hours, image_id in ((30, oldest), (20, used), (10, newest)):
        age(tmp_path / "images", image_id, hours)
    container = docker_client.containers.create(used, command="true")
    try:
        await cache.trim()
    finally:
        container.remove()

    assert not there(docker_client, oldest)
    assert there(docker_client, used)
    assert not there(docker_client, newest)
    assert there(docker_client, foreign)
    assert [path.name for path in (tmp_path / "images").iterdir()] == [used.replace(":", "-")]


async def test_image_of_the_last_hour_stays_and_a_use_makes_it_young(
    daemon: DockerDaemon, docker_client: Any, images: list[str], tmp_path: Path
) -> None:
    cache = ImageCache(daemon, tmp_path / "images", size_bytes_max=1)
    for image_id in images[:2]:
        cache.note(image_id, was_pulled=True)
        age(tmp_path / "images", image_id, 2)
    cache.note(images[1], was_pulled=False)
    cache.note("sha256:" + "0" * 64, was_pulled=True)

    await cache.trim()

    assert [there(docker_client, image_id) for image_id in images[:2]] == [False, True]
    assert [path.name for path in (tmp_path / "images").iterdir()] == [images[1].replace(":", "-")]


async def test_probe_that_a_killed_agent_left_keeps_no_image(
    daemon: DockerDaemon, docker_client: Any, images: list[str], tmp_path: Path
) -> None:
    cache = ImageCache(daemon, tmp_path / "images", size_bytes_max=1)
    for image_id in images[:3]:
        cache.note(image_id, was_pulled=True)
        age(tmp_path / "images", image_id, 2)
    never_started, ended, running = (
        docker_client.containers.create(image_id, command=["sleep", "60"], labels={LABEL_PROBE: image_id})
        for image_id in images[:3]
    )
    try:
        for container in (ended, running):
            container.start()
        ended.kill()
        ended.wait()

        await cache.trim()

        assert [there(docker_client, image_id) for image_id in images[:3]] == [False, False, True]
        left = docker_client.containers.list(all=True, sparse=True, filters={"label": LABEL_PROBE})
        ours = {container.id for container in (never_started, ended, running)}
        assert ours & {each.id for each in left} == {running.id}
    finally:
        for container in (never_started, ended, running):
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)


def there(docker_client: Any, image_id: str) -> bool:
    # Not by images.list(), which asks for each image again: other tests remove theirs meanwhile.
    return image_id in docker_client.api.images(quiet=True)
