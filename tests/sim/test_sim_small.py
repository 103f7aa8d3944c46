"""A small dose of the simulation; ``make sim SEEDS=500`` is a large one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
# Short ones, with restarts of everything, lost leases, requeues, stale reports and stops among them.
FIRST_SEED = 2
COUNT = 2


def _start(hash_seed: str) -> subprocess.Popen[str]:
    # A process of its own: the order of sets belongs to the seed.
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sim", "--seed", str(FIRST_SEED), "--seeds", str(COUNT), "--json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_invariants_hold_and_a_seed_repeats_itself() -> None:
    with _start("1") as first, _start("2") as second:
        said, said_again = first.communicate(timeout=50)[0], second.communicate(timeout=50)[0]
    assert first.returncode == 0, said
    assert said == said_again
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["seed"] for line in lines] == list(range(FIRST_SEED, FIRST_SEED + COUNT))
    assert all(line["events"] > 0 for line in lines)
