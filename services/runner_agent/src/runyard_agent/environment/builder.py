"""Runs the tools that make a virtual environment: uv where there is one, otherwise venv and pip."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from runyard_agent.environment.record import PROBE_SOURCE
from runyard_core.errors import RunyardError

_BUILD_SECONDS_MAX = 3600.0
_LINES_SHOWN = 12
_LINE_BYTES_MAX = 1 << 16
_PASSED_ON = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TMPDIR|TZ|USER|(?:https?|no|all)_proxy|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|NETRC|XDG_\w+"
    r"|PIP_\w+|UV_\w+",
    re.IGNORECASE,
)
_ASKED_FOR = re.compile(r"PIP_\w+|UV_\w+")
# Of addresses and of the machine's paths the last part is what a reader needs; the rest is the operator's.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>)]+")
_HOST = re.compile(r"(\bhost\s*=\s*|\bhost\s+)(['\"`])[^'\"`]+\2")
_PATH = re.compile(r"(?<![\w.~/-])(?:~|/[\w.@+-])[^\s'\"`<>(),:;]*/[^\s'\"`<>(),:;]*")


class BuildFailed(RunyardError):
    """An environment could not be made; the message says why, with the installer's last lines."""

    default_code = "ENVIRONMENT_UNAVAILABLE"


class Builder:
    """Makes one virtual environment."""

    def __init__(self, interpreter: Path, working_directory: Path, variables: Mapping[str, str]) -> None:
        """Keep what all commands have in common; of the run's variables only those for pip and uv count."""
        self._interpreter = interpreter
        self._working_directory = working_directory
        self._uv = find_uv()
        self._variables = {
            **{name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)},
            **of_installers(variables),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            # Interpreters are the operator's business, and nothing may be asked or drawn.
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
        }

    async def build(self, directory: Path, requirements: Path | None) -> str:
        """Make an environment with pip in it; gives the line that the probe prints.

        Raises:
            BuildFailed: a command failed, or took too long.
        """
        python = directory / "bin/python"
        if self._uv is None:
            await self._run(self._interpreter, "-m", "venv", directory)
        else:
            await self._run(self._uv, "venv", "--no-project", "--python", self._interpreter, directory)
            # Commands of runs say "pip install": without pip here they would reach another interpreter's.
            await self._run(python, "-I", "-m", "ensurepip", "--default-pip")
        if requirements is not None and self._uv is not None:
            await self._run(self._uv, "pip", "install", "--python", python, "-r", requirements)
        elif requirements is not None:
            await self._run(python, "-m", "pip", "install", "--progress-bar=off", "-r", requirements)
        return (await self._run(python, "-I", "-c", PROBE_SOURCE))[-1]

    async def _run(self, *command: str | Path) -> Sequence[str]:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._working_directory,
            env=self._variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        lines: deque[str] = deque(maxlen=_LINES_SHOWN)
        shown = without_places(" ".join(str(word) for word in command[:4]))
        try:
            async with asyncio.timeout(_BUILD_SECONDS_MAX):
                async for line in _output_of(process):
                    lines.append(line.decode("utf-8", "replace").rstrip())
                await process.wait()
        except TimeoutError:
            raise BuildFailed(f"{shown} took more than {_BUILD_SECONDS_MAX:g} s") from None
        finally:
            # Also when cancelled: compilers of a package must not go on behind our back.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode != 0:
            last_lines = "\n".join(without_places(line) for line in lines)
            raise BuildFailed(f"{shown} ended with {process.returncode}: {last_lines}")
        return lines


def of_installers(variables: Mapping[str, str]) -> dict[str, str]:
    """Give those of a run's variables that pip and uv heed: what is installed depends on them."""
    return {name: value for name, value in variables.items() if _ASKED_FOR.fullmatch(name)}


def without_places(line: str) -> str:
    """Leave out of an installer's line where things are: addresses, hosts and folders of the machine."""
    line = _ADDRESS.sub(lambda found: _last_part(found[0].partition("://")[2].partition("?")[0]), line)
    line = _HOST.sub(r"\1\2...\2", line)
    return _PATH.sub(lambda found: _last_part(found[0]), line)


def _last_part(path: str) -> str:
    folder, _, name = path.rstrip("/").rpartition("/")
    return f".../{name}" if folder else "..."


def _output_of(process: asyncio.subprocess.Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise BuildFailed("the installer was started without a pipe")
    return process.stdout


def find_uv() -> Path | None:
    """Find the faster installer: on PATH, or beside the agent's own interpreter."""
    found = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))
    return Path(found) if found else None
