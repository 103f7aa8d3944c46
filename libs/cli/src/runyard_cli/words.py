"""Numbers, times and states in words for people. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from runyard.run.v1.types_pb2 import Cause, CauseCode, Outcome, Run, RunState
from runyard_cli.output import Style
from runyard_core.counted import count_words

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Value
    from google.protobuf.timestamp_pb2 import Timestamp

    from runyard.metric.v1.metric_service_pb2 import MetricLatest

_RUN_ID_CHARACTERS = 13
_STATE_WORDS: Mapping[int, tuple[str, Style]] = {
    RunState.RUN_STATE_QUEUED: ("queued", Style.PLAIN),
    RunState.RUN_STATE_STARTING: ("starting", Style.BUSY),
    RunState.RUN_STATE_RUNNING: ("running", Style.BUSY),
    RunState.RUN_STATE_STOPPING: ("stopping", Style.BUSY),
    RunState.RUN_STATE_FINISHING: ("finishing", Style.BUSY),
}
_OUTCOME_WORDS: Mapping[int, tuple[str, Style]] = {
    Outcome.OUTCOME_SUCCEEDED: ("succeeded", Style.GOOD),
    Outcome.OUTCOME_FAILED: ("failed", Style.BAD),
    Outcome.OUTCOME_STOPPED: ("stopped", Style.FAINT),
}


def state_word(run: Run) -> tuple[str, Style]:
    """Give the state of a run, or its outcome when it is over."""
    if run.state == RunState.RUN_STATE_FINISHED:
        return _OUTCOME_WORDS.get(run.outcome, ("finished", Style.PLAIN))
    return _STATE_WORDS.get(run.state, ("unknown", Style.PLAIN))


def run_name(run: Run) -> str:
    """Name a run as people do: "digits#3"."""
    return f"{run.project}#{run.number}"


def short_run_id(run_id: str) -> str:
    """Give the beginning of a run id that tells it from others, and that every command takes for it.

    It begins with the time of making: all runs of a minute share 8 digits, those of a millisecond 13.
    """
    return run_id[:_RUN_ID_CHARACTERS]


def cause_words(cause: Cause) -> str:
    """Say why something ended: "exit code 1", "out of GPU memory: ..."; of a success what it was denied."""
    if cause.code in {CauseCode.CAUSE_CODE_UNSPECIFIED, CauseCode.CAUSE_CODE_SUCCEEDED}:
        return cause.detail
    words = CauseCode.Name(cause.code).removeprefix("CAUSE_CODE_").lower().replace("_", " ")
    if cause.code == CauseCode.CAUSE_CODE_USER_ERROR:
        if cause.signal:
            words = f"ended by signal {cause.signal}"
        elif cause.HasField("exit_code"):
            words = f"exit code {cause.exit_code}"
    # A detail that has the number already needs no introduction.
    if cause.detail and words.rpartition(" ")[2] in cause.detail.split():
        return cause.detail
    return f"{words}: {cause.detail}" if cause.detail else words


def duration_words(seconds: float) -> str:
    """Say how long: "850 ms", "18 s", "2 min 5 s", "3 h 4 min", "2 d 1 h"."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, word, smaller, smaller_word in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {word}" + (f" {rest} {smaller_word}" if rest else "")
    return f"{whole} s"


def size_words(size_bytes: int) -> str:
    """Say how large: "812 B", "1.2 MiB"."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def money_words(micro_usd: int) -> str:
    """Say how much, without hiding small sums: "$12.50", "$0.0042", "$0.000008"."""
    sign = "-" if micro_usd < 0 else ""
    amount = abs(micro_usd)
    if amount == 0 or amount >= 1_000_000:
        return f"{sign}${amount / 1e6:,.2f}"
    if amount >= 10_000:
        return f"{sign}${amount / 1e6:.3f}"
    return f"{sign}${amount / 1e6:.6f}".rstrip("0")


def time_words(time: Timestamp) -> str:
    """Write a time in this machine's zone: "2026-11-22 12:00:01"; empty when unset."""
    return moment(time).strftime("%Y-%m-%d %H:%M:%S") if is_set(time) else ""


def zoned_words(time: Timestamp) -> str:
    """Write a time with the name of this machine's zone: "2026-11-22 12:00:01 CET"; empty when unset."""
    return moment(time).strftime("%Y-%m-%d %H:%M:%S %Z") if is_set(time) else ""


def exact_words(time: Timestamp) -> str:
    """Write a time to the millisecond, as commands take it again: "2026-11-22 20:03:24.438+00:00"."""
    return moment(time).isoformat(sep=" ", timespec="milliseconds") if is_set(time) else ""


def moment(time: Timestamp) -> datetime:
    """Give a time in this machine's zone."""
    # Not by way of a float, which has no exact microseconds.
    return datetime.fromtimestamp(time.seconds).replace(microsecond=time.nanos // 1000).astimezone()


def is_set(time: Timestamp) -> bool:
    """Say whether a time was ever set."""
    return bool(time.seconds or time.nanos)


def number_words(value: float) -> str:
    """Write a measurement: six significant digits, no noise behind."""
    return f"{value:.6g}"


def points_words(metric: MetricLatest, write: Callable[[float], str]) -> str:
    """Count the points of a metric, and say between which values: "30 points, 0.1 to 0.98"."""
    points = count_words(metric.point_count, "point")
    # A yard that has seen no number, but NaN alone, gives 0 and 0.
    is_unknown = math.isnan(metric.value) and metric.min == metric.max == 0
    if metric.json_value or is_unknown:
        return points
    return f"{points}, {write(metric.min)} to {write(metric.max)}"


def value_words(value: Value) -> str:
    """Write a parameter's value; "-" when it was left out."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
        case "string_value":
            text = value.string_value
            return text if text and text == text.strip() and "," not in text else repr(text)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "list_value":
            return "[" + ", ".join(value_words(each) for each in value.list_value.values) + "]"
        case _:
            return "-"


def run_seconds(run: Run, now: float) -> float | None:
    """Give how long the code of a run has run; None before it started."""
    if not is_set(run.started_at):
        return None
    end = run.finished_at.seconds + run.finished_at.nanos / 1e9 if is_set(run.finished_at) else now
    return max(0.0, end - run.started_at.seconds - run.started_at.nanos / 1e9)
