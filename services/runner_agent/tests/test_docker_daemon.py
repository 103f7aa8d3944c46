"""The daemon of a node, and what it knows of images."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from runyard_agent import container_environment
from runyard_agent.container_rules import ContainerRules
from runyard_agent.docker_daemon import DockerDaemon, Image, WantedImage, open_docker
from runyard_agent.executors import DockerExecutor, DockerOnDemand
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


async def test_of_many_who_look_for_the_daemon_at_once_one_opens_it(tmp_path: Path) -> None:
    """As attempts do that wait for it to come back; what another one opened would be closed by nobody."""
    docker = DockerOnDemand("node-1", tmp_path / "cache", ContainerRules())
    try:
        first, *others = await asyncio.gather(*(docker.open() for _ in range(3)))
        assert isinstance(first, DockerExecutor), first
        assert [other is first for other in others] == [True, True]
    finally:
        docker.close()


async def test_the_image_is_recorded_with_its_packages(
    daemon: DockerDaemon, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"MODE": "fast", "HF_TOKEN": "secret"}
    first = await container_environment.capture(daemon, image, variables, tmp_path)
    monkeypatch.delattr(container_environment, "_probe")  # no container is started again
    again = await container_environment.capture(daemon, image, variables, tmp_path)

    assert again == first
    assert first.image_id == image.id
    assert first.image_id.startswith("sha256:")
    assert first.interpreter.startswith("CPython 3.")
    assert first.os.startswith("Debian")
    shown = {variable.name: variable.value for variable in first.variables}
    assert (shown["MODE"], shown["HF_TOKEN"], shown["LANG"]) == ("fast", "", "C.UTF-8")
    assert first.shell == "/usr/bin/bash"
    assert "libc6" in [package.name for package in first.packages if package.kind == "deb"]


async def test_an_image_without_python_is_recorded_too(
    daemon: DockerDaemon, test_image: str, tmp_path: Path
) -> None:
    name = f"local/runyard-no-python:{os.getpid()}"
    database = r"P:musl\nV:1.2.5-r0\nA:x86_64\n\nP:zlib\nV:1.3-r1\n\n"
    hide = "rm -f /usr/bin/python* /usr/bin/dpkg-query /usr/bin/bash /bin/bash"
    cuda = r'{"cuda": {\n"version": "12.4.1"}}\n'
    lines = (
        f"FROM {test_image}",
        f"RUN {hide}; mkdir -p /lib/apk/db; printf '{database}' > /lib/apk/db/installed",
        f"RUN mkdir /usr/local/cuda; printf '{cuda}' > /usr/local/cuda/version.json",
        "ENV NCCL_VERSION=2.21.5 API_TOKEN=plugh",
        'ENTRYPOINT ["/bin/echo", "a b"]',
    )
    subprocess.run(  # noqa: ASYNC221 - nothing else is going on
        ["docker", "build", "-q", "-t", name, "-"],
        input="\n".join(lines).encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    image = await daemon.image(WantedImage(name))

    found = await container_environment.capture(daemon, image, {"MODE": "fast"}, tmp_path)

    assert found.interpreter == ""
    assert [(each.name, each.version, each.kind) for each in found.packages] == [
        ("musl", "1.2.5-r0", "apk"),
        ("zlib", "1.3-r1", "apk"),
    ]
    assert found.os.startswith("Debian")
    assert found.kernel == os.uname().release
    assert (found.cuda_version, found.nccl_version) == ("12.4.1", "2.21.5")
    assert found.shell.endswith("/sh")
    assert list(found.image_entrypoint) == ["/bin/echo", "a b"]
    shown = {variable.name: variable.value for variable in found.variables}
    assert (shown["MODE"], shown["API_TOKEN"]) == ("fast", "")
    await daemon.call(daemon.api.remove_image, name, force=True)


async def test_a_daemon_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert "no daemon answers" in str(await open_docker())
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert "only a local daemon" in str(await open_docker())
