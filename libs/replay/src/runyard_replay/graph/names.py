"""What a person may call a vertex by, and what that may mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runyard_contracts.ids import is_name
from runyard_core.errors import InvalidInput
from runyard_replay.graph.identities import external_id, key_text

PREFIX_LENGTH_MIN = 8
NUMBER_DIGITS_MAX = 18
"""Of a run's number: more would not go into a table."""
DATUM, DATASET, MODEL = "datum://", "dataset://", "model://"
_IN_PROJECT = "@"
"""Between a version and its project: neither can hold it."""

_PREFIX = re.compile(r"[0-9a-f-]{8,64}")


@dataclass(frozen=True, slots=True)
class NumberedRun:
    """A run by its project's counter; the last one when there is no number."""

    project: str
    number: int | None


@dataclass(frozen=True, slots=True)
class IdPrefix:
    """The start of a SHA-256 or a run id."""

    text: str
    files_only: bool = False


@dataclass(frozen=True, slots=True)
class VersionName:
    """A version of a dataset or model, in whichever project has it: the start of its vertex's id."""

    id_start: str


@dataclass(frozen=True, slots=True)
class WholeId:
    """The id of a vertex of any kind: "user:alice", a node, a GPU, a URI."""

    text: str


def parse_name(name: str) -> NumberedRun | IdPrefix | VersionName | WholeId:
    """Read a name.

    Raises:
        InvalidInput: it can name nothing.
    """
    # As it is in the ids of things.
    name = name.replace("\0", "\ufffd")
    if name.startswith(DATUM):
        digits = name.removeprefix(DATUM)
        if not _PREFIX.fullmatch(digits):
            raise _wrong(name)
        return IdPrefix(digits, files_only=True)
    if _PREFIX.fullmatch(name):
        return IdPrefix(name)
    if is_version(name):
        return WholeId(key_text(name)) if _IN_PROJECT in name else VersionName(f"{name}{_IN_PROJECT}")
    project, separator, number = name.rpartition("#")
    if separator:
        is_number = number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX
        if not is_name(project) or not (number == "latest" or is_number):
            raise _wrong(name)
        return NumberedRun(project, None if number == "latest" else int(number))
    if not name:
        raise _wrong(name)
    return WholeId(external_id(name))


def is_version(uri: str) -> bool:
    """Say whether a reference names a version of a dataset or model."""
    return uri.startswith((DATASET, MODEL))


def is_outside(uri: str) -> bool:
    """Say whether a reference leads out of the yard."""
    return not uri.startswith((DATUM, DATASET, MODEL))


def version_id(name: str, project: str) -> str:
    """Give the id of the vertex of a version: projects may have datasets and models of the same name."""
    return key_text(f"{name}{_IN_PROJECT}{project}")


def _wrong(name: str) -> InvalidInput:
    return InvalidInput(
        f"{name!r} names nothing: want a SHA-256 (or {PREFIX_LENGTH_MIN} of its first digits or more), "
        'datum://..., dataset://NAME/VERSION, model://NAME/VERSION, a run id or "project#12"',
        code="BAD_NAME",
        field_violations={"name": "not a name"},
    )
