"""The command line as a person gets it: wheels in an environment that has nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import Distribution
from subprocess import CompletedProcess

import pytest

from runyard_testkit.installation import install, needed, run, size_bytes

pytestmark = [pytest.mark.system, pytest.mark.xdist_group("package")]

OURS = {
    "runyard-cli": "libs/cli",
    "runyard-client": "libs/client",
    "runyard-contracts": "libs/contracts",
    "runyard-core": "libs/core",
    "runyard-runspec": "libs/runspec",
}
INSTALLED_BYTES_MAX = 40 * 1024 * 1024
OF_THE_LOG = {"asyncpg", "cryptography", "minio", "nats-py", "pyarrow", "sqlalchemy"}

Small = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def others() -> dict[str, Distribution]:
    return {name: found for name, found in needed("runyard-cli").items() if name not in OURS}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Distribution]) -> Small:
    """Give the program, installed without any extra, for somebody who knows no yard."""
    folder = tmp_path_factory.mktemp("package")
    program = install(folder, OURS.values(), others.values()) / "bin" / "runyard"

    def run_small(*words: str, expect: int = 0, **variables: str) -> CompletedProcess[str]:
        bare = {"PATH": os.defpath, "HOME": str(folder), **variables}
        return run(program, *words, expect=expect, environment=bare)

    return run_small


def test_it_pulls_nothing_of_the_log(others: dict[str, Distribution]) -> None:
    assert OF_THE_LOG.isdisjoint(others)
    assert size_bytes(others.values()) < INSTALLED_BYTES_MAX, sorted(others)


@pytest.mark.parametrize("command", ["show latest", "history timeline latest"])
def test_questions_to_a_yard_need_nothing_else(small: Small, command: str) -> None:
    refused = small(*command.split(), expect=4)
    assert "[NO_CONTEXT]" in refused.stderr


@pytest.mark.parametrize("command", ["timeline latest --direct", "verify"])
def test_what_reads_the_log_itself_says_what_to_install(small: Small, command: str) -> None:
    refused = small("history", *command.split(), expect=2)
    assert refused.stderr.splitlines()[-1].startswith("pip install 'runyard-cli[log]'")
    assert "[NOT_INSTALLED]" in refused.stderr
