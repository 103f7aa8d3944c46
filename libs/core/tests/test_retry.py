from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_core import retry
from runyard_core.errors import Unavailable
from runyard_core.retry import Backoff, Retries, Telling, retried

HASTE = Backoff(first_seconds=0.0, seconds_max=0.0)


class Said:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, message: str) -> None:
        self.lines.append(f"debug {message}")

    def info(self, message: str) -> None:
        self.lines.append(f"info {message}")

    def warning(self, message: str) -> None:
        self.lines.append(f"warning {message}")


class Flaky:
    """Answers after some failures."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def ask(self) -> str:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


@given(failure_count=st.integers(1, 10**6), chance=st.floats(0, 1))
def test_pause_grows_to_its_bound_and_is_never_nothing(failure_count: int, chance: float) -> None:
    backoff = Backoff(first_seconds=0.2, seconds_max=15.0)
    pause = backoff.pause_seconds(failure_count, chance)
    longer = backoff.pause_seconds(failure_count + 1, chance)

    assert pause is not None
    assert longer is not None
    assert 0.1 <= pause <= longer <= 15.0


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first_seconds=1.0, seconds_max=5.0)

    assert [backoff.pause_seconds(count, 1.0) for count in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 5.0]


def test_chance_takes_at_most_half_of_a_pause() -> None:
    assert Backoff(first_seconds=2.0, seconds_max=2.0).pause_seconds(1, 0.0) == 1.0


def test_the_last_try_has_no_pause() -> None:
    backoff = Backoff(first_seconds=1.0, seconds_max=1.0, tries_max=3)

    assert [backoff.pause_seconds(count, 1.0) for count in (1, 2, 3)] == [1.0, 1.0, None]


async def test_it_is_asked_until_there_is_an_answer() -> None:
    flaky = Flaky(OSError("away"), OSError("away"))

    assert await retried(flaky.ask, (OSError,), Retries("the store", HASTE, Said())) == "answer"
    assert flaky.calls == 3


async def test_a_pause_is_as_long_as_the_other_side_asks_for() -> None:
    flaky, said = Flaky(Unavailable("busy", pause_seconds_min=0.1)), Said()

    assert await retried(flaky.ask, (Unavailable,), Retries("the store", HASTE, said)) == "answer"
    assert said.lines[0].startswith("warning the store: busy; again in 0.1 s")


async def test_an_error_that_does_not_pass_is_raised_at_once() -> None:
    flaky = Flaky(ValueError("wrong"))

    with pytest.raises(ValueError, match="wrong"):
        await retried(flaky.ask, (OSError,), Retries("the store", HASTE, Said()))
    assert flaky.calls == 1


async def test_the_last_error_is_raised_when_all_tries_are_used_up() -> None:
    flaky = Flaky(OSError("first"), OSError("second"), OSError("third"))
    backoff = Backoff(first_seconds=0.0, seconds_max=0.0, tries_max=2)

    with pytest.raises(OSError, match="second"):
        await retried(flaky.ask, (OSError,), Retries("the store", backoff, Said()))
    assert flaky.calls == 2


async def test_no_pause_reaches_beyond_the_time_that_is_left() -> None:
    flaky = Flaky(OSError("away"))
    retries = Retries("the log", Backoff(60.0, 60.0), Said(), seconds_max=59.0, chance=lambda: 1.0)

    with pytest.raises(OSError, match="away"):
        await retried(flaky.ask, (OSError,), retries)


async def test_a_success_gives_the_whole_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(retry, "_now", lambda: now)
    retries = Retries("the log", HASTE, Said(), seconds_max=5.0)

    for _ in range(10):
        now += 4.0
        await retried(Flaky(OSError("away")).ask, (OSError,), retries)
    now += 6.0
    with pytest.raises(OSError, match="away"):
        await retried(Flaky(OSError("away")).ask, (OSError,), retries)


async def test_reasons_that_are_never_the_same_are_told_five_times_at_most() -> None:
    said = Said()
    retries = Retries("the store", HASTE, said)

    for number in range(9):
        await retries.pause(OSError(f"port {number}"))

    assert [line.split()[0] for line in said.lines] == ["warning"] * 5 + ["debug"] * 4


async def test_the_log_is_told_each_reason_once_and_that_it_is_over() -> None:
    said = Said()
    flaky = Flaky(OSError("away"), OSError("away"), OSError())

    await retried(flaky.ask, (OSError,), Retries("the store", HASTE, said))

    assert said.lines == [
        "warning the store: away; again in 0.0 s, and until it works",
        "debug the store: away; again in 0.0 s, and until it works",
        "warning the store: OSError(); again in 0.0 s, and until it works",
        "info the store: works again after 3 failures",
    ]


async def test_what_is_not_tried_for_ever_says_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_now", lambda: 7.0)
    said = Said()
    bounded = Backoff(0.0, 0.0, tries_max=3)

    await Retries("the store", bounded, said).pause(OSError("away"))
    await Retries("the log", HASTE, said, seconds_max=5.0).pause(OSError("away"))
    await Retries("the bus", bounded, said, seconds_max=5.0).pause(OSError("away"))

    assert said.lines == [
        "warning the store: away; again in 0.0 s, 2 tries left",
        "warning the log: away; again in 0.0 s, 5 s left",
        "warning the bus: away; again in 0.0 s, 2 tries left, 5 s left",
    ]


async def test_a_person_is_told_the_beginning_and_the_end() -> None:
    told: list[str] = []
    flaky = Flaky(OSError("away"), OSError("away"))

    await retried(flaky.ask, (OSError,), Retries("the store", HASTE, Telling(told.append)))

    assert told == [
        "the store: away; again in 0.0 s, and until it works",
        "the store: works again after 2 failures",
    ]


async def test_nothing_is_said_when_it_works_at_once() -> None:
    said = Said()

    await retried(Flaky().ask, (OSError,), Retries("the store", HASTE, said))

    assert said.lines == []


async def test_a_failure_after_a_success_is_a_first_one() -> None:
    said = Said()
    retries = Retries("the bus", Backoff(0.0, 0.0, tries_max=2), said)

    await retries.pause(OSError("away"))
    retries.succeeded()
    await retries.pause(OSError("away"))

    assert [line.split()[0] for line in said.lines] == ["warning", "info", "warning"]


async def test_the_spread_comes_from_the_given_chance() -> None:
    said = Said()
    drawn = iter([0.0, 1.0])
    retries = Retries("the bus", Backoff(0.4, 0.4), said, chance=lambda: next(drawn))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await retries.pause(OSError("away"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await retries.pause(OSError("away"))

    assert ["0.2 s" in said.lines[0], "0.4 s" in said.lines[1]] == [True, True]


async def test_a_group_of_errors_is_told_in_the_words_of_each() -> None:
    said = Said()

    group = ExceptionGroup("two of three", [OSError("away"), OSError("away"), OSError("full")])
    await Retries("planning", HASTE, said).pause(group)

    assert said.lines == ["warning planning: away; full; again in 0.0 s, and until it works"]
