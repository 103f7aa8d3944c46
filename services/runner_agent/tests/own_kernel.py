"""Tests that change the machine they run on: only where it was made for them (tests/tools/kernel-check)."""

from __future__ import annotations

import os
import subprocess

import pytest

VARIABLE = "RUNYARD_KERNEL_CHECK"

needs_own_kernel = pytest.mark.skipif(
    os.environ.get(VARIABLE) != "1" or os.geteuid() != 0,
    reason="needs a kernel, systemd and NFS server of its own: make kernel-check",
)


def run(*words: str, expect: int | None = 0, seconds: float = 300) -> str:
    """Run a program of the machine to its expected end (None: any); gives what it said."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    assert expect is None or done.returncode == expect, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
