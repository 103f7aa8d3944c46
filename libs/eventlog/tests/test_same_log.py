"""A process that has seen what the log does not hold any more is told so."""

from __future__ import annotations

import pytest

from runyard_contracts.ids import Position
from runyard_eventlog.port import LogHead
from runyard_eventlog.same_log import LogReplaced, compare


def head(log_id: str, domain: int, telemetry: int = 0) -> LogHead:
    return LogHead(log_id, Position(domain), Position(telemetry))


def test_a_log_that_grows_is_the_same() -> None:
    compare(None, head("a", 0))
    compare(head("a", 5, 2), head("a", 5, 2))
    compare(head("a", 5, 2), head("a", 7, 3))


def test_another_identity_is_another_log_however_long_it_is() -> None:
    with pytest.raises(LogReplaced, match="was restored"):
        compare(head("a", 5), head("b", 6))


@pytest.mark.parametrize("now", [head("a", 4, 5), head("a", 5, 4)])
def test_a_lane_that_ends_before_what_was_seen_is_another_log(now: LogHead) -> None:
    with pytest.raises(LogReplaced, match="seen 5"):
        compare(head("a", 5, 5), now)
