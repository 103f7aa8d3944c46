"""Durations on the command line: "30m", "1h", "7d"."""

from __future__ import annotations

import re

import click

_SECONDS = {"m": 60, "h": 3_600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,5})([mhd])")


class Duration(click.ParamType[int]):
    """Reads "30m", "1h" or "7d"; gives seconds."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        if isinstance(value, int):
            return value
        found = _DURATION.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is no duration: want 30m, 1h or 7d", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]
