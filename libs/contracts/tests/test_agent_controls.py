from __future__ import annotations

import pytest

from runyard_contracts.agent_controls import cpu_count_of, is_true, not_heeded


def test_a_control_is_switched_on_by_the_words_of_the_contract() -> None:
    assert all(map(is_true, ("1", "yes", "true", "True", " YES ")))
    assert not any(map(is_true, ("", None, "0", "no", "false", "on", "2")))


@pytest.mark.parametrize(
    ("text", "count"), [("2", 2), ("1.5", 1.5), ("0,2,4", 3), ("0-3", 4), ("0-1,1,7", 3), (" 1 ", 1)]
)
def test_a_limit_of_cpus_is_a_number_or_as_many_as_are_listed(text: str, count: float) -> None:
    assert cpu_count_of(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "all", "nan", "inf", "1,,2", "3-1", "1-2-3", "0-9999999999"])
def test_what_is_no_limit_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        cpu_count_of(text)


def test_what_does_nothing_here_is_said() -> None:
    said = dict(
        not_heeded({"VH_CLEAN": "1", "VH_DOCKER_NETWORK": "host", "VH_CPU_LIMIT": "0,1", "MODE": "x"})
    )
    assert sorted(said) == ["VH_CLEAN", "VH_CPU_LIMIT", "VH_DOCKER_NETWORK"]
    assert "RUNYARD_DOCKER_NETWORK" in said["VH_DOCKER_NETWORK"]
    assert not dict(not_heeded({"VH_CLEAN": "", "VH_CPU_LIMIT": "2", "VH_NO_DATA_CACHE": "1"}))
