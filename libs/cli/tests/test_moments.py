from __future__ import annotations

from datetime import datetime

import click
import pytest

from runyard_cli.history.moments import MOMENT, recent_time, time_of

NOW = datetime.fromisoformat("2026-11-22T13:30").astimezone()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("13:05", "2026-11-22T13:05"),
        ("13:05:07", "2026-11-22T13:05:07"),
        # It has not been that today, so it was yesterday.
        ("14:05", "2026-11-21T14:05"),
        ("90s ago", "2026-11-22T13:28:30"),
        ("2h ago", "2026-11-22T11:30"),
        ("20 min ago", "2026-11-22T13:10"),
        ("3 days ago", "2026-11-19T13:30"),
        ("5 minutes ago", "2026-11-22T13:25"),
        ("1 Hour ago", "2026-11-22T12:30"),
        ("2 weeks ago", "2026-11-08T13:30"),
        ("9:05", "2026-11-22T09:05"),
    ],
)
def test_a_moment_may_be_a_time_of_today_or_so_long_ago(text: str, meant: str) -> None:
    assert recent_time(text, NOW) == time_of(meant)


@pytest.mark.parametrize(
    "text", ["", "-5", "2h", "ago", "25:00", "1:2:3:4", "9999999d ago", "yesterday", "5 months ago"]
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="want a position, a time"):
        MOMENT.convert(text, None, None)
