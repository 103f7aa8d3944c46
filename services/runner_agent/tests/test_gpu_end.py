"""An attempt's GPUs are free again when nobody holds their memory, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from runyard_agent import gpu_end
from runyard_agent.gpu_end import wait_until_free
from runyard_agent.gpus import GpuProcess, Gpus
from runyard_core.errors import DeadlineExceeded

OURS = GpuProcess("GPU-a", 10, 5, "python")
THEIRS = GpuProcess("GPU-a", 20, 5, "game")
ELSEWHERE = GpuProcess("GPU-b", 30, 5, "python")


class Leaving:
    """GPUs whose processes leave one after the other; nobody answers at a look that is None."""

    def __init__(self, *looks: Sequence[GpuProcess] | None) -> None:
        self._looks = list(looks)

    async def processes(self) -> Sequence[GpuProcess]:
        look = self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]
        if look is None:
            raise DeadlineExceeded("the driver hangs")
        return look


def gpus(*looks: Sequence[GpuProcess] | None) -> Gpus:
    return cast("Gpus", Leaving(*looks))


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_end, "_LOOK_SECONDS", 0.0)


async def test_memory_that_is_still_held_is_waited_for() -> None:
    assert await wait_until_free(gpus([OURS], [ELSEWHERE]), ["GPU-a"], tuple) == {}


async def test_who_holds_memory_for_too_long_is_named() -> None:
    assert await wait_until_free(gpus([OURS]), ["GPU-a"], tuple, seconds_max=0.0) == {"GPU-a": [OURS]}


async def test_foreign_processes_are_not_waited_for() -> None:
    assert await wait_until_free(gpus([THEIRS]), ["GPU-a"], lambda: {20}) == {}


async def test_an_attempt_without_gpus_waits_for_nobody() -> None:
    assert await wait_until_free(gpus([OURS]), [], tuple) == {}


async def test_a_driver_that_hangs_is_asked_again_and_does_not_hold_the_attempt_for_ever() -> None:
    assert await wait_until_free(gpus(None, [OURS], []), ["GPU-a"], tuple) == {}
    assert await wait_until_free(gpus(None), ["GPU-a"], tuple, seconds_max=0.0) == {}
