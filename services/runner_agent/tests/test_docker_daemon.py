"""The daemon of a node, and what it knows of images."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runyard_agent import container_environment
from runyard_agent.docker_daemon import DockerDaemon, Image, WantedImage, open_docker
from runyard_core.errors import Unavailable

from .containers import daemon, image, plan_of, runtime

__all__ = ["daemon", "image", "plan_of", "runtime"]

pytestmark = pytest.mark.docker


async def test_an_image_that_cannot_be_had_says_so(daemon: DockerDaemon) -> None:
    told: list[str] = []
    with pytest.raises(Unavailable, match=r"image 'registry\.invalid/no:1' cannot be had") as error:
        await daemon.image(WantedImage("registry.invalid/no:1"), tell=told.append)

    assert error.value.code == "IMAGE_UNAVAILABLE"
    assert told == ["pulling image registry.invalid/no:1"]


async def test_the_image_is_recorded_with_its_packages(
    daemon: DockerDaemon, image: Image, tmp_path: Path
) -> None:
    variables = {"MODE": "fast", "HF_TOKEN": "secret"}
    first = await container_environment.capture(daemon, image, variables, tmp_path)
    started_at = time.perf_counter()
    again = await container_environment.capture(daemon, image, variables, tmp_path)

    assert again == first
    assert time.perf_counter() - started_at < 0.1
    assert first.image_id == image.id
    assert first.image_id.startswith("sha256:")
    assert first.interpreter.startswith("CPython 3.")
    assert first.os.startswith("Debian")
    assert {variable.name: variable.value for variable in first.variables} == {"MODE": "fast", "HF_TOKEN": ""}


async def test_a_daemon_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "no daemon answers" in str(await open_docker())
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert "only a local daemon" in str(await open_docker())
