"""How people name moments and things on the command line."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import click

from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import Subject, SubjectKind
from runyard_cli.failures import ExitCode, fail
from runyard_cli.hashing import file_sha256
from runyard_cli.names import full_run_name

_KEYWORDS = {
    "queue": SubjectKind.SUBJECT_KIND_QUEUE,
    "gpus": SubjectKind.SUBJECT_KIND_GPUS,
    "cost": SubjectKind.SUBJECT_KIND_COST,
    "prices": SubjectKind.SUBJECT_KIND_PRICES,
    "run": SubjectKind.SUBJECT_KIND_RUN,
    "node": SubjectKind.SUBJECT_KIND_NODE,
    "file": SubjectKind.SUBJECT_KIND_FILE,
    "model": SubjectKind.SUBJECT_KIND_MODEL,
    "dataset": SubjectKind.SUBJECT_KIND_DATASET,
    "project": SubjectKind.SUBJECT_KIND_PROJECT,
}
_AGO = re.compile(
    r"(?P<count>[0-9]{1,6}) ?"
    r"(?P<unit>s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?|w|weeks?) ago",
    re.IGNORECASE,
)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_NAMED = ("cost", "run", "node", "file", "model", "dataset", "project")
THINGS = "[RUN|NODE|FILE|MODEL|DATASET|queue [PROJECT]|gpus|prices|cost PROJECT|project PROJECT]"
"""What a question may be about, as a usage line says it."""


class MomentType(click.ParamType[AsOf]):
    """A position of the domain lane, a time, "now", "14:05" (when it last was that), or "2h ago".

    Times are ISO 8601, of this machine's zone unless they say.
    """

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AsOf:
        """Read one."""
        if isinstance(value, AsOf):
            return value
        text = str(value).strip()
        if text.lower() == "now":
            return AsOf()
        if text.isdecimal() and len(text) <= 18:
            return AsOf(position=int(text))
        return (
            time_of(text)
            or recent_time(text, datetime.now().astimezone())
            or self.fail(
                f"{value!r}: want a position, a time like 2026-11-22T13:50:00 (or with +00:00), 13:50, "
                '"2h ago" or "now"',
                param,
                ctx,
            )
        )


MOMENT = MomentType()


def time_of(text: str) -> AsOf | None:
    """Read a time; None when it is none."""
    try:
        return _as_of(datetime.fromisoformat(text).astimezone())
    except (ValueError, OverflowError):
        return None


def recent_time(text: str, now: datetime) -> AsOf | None:
    """Read a time of the last day, or one so long ago; None when it is none."""
    try:
        if ago := _AGO.fullmatch(text):
            return _as_of(now - timedelta(seconds=int(ago["count"]) * _SECONDS[ago["unit"][0].lower()]))
        if text[1:2] == ":":
            text = f"0{text}"
        # A date alone is not a time of day, and was read before.
        time = datetime.combine(now.date(), time_of_day.fromisoformat(text)) if ":" in text else None
    except (ValueError, OverflowError):
        return None
    if time is None:
        return None
    local = time.astimezone()
    return _as_of(local if local <= now else (time - timedelta(days=1)).astimezone())


def _as_of(time: datetime) -> AsOf:
    moment = AsOf()
    moment.time.FromDatetime(time)
    return moment


def subject_of(words: tuple[str, ...], project: str | None) -> Subject:
    """Read what a question is about: "digits#3", "n1", "queue", "cost digits", "model://net/2", a file.

    A file is known by its SHA-256, a reference or an alias ("datum://best"); one on disk is hashed.

    Raises:
        click.UsageError: too many words, or one too few.
    """
    if not words:
        return Subject(kind=SubjectKind.SUBJECT_KIND_YARD)
    kind = _KEYWORDS.get(words[0], SubjectKind.SUBJECT_KIND_UNSPECIFIED)
    rest = words[1:] if kind else words
    if len(rest) > 1 or (words[0] in _NAMED and not rest):
        raise click.UsageError(f"{' '.join(words)!r}: want {THINGS.strip('[]')}")
    name = rest[0] if rest else ""
    if kind in (SubjectKind.SUBJECT_KIND_UNSPECIFIED, SubjectKind.SUBJECT_KIND_FILE):
        name = _hashed(name)
    if kind in (SubjectKind.SUBJECT_KIND_UNSPECIFIED, SubjectKind.SUBJECT_KIND_RUN):
        name = full_run_name(name, project)
    return Subject(kind=kind, name=name, project=project or "")


def _hashed(name: str) -> str:
    """Give the SHA-256 of what can only be a file on disk; no run, node or id has a point or a slash."""
    if "://" in name or not {".", "/"} & set(name):
        return name
    path = Path(name)
    if path.is_dir():
        fail(ExitCode.USAGE, "FILE_UNREADABLE", f"{path} is a folder: name one of its files")
    if not path.is_file():
        advice = "Want a file on disk, a SHA-256, a reference, a run, or a node."
        fail(ExitCode.USAGE, "FILE_UNREADABLE", f"{name}: no such file here", advice)
    return file_sha256(path)
