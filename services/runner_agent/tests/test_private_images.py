"""Images of a registry that wants a login, with a real registry and a real daemon."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import RegistryLogin
from runyard.metric.v1.batches_pb2 import LogStream
from runyard.run.v1.types_pb2 import CauseCode, Executor
from runyard_agent.docker_daemon import DockerDaemon, WantedImage
from runyard_core.errors import Unavailable
from runyard_engines.ports import choose_port

from .containers import daemon
from .running_agent import agent_changes, cache, yard
from .scripted_yard import ScriptedYard

__all__ = ["agent_changes", "cache", "daemon", "yard"]

pytestmark = pytest.mark.docker

PASSWORD = "plugh-1234"
# Of "alice" and this password, as `htpasswd -nbB` writes it.
CREDENTIALS = "alice:$2y$05$KVC/rj2e8HnaoC.AeKMXveu7nLfAyH0JbkVlUvzOBC433eatIDDQu\n"
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/blobs}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: yard, path: {folder}/htpasswd}}}}
"""

Push = Callable[[str, str], str]


@pytest.fixture(scope="module")
def registry_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    folder, port = tmp_path_factory.mktemp("registry"), choose_port()
    (folder / "htpasswd").write_text(CREDENTIALS)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_until_it_listens(port, process)
        yield f"127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def registry(registry_process: tuple[str, subprocess.Popen[bytes]]) -> str:
    return registry_process[0]


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(2_000):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None
        time.sleep(0.02)
    raise AssertionError("the registry does not listen")


@pytest.fixture
async def push(daemon: DockerDaemon, registry: str) -> AsyncIterator[Push]:
    """Give what puts a new image under a name into the registry, and out of the daemon; says its id."""
    pushed: list[str] = []

    def push(name: str, content: str) -> str:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
        repository, _, tag = name.rpartition(":")
        daemon.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
        login = {"username": "alice", "password": PASSWORD}
        for line in daemon.api.push(repository, tag=tag, auth_config=login, stream=True, decode=True):
            assert "error" not in line, line
        image_id = str(daemon.api.inspect_image(name)["Id"])
        pushed.append(image_id)
        daemon.api.remove_image(name, force=True)
        return image_id

    yield push
    for image_id in pushed:
        for found in daemon.api.images(all=True):
            if found["Id"] == image_id:
                daemon.api.remove_image(image_id, force=True)


def login(registry: str, password: str = PASSWORD) -> RegistryLogin:
    return RegistryLogin(registry=registry, username="alice", password=password)


async def test_a_private_image_is_pulled_with_the_projects_login_only(
    daemon: DockerDaemon, registry: str, push: Push, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    name = f"{registry}/team/model:1"
    image_id = push(name, str(uuid.uuid4()))
    told: list[str] = []

    with pytest.raises(Unavailable) as nobody:
        await daemon.image(WantedImage(name))
    assert nobody.value.code == "IMAGE_UNAVAILABLE"
    assert f"registry {registry} wants a login" in nobody.value.message
    assert f"runyard secret set registry:{registry}" in nobody.value.message

    with pytest.raises(Unavailable) as wrong:
        await daemon.image(WantedImage(name, login=login(registry, "not-the-word")))
    assert wrong.value.code == "IMAGE_UNAVAILABLE"
    assert f"registry {registry} refused the login" in wrong.value.message
    assert f"secret 'registry:{registry}'" in wrong.value.message
    assert "not-the-word" not in wrong.value.message

    image = await daemon.image(WantedImage(name, login=login(registry)), tell=told.append)
    assert image.id == image_id
    assert [digest.partition("@")[0] for digest in image.repo_digests] == [f"{registry}/team/model"]
    assert told == [f"pulling image {name}"]
    assert PASSWORD not in repr(WantedImage(name, login=login(registry)))
    assert os.listdir(tmp_path) == []


async def test_an_agent_that_is_killed_while_it_pulls_is_granted_the_login_again(
    yard: ScriptedYard, registry_process: tuple[str, subprocess.Popen[bytes]], push: Push
) -> None:
    registry, process = registry_process
    name = f"{registry}/team/slow:1"
    push(name, str(uuid.uuid4()))
    process.send_signal(signal.SIGSTOP)
    try:
        yard.agent.kill()
        grant = yard.scheduler.grant("true", executor=Executor.EXECUTOR_DOCKER, image=name)
        grant.registry_login.CopyFrom(login(registry))
        yard.agent.start()
        await yard.scheduler.wait_for(lambda: bool(yard.scheduler.held))
        yard.scheduler.hellos.clear()
        yard.agent.kill()
        yard.agent.start()
        await yard.scheduler.wait_for(lambda: bool(yard.scheduler.hellos))
    finally:
        process.send_signal(signal.SIGCONT)

    cause = (await yard.finished(grant)).finished.cause

    # Pulled, then; what it lacks is a shell.
    assert cause.code == CauseCode.CAUSE_CODE_ENVIRONMENT_UNAVAILABLE
    assert "has no /bin/sh" in cause.detail
    assert [held.lacks_login for hello in yard.scheduler.hellos for held in hello.held_attempts] == [True]
    assert PASSWORD not in yard.agent.log
    told = yard.ledger.lines(grant, LogStream.LOG_STREAM_STATUS)
    assert f"waiting for the login of registry {registry}" in told


async def test_a_tag_that_moves_changes_no_later_attempt(
    daemon: DockerDaemon, registry: str, push: Push
) -> None:
    name = f"{registry}/team/moving:latest"
    first_id = push(name, "first " + str(uuid.uuid4()))
    first = await daemon.image(WantedImage(name, login=login(registry)))
    [pin] = first.repo_digests
    daemon.api.remove_image(first_id, force=True)
    second_id = push(name, "second " + str(uuid.uuid4()))

    pinned = await daemon.image(WantedImage(name, pin=pin, login=login(registry)))
    assert (pinned.id, pinned.reference) == (first_id, name)
    fresh = await daemon.image(WantedImage(name, is_pulled_always=True, login=login(registry)))
    assert fresh.id == second_id
    again = await daemon.image(WantedImage(name, pin=pin, is_pulled_always=True, login=login(registry)))
    assert again.id == first_id


async def test_an_image_without_a_registry_is_on_its_own_node_only(daemon: DockerDaemon) -> None:
    gone = f"sha256:{'0' * 64}"
    with pytest.raises(Unavailable, match="no registry knows") as error:
        await daemon.image(WantedImage("built-here:1", pin=gone))
    assert error.value.code == "IMAGE_UNAVAILABLE"
