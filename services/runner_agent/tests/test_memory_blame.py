"""What a shim says about memory when its program was killed: only what happened to this program."""

from __future__ import annotations

from pathlib import Path

import pytest

from runyard_agent import shim
from runyard_agent.shim import Shim

KILLS_OF_OTHERS = 5


def explained(
    groups: list[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    killed: bool = True,
    failed: bool = True,
    limit: int = 0,
) -> tuple[bool, str, str]:
    found = Shim.__new__(Shim)
    found.plan = {"memory_bytes_max": limit}
    found.groups = groups
    found.ended_by, found.detail = "itself", ""
    found.oom_kills_at_start = 0
    monkeypatch.setattr(shim, "oom_kill_count", lambda: KILLS_OF_OTHERS)
    found._explain_memory(killed=killed, failed=failed)
    return found.oom_killed, found.ended_by, found.detail


@pytest.mark.parametrize("file", ["memory.events", "memory.oom_control"])
def test_memory_of_others_is_not_blamed_where_a_group_counts_its_own(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / file).write_text("low 0\noom_kill 0\n")
    assert explained([str(tmp_path)], monkeypatch) == (False, "itself", "")
    (tmp_path / file).write_text("low 0\noom_kill 2\n")
    told = "the kernel killed 2 of its processes: the machine's memory ran out"
    assert explained([str(tmp_path)], monkeypatch) == (True, "itself", told)
    assert explained([str(tmp_path)], monkeypatch, killed=False) == (False, "itself", told)
    own = explained([str(tmp_path)], monkeypatch, limit=7)
    assert own == (True, "memory_limit", "used more memory than its limit of 7 bytes")


def test_without_a_group_the_machine_is_all_there_is_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    told = f"the kernel killed {KILLS_OF_OTHERS} process(es) of this machine meanwhile: out of memory"
    assert explained([], monkeypatch) == (True, "itself", told)
    # A program that succeeded had nothing to do with it.
    assert explained([], monkeypatch, killed=False, failed=False) == (False, "itself", "")
