"""The filter of ListRuns: terms joined by AND, read into values that the query compares."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runyard.run.v1.types_pb2 import RunState
from runyard_core.errors import InvalidInput

FIELDS = ("project", "state", "step", "node", "tag")

_TERM = re.compile(r'\s*(?P<field>\w+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s"=]+))\s*')
_AND = re.compile(r"AND\s+", re.IGNORECASE)
_STATE_PREFIX = "RUN_STATE_"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Everything that is set must match."""

    project: str = ""
    state: RunState.ValueType | None = None
    step: str = ""
    node: str = ""
    tags: tuple[str, ...] = ()


def parse_filter(text: str) -> RunFilter:
    """Read a filter: ``project="x" AND state=RUNNING``.

    Raises:
        InvalidInput: it cannot be read (BAD_FILTER), or names a field that does not exist
            (UNKNOWN_FILTER_FIELD).
    """
    values: dict[str, list[str]] = {}
    if "\0" in text:
        raise _bad("it holds a zero byte, which no run has anywhere")
    at = 0
    while at < len(text.rstrip()):
        if values:
            joined = _AND.match(text, at)
            if joined is None:
                raise _bad(f"want AND at character {at + 1}")
            at = joined.end()
        term = _TERM.match(text, at)
        if term is None:
            raise _bad(f'want FIELD="VALUE" at character {at + 1}')
        field = term["field"]
        if field not in FIELDS:
            known = ", ".join(FIELDS)
            raise _bad(f"{field!r} is not a field; known are {known}", code="UNKNOWN_FILTER_FIELD")
        if field in values and field != "tag":
            raise _bad(f"{field} is named twice")
        value = term["bare"] if term["quoted"] is None else re.sub(r"\\(.)", r"\1", term["quoted"])
        if not value:
            raise _bad(f"{field} has no value: give it one, or leave it out")
        values.setdefault(field, []).append(value)
        at = term.end()
    return _built(values)


def _built(values: dict[str, list[str]]) -> RunFilter:
    def one(field: str) -> str:
        return values.get(field, [""])[0]

    state = one("state")
    return RunFilter(
        project=one("project"),
        state=_state(state) if state else None,
        step=one("step"),
        node=one("node"),
        tags=tuple(values.get("tag", ())),
    )


def _state(name: str) -> RunState.ValueType:
    names = [known.removeprefix(_STATE_PREFIX) for known in RunState.keys()[1:]]
    if name.upper().removeprefix(_STATE_PREFIX) not in names:
        raise _bad(f"{name!r} is not a state; known are {', '.join(names)}")
    return RunState.Value(_STATE_PREFIX + name.upper().removeprefix(_STATE_PREFIX))


def _bad(what: str, code: str = "BAD_FILTER") -> InvalidInput:
    return InvalidInput(f"filter: {what}", code=code, field_violations={"filter": what})
