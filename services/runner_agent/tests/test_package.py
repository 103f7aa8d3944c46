"""The agent as a machine gets it: wheels in an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[3]
UV = ROOT / ".tools" / "bin" / "uv"
OURS = {
    "runyard-agent": "services/runner_agent",
    "runyard-contracts": "libs/contracts",
    "runyard-core": "libs/core",
}
INSTALLED_BYTES_MAX = 60 * 1024 * 1024
HEAVY = {
    "sqlalchemy",
    "asyncpg",
    "pydantic",
    "numpy",
    "pyarrow",
    "minio",
    "click",
    "cryptography",
    "valohai-yaml",
}


def needed(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Give a package and all that it needs, as their metadata says."""
    if name not in found:
        found[name] = distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(requirement.name.lower().replace("_", "-"), found)
    return found


@pytest.fixture(scope="module")
def others() -> dict[str, Distribution]:
    return {name: found for name, found in needed("runyard-agent", {}).items() if name not in OURS}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Distribution]) -> Path:
    """Give an environment with the three wheels, and of all else only what they say they need."""
    folder = tmp_path_factory.mktemp("package")
    for source in OURS.values():
        run(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            folder / "wheels",
            cwd=ROOT / source,
        )
    made = folder / "environment"
    run(UV, "venv", "--offline", "--python", sys.executable, made)
    wheels = sorted((folder / "wheels").iterdir())
    run(
        UV, "pip", "install", "--offline", "--no-index", "--no-deps", "--python", made / "bin/python", *wheels
    )
    (packages,) = made.glob("lib/python*/site-packages")
    for found in others.values():
        for source_file, name in files_of(found):
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            (packages / name).symlink_to(source_file)
    return made


def run(
    *words: Path | str, expect: int = 0, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its expected end."""
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == expect, f"{words[0]}: {done.stdout}{done.stderr}"
    return done


def files_of(found: Distribution) -> Iterator[tuple[Path, str]]:
    """Give the files that a package has below site-packages."""
    for file in found.files or []:
        if not str(file).startswith("..") and not str(file).endswith(".pyc"):
            yield Path(str(file.locate())), str(file)


def test_it_pulls_nothing_heavy(others: dict[str, Distribution]) -> None:
    assert HEAVY.isdisjoint(others)
    size_bytes = sum(path.stat().st_size for found in others.values() for path, _ in files_of(found))
    assert size_bytes < INSTALLED_BYTES_MAX, sorted(others)


def test_the_installed_program_needs_nothing_else(environment: Path, tmp_path: Path) -> None:
    program = environment / "bin" / "runyard-agent"
    bare = {"PATH": os.defpath, "HOME": str(tmp_path)}
    checked = run(program, "--directory", tmp_path / "agent", "check", expect=1, environment=bare)
    assert checked.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in checked.stdout.splitlines())
    assert lines["python"].endswith(f"({environment}/bin/python)")
    assert lines["node"] == "none: this machine has not enrolled"
    started = run(program, "--directory", tmp_path / "agent", "run", expect=2, environment=bare)
    assert "this machine has not enrolled: runyard-agent enroll" in started.stderr


def test_the_unit_starts_the_installed_program(environment: Path, tmp_path: Path) -> None:
    printed = run(environment / "bin" / "runyard-agent", "unit").stdout
    assert f"ExecStart={environment}/bin/runyard-agent run" in printed.splitlines()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "runyard-agent.service"
    # The user is made at installation; here there is none of that name.
    unit.write_text(printed.replace("User=runyard-agent\n", ""))
    judged = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # An older systemd leaves out what it does not know yet, and says so.
    said = [
        line for line in judged.stderr.splitlines() if unit.name in line and "DelegateSubgroup" not in line
    ]
    assert said == []
