"""The virtual environment of a process: made once for all that install the same in the same way, then shared.

What is shared is never written to again. Each attempt gets an environment of its own on top, a few small
files, so that a program that installs packages changes nothing for others.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard.run.v1.types_pb2 import Environment, Executor
from runyard_agent.environment.builder import Builder, BuildFailed, of_installers
from runyard_agent.environment.private import make_private
from runyard_agent.environment.record import read_probe, recorded_variables
from runyard_agent.environment.requirements import Requirements, read_requirements
from runyard_agent.environment.shared import ENVIRONMENT_BYTES_MAX, SharedEnvironment, SharedEnvironments
from runyard_core.counted import count_words
from runyard_core.errors import Unavailable

_FORMAT = "1"
# What the agent's own virtual environment links to: never that environment itself.
_BASE_INTERPRETER = Path(os.path.realpath(sys.executable))

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """What a run asks for."""

    repository: Path
    """The code snapshot; requirements are installed from here."""
    private_dir: Path
    """Where the attempt's own environment is made; the shared one is kept while this folder exists."""
    requirements_path: str = ""
    """Path of the requirements file in the repository; empty means none."""
    interpreter: Path | None = None
    """Python to build on; None means the one that the agent's own environment was made from."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The run's variables; those for pip and uv are given to them."""


@dataclass(frozen=True, slots=True)
class PreparedEnvironment:
    """An environment that is ready."""

    venv: Path
    """The attempt's own environment: VIRTUAL_ENV, and its "bin" first on PATH."""
    interpreter: Path
    """Its Python."""
    requirements_sha256: str
    """Of the requirements file; empty without one."""
    cached: bool
    """Whether the shared environment was there already."""
    contents: Environment
    """What it holds, as the probe saw it."""


async def prepare(
    request: EnvironmentRequest,
    cache_dir: Path,
    *,
    tell: Tell = lambda _: None,
    size_bytes_max: int = ENVIRONMENT_BYTES_MAX,
) -> PreparedEnvironment:
    """Make the environment of an attempt; a shared one is built first when there is none for it.

    ``tell`` gets a sentence when one is built. Called again for the same attempt it gives the same.

    Raises:
        Unavailable: ENVIRONMENT_UNAVAILABLE, with the last lines of the installer.
    """
    try:
        requirements = read_requirements(request.repository, request.requirements_path)
        shared_environments = SharedEnvironments(cache_dir / "environments", size_bytes_max=size_bytes_max)
        shared, cached = await _shared(shared_environments, requirements, request, tell)
        await asyncio.to_thread(make_private, shared.directory, request.private_dir)
        if not cached:
            await asyncio.to_thread(shared_environments.trim)
        contents = read_probe(shared.probe)
    except (BuildFailed, OSError, ValueError) as error:
        raise Unavailable(
            f"the environment could not be made: {error}", code="ENVIRONMENT_UNAVAILABLE"
        ) from error
    return PreparedEnvironment(
        venv=request.private_dir,
        interpreter=request.private_dir / "bin/python",
        requirements_sha256=requirements.sha256,
        cached=cached,
        contents=contents,
    )


def capture(prepared: PreparedEnvironment, variables: Mapping[str, str]) -> Environment:
    """Describe a prepared environment for the record; ``variables`` are those that the program gets."""
    environment = Environment()
    environment.CopyFrom(prepared.contents)
    environment.executor = Executor.EXECUTOR_PROCESS
    environment.requirements_sha256 = prepared.requirements_sha256
    environment.cached = prepared.cached
    environment.variables.extend(recorded_variables(variables))
    return environment


async def _shared(
    environments: SharedEnvironments, requirements: Requirements, request: EnvironmentRequest, tell: Tell
) -> tuple[SharedEnvironment, bool]:
    """Find or build the shared environment, in use from now on; says whether it was there."""
    interpreter = request.interpreter or _BASE_INTERPRETER
    key = _key(requirements, interpreter, request)
    if (found := environments.take(key, request.private_dir)) is not None:
        return found, True
    async with environments.locked(key):
        if (found := environments.take(key, request.private_dir)) is not None:
            return found, True
        directory = environments.new_directory(key)
        try:
            started_at = time.monotonic()
            builder = Builder(interpreter, request.repository, request.variables)
            probe = await builder.build(directory, requirements.path)
            package_count = len(read_probe(probe).packages)
            packages = count_words(package_count, "package")
            tell(f"environment built in {time.monotonic() - started_at:.1f} s: {packages}")
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        await asyncio.to_thread(environments.publish, key, directory, probe, user=request.private_dir)
        return SharedEnvironment(directory, probe), False


def _key(requirements: Requirements, interpreter: Path, request: EnvironmentRequest) -> str:
    # The time stands for the version: an interpreter that is upgraded in place gets new environments.
    parts = [_FORMAT, requirements.closure_sha256, str(interpreter), str(interpreter.stat().st_mtime_ns)]
    if not requirements.is_shareable:
        parts.append(str(request.repository))
    if requirements.path is not None:
        # Another index has other packages of the same names.
        parts += [f"{name}={value}" for name, value in sorted(of_installers(request.variables).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
