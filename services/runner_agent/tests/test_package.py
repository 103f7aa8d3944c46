"""The agent as a machine gets it: wheels in an environment that has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from runyard_testkit.installation import install, needed, run, size_bytes

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("package")]

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


@pytest.fixture(scope="module")
def others() -> dict[str, Distribution]:
    return {name: found for name, found in needed("runyard-agent").items() if name not in OURS}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Distribution]) -> Path:
    """Give an environment with the three wheels, and of all else only what they say they need."""
    return install(tmp_path_factory.mktemp("package"), OURS.values(), others.values())


def test_it_pulls_nothing_heavy(others: dict[str, Distribution]) -> None:
    assert HEAVY.isdisjoint(others)
    assert size_bytes(others.values()) < INSTALLED_BYTES_MAX, sorted(others)


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
