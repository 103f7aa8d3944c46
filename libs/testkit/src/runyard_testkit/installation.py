"""A package as a machine gets it: wheels of ours, and of others only what their metadata asks for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[4]
UV = ROOT / ".tools" / "bin" / "uv"
_SECONDS_MAX = 60.0


def needed(name: str, found: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """Give a package and all that it needs without any extra, as their metadata says."""
    found = {} if found is None else found
    if name not in found:
        found[name] = distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name.lower().replace("_", "-"), found)
    return found


def size_bytes(packages: Iterable[Distribution]) -> int:
    """Give what packages take on disk, without compiled Python."""
    return sum(path.stat().st_size for found in packages for path, _ in _files_of(found))


def install(folder: Path, ours: Iterable[str], others: Iterable[Distribution]) -> Path:
    """Make an environment; asks no index.

    Args:
        folder: an empty one.
        ours: folders of our packages below the repository's root, built and installed as wheels.
        others: third-party packages that are installed here, linked to from there.
    """
    for source in ours:
        build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheels")
        run(*build, cwd=ROOT / source)
    made = folder / "environment"
    run(UV, "venv", "--offline", "--python", sys.executable, made)
    wheels = sorted((folder / "wheels").iterdir())
    pip = (UV, "pip", "install", "--offline", "--no-index", "--no-deps", "--python", made / "bin/python")
    run(*pip, *wheels)
    (packages,) = made.glob("lib/python*/site-packages")
    for found in others:
        for source_file, name in _files_of(found):
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).symlink_to(source_file)
    return made


def run(
    *words: Path | str, expect: int = 0, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its expected end."""
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_SECONDS_MAX, check=False
    )
    assert done.returncode == expect, f"{words[0]}: {done.stdout}{done.stderr}"
    return done


def _files_of(found: Distribution) -> Iterator[tuple[Path, str]]:
    """Give the files that a package has below site-packages."""
    for file in found.files or []:
        if not str(file).startswith("..") and not str(file).endswith(".pyc"):
            yield Path(str(file.locate())), str(file)
