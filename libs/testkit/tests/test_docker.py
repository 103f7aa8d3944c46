"""Tests that need Docker, where nobody answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runyard_testkit.docker import REQUIRE_VARIABLE

pytestmark = pytest.mark.system

NEEDS_DOCKER = "def test_needs_docker(docker_client): ..."


@pytest.mark.parametrize(("required", "status", "said"), [("0", 0, "1 skipped"), ("1", 1, "1 error")])
def test_a_machine_without_docker_skips_unless_it_is_required(
    required: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(NEEDS_DOCKER)
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock",
        REQUIRE_VARIABLE: required,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    argv = (sys.executable, "-W", "error", "-m", "pytest", "-q", "-rs", "-p", "runyard_testkit.docker", ".")
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert said in done.stdout
    assert "no Docker daemon answers" in done.stdout
    assert done.returncode == status, done.stderr
