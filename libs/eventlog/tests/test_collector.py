"""What a process that reads much of the log does with its memory."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

FREES = """
import sys
from runyard_eventlog.collector import keep_memory
if sys.argv[1] == "keeps":
    keep_memory()
pieces = [bytes(100_000) for _ in range(200)]
del pieces
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        print(line.split()[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_memory_that_is_free_again_is_kept_for_the_next_page() -> None:
    keeping, returning = (
        int(subprocess.run([sys.executable, "-c", FREES, how], capture_output=True, check=True).stdout)
        for how in ("keeps", "returns")
    )
    assert keeping - returning > 15_000, "20 MB were free again"
