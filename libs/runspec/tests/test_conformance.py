"""Every YAML file of the parser's own source distribution is accepted or refused as its own suite says.

The files are read from the package index when the test runs; nothing of them is kept here. Without the index
the tests are not run, and say so.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest
from valohai_yaml import ValidationErrors, parse
from valohai_yaml.excs import ValidationError
from valohai_yaml.lint import lint
from yaml import YAMLError

from runyard_core.errors import InvalidInput
from runyard_runspec import parse_config
from runyard_runspec.lint import Severity, lint_text

pytestmark = [pytest.mark.engines, pytest.mark.xdist_group("conformance")]

ROOT = Path(__file__).resolve().parents[3]
CLIENTS = ([str(ROOT / ".tools/bin/pip")], [sys.executable, "-m", "pip"])
DOWNLOAD_SECONDS_MAX = 120
FILE_COUNT_LEAST = 60


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the unpacked source distribution of the version that is installed."""
    folder = tmp_path_factory.mktemp("sdist")
    wanted = f"valohai-yaml=={version('valohai-yaml')}"
    # Its own archive only: what builds it may come as a wheel.
    options = [
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "valohai-yaml",
        "--dest",
        str(folder),
        wanted,
    ]
    reasons = []
    for client in CLIENTS:
        try:
            done = subprocess.run(
                [*client, *options, wanted],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(str(error))
            continue
        for archive in folder.glob("*.tar.gz"):
            with tarfile.open(archive) as content:
                content.extractall(folder, filter="data")
            return next(path for path in folder.iterdir() if path.is_dir())
        reasons.append((done.stderr.strip().splitlines() or ["no answer"])[-1])
    pytest.skip(f"The source distribution {wanted} cannot be had: {reasons[-1][:200]}")


def examples(distribution: Path, folder: str) -> Sequence[Path]:
    found = sorted((distribution / folder).glob("*.yaml"))
    assert found
    return found


def has_error(path: Path) -> bool:
    findings = lint_text(path.read_bytes(), path.name)
    return any(finding.severity is Severity.ERROR for finding in findings)


@pytest.mark.parametrize("folder", ["examples", "tests/valid_examples"])
def test_what_its_suite_accepts_is_accepted(distribution: Path, folder: str) -> None:
    for path in examples(distribution, folder):
        assert not has_error(path), path.name
        config = parse_config(path.read_bytes(), path.name)
        assert all(step.image for step in config.steps.values()), path.name


def test_what_its_suite_refuses_is_refused(distribution: Path) -> None:
    for path in examples(distribution, "tests/error_examples"):
        assert has_error(path), path.name


def test_what_its_suite_warns_of_is_found(distribution: Path) -> None:
    for path in examples(distribution, "tests/warning_examples"):
        assert lint_text(path.read_bytes(), path.name), path.name


def test_every_file_is_judged_as_its_own_linter_judges_it(distribution: Path) -> None:
    paths = [path for path in distribution.rglob("*.yaml") if "examples" in path.parent.name]
    assert len(paths) >= FILE_COUNT_LEAST
    for path in paths:
        assert has_error(path) == bool(list(lint(path.read_bytes()).errors)), path.name


def test_what_its_parser_refuses_is_refused_with_the_name_of_the_file(distribution: Path) -> None:
    refused = [path for path in examples(distribution, "tests/error_examples") if not is_parsed(path)]
    assert refused
    for path in refused:
        with pytest.raises(InvalidInput, match=rf"^{re.escape(path.name)}(:\d+)?: "):
            parse_config(path.read_bytes(), path.name)


def is_parsed(path: Path) -> bool:
    """Say whether the parser itself takes a file."""
    try:
        parse(path.read_bytes(), validate=True)
    except (ValidationError, ValidationErrors, YAMLError):
        return False
    return True
