"""What a container image holds, for the record: found once for each image, by its own programs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runyard.run.v1.types_pb2 import Environment, Executor
from runyard_agent.container_config import LABEL_PROBE
from runyard_agent.docker_daemon import DockerDaemon, Image
from runyard_agent.durable_files import write_atomically
from runyard_agent.environment import IMAGE_PROBE_SCRIPT, PROBE_SOURCE, read_image, recorded_variables
from runyard_core.errors import NotFound, RunyardError, Unavailable

_PROBE_SECONDS_MAX = 60
# What the container's init says of a program that is not there, or cannot be run.
_NOT_STARTED = frozenset({126, 127})
# Raised when the probe tells more or otherwise: what it told before is not read any more.
_PROBE_VERSION = 2


async def capture(
    daemon: DockerDaemon, image: Image, variables: Mapping[str, str], cache_dir: Path
) -> Environment:
    """Describe an image and the variables that the program gets; secrets are left out.

    The first time a container of the image is started for it, without network: under a second, and safe
    while the run itself starts. The variables are the image's own, and over them those of the run.

    Raises:
        Unavailable: the daemon does not answer.
        RunyardError: ENVIRONMENT_UNAVAILABLE, nothing can be run in it.
    """
    environment = await _contents(daemon, image, cache_dir / "images")
    environment.executor = Executor.EXECUTOR_DOCKER
    environment.image = image.reference
    environment.image_id = image.id
    environment.image_repo_digests.extend(image.repo_digests)
    environment.image_entrypoint.extend(image.entrypoint)
    environment.variables.extend(recorded_variables({**image.variables, **variables}))
    return environment


async def _contents(daemon: DockerDaemon, image: Image, cache_dir: Path) -> Environment:
    known = cache_dir / f"{image.id.replace(':', '-')}.{_PROBE_VERSION}.txt"
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_image(known.read_text(encoding="utf-8"), image.variables)
    printed = await _probe(daemon, image.id)
    try:
        found = read_image(printed, image.variables)
    except ValueError:
        return Environment()
    await asyncio.to_thread(_keep, known, printed)
    return found


def _keep(path: Path, printed: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, printed.encode())


async def _probe(daemon: DockerDaemon, image_id: str) -> str:
    """Run the probe in a container of its own; gives what it printed, nothing when it could not run."""
    api = daemon.api
    config: Mapping[str, Any] = api.create_container_config(
        image=image_id,
        entrypoint=["/bin/sh", "-c"],
        command=[IMAGE_PROBE_SCRIPT, "probe", PROBE_SOURCE],
        labels={LABEL_PROBE: image_id},
        environment={"NVIDIA_VISIBLE_DEVICES": "void"},
        host_config=api.create_host_config(
            network_mode="none", init=True, cap_drop=["ALL"], security_opt=["no-new-privileges"]
        ),
    )
    name = f"runyard-probe-{secrets.token_hex(8)}"
    try:
        await daemon.call(api.create_container_from_config, config, name=name)
        await daemon.call(api.start, name)
        ended = await daemon.call(api.wait, name, timeout=_PROBE_SECONDS_MAX)
        printed: bytes = await daemon.call(api.logs, name, stdout=True, stderr=False)
    except Unavailable:
        raise
    except RunyardError:
        # The attempt itself will say what the daemon has against it.
        return ""
    finally:
        with contextlib.suppress(NotFound, Unavailable):
            await daemon.call(api.remove_container, name, force=True, v=True)
    if not printed and ended["StatusCode"] in _NOT_STARTED:
        raise RunyardError(
            "the image has no /bin/sh to run command lines with", code="ENVIRONMENT_UNAVAILABLE"
        )
    return printed.decode("utf-8", "replace")
