"""Reads metric lines: a line of standard output that is one JSON object is one reading of its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

NAME_LENGTH_MAX = 200
"""Longer keys are no metrics."""
JSON_VALUE_LENGTH_MAX = 16 * 1024
"""Longer values are left to the log, where the whole line is."""
TIME_KEY = "_time"
"""Says when the values of its line are from."""


@dataclass(frozen=True, slots=True)
class MetricReading:
    """What one metric line says."""

    numbers: Mapping[str, float]
    """NaN and the infinities are numbers too: a diverged loss is worth knowing."""
    json_values: Mapping[str, str]
    """Everything else (strings, booleans, lists, objects), as JSON text."""
    time_unix_milliseconds: int | None = None
    """What the line itself says of its time."""


def read_metric_line(text: str) -> MetricReading | None:
    """Read a line, or give None when it is none of a metric."""
    stripped = text.strip()
    if not (stripped.startswith("{") and stripped.endswith("}")):
        return None
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    time = _time(value.get(TIME_KEY))
    if time is not None:
        del value[TIME_KEY]
    numbers: dict[str, float] = {}
    json_values: dict[str, str] = {}
    for name, item in value.items():
        # Printable also means no NUL and no half of a surrogate pair, which no wire or table could carry.
        if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
            continue
        number = _number(item)
        if number is not None:
            numbers[name] = number
        elif len(encoded := json.dumps(item)) <= JSON_VALUE_LENGTH_MAX:
            json_values[name] = encoded
    if not numbers and not json_values:
        return None
    return MetricReading(numbers, json_values, time)


def _number(item: object) -> float | None:
    if isinstance(item, bool) or not isinstance(item, int | float):
        return None
    try:
        return float(item)
    except OverflowError:
        return None


def _time(item: object) -> int | None:
    """Read a time of day in ISO 8601, UTC unless it says otherwise.

    None for everything else: a number does not say what it counts, a date alone no time, and what is not
    after 1970 was measured by nobody.
    """
    if not isinstance(item, str) or len(item) <= len("2026-01-01"):
        return None
    try:
        said = datetime.fromisoformat(item)
        seconds = (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return round(seconds * 1000) if seconds > 0 else None
