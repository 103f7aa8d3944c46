"""Reads a requirements file just far enough to know what an environment depends on."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.domain.safe_paths import is_inside
from runyard_agent.environment.builder import BuildFailed

_INCLUDE = re.compile(r"^(?:-r|-c|--requirement|--constraint)[ =]*(\S+)")
_LOCAL = re.compile(r"^(?:-e\b|--editable|file:|\.{0,2}/|\.$)|@ *file:|^\S+\.(?:whl|tar\.gz|zip)(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Requirements:
    """A requirements file with everything that it includes."""

    path: Path | None
    """None when the run has no requirements."""
    sha256: str
    """Of the file itself; empty without one."""
    closure_sha256: str
    """Of the file and all included ones."""
    is_shareable: bool
    """False when it installs something out of the repository, which belongs to one attempt."""


def read_requirements(repository: Path, path_text: str) -> Requirements:
    """Read the requirements file of a repository; an empty path means that there is none.

    Raises:
        BuildFailed: a file is missing or outside the repository.
    """
    if not path_text:
        return Requirements(None, "", "", is_shareable=True)
    contents: dict[Path, bytes] = {}
    path = _inside(repository, repository / path_text, path_text)
    _read_all(repository, path, contents)
    closure = hashlib.sha256()
    for content in contents.values():
        closure.update(hashlib.sha256(content).digest())
    return Requirements(
        path=path,
        sha256=hashlib.sha256(contents[path]).hexdigest(),
        closure_sha256=closure.hexdigest(),
        is_shareable=not any(
            _LOCAL.search(line) for content in contents.values() for line in _lines(content)
        ),
    )


def _read_all(repository: Path, path: Path, contents: dict[Path, bytes]) -> None:
    if path in contents:
        return
    contents[path] = path.read_bytes()
    for line in _lines(contents[path]):
        include = _INCLUDE.match(line)
        if include is not None and "://" not in include.group(1):
            included = _inside(repository, path.parent / include.group(1), include.group(1))
            _read_all(repository, included, contents)


def _inside(repository: Path, path: Path, path_text: str) -> Path:
    real = os.path.realpath(path)
    if not is_inside(real, os.path.realpath(repository)):
        raise BuildFailed(f"requirements file {path_text!r} is outside the code snapshot")
    if not os.path.isfile(real):
        raise BuildFailed(f"there is no requirements file {path_text!r} in the code snapshot")
    return Path(real)


def _lines(content: bytes) -> list[str]:
    return [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
