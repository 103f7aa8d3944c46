"""How people name things: projects by folder, runs by counter, files by hash or path."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_COUNTER = re.compile(r"#?([0-9]{1,7})")
_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]*")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def project_option(command: Command) -> Command:
    """Add ``--project`` to a command; None when not given."""
    return click.option(
        "--project",
        metavar="NAME",
        callback=_check_project,
        help="Project; by default $RUNYARD_PROJECT or the name of this folder.",
    )(command)


def default_project(given: str | None, directory: Path | None = None) -> str:
    """Choose the project: the one given, else ``$RUNYARD_PROJECT``, else the folder's name."""
    named = given or os.environ.get("RUNYARD_PROJECT", "")
    return named or slug((directory or Path.cwd()).resolve().name)


def slug(text: str) -> str:
    """Make a project's name of any text: lower-case letters, digits and "-"; "default" of nothing."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].rstrip("-") or "default"


def full_run_name(name: str, project: str | None) -> str:
    """Write a run's name as the scheduler takes it: "12", "#12" and "latest" are of the project.

    "digits#12", run ids and prefixes of them stay as they are.
    """
    counter = _COUNTER.fullmatch(name)
    if counter is not None:
        return f"{default_project(project)}#{int(counter.group(1))}"
    if name == "latest":
        return f"{default_project(project)}#latest"
    return name


def name_here(project: str, number: int) -> str:
    """Give the shortest name that a command called in this folder takes for that run and no other."""
    return str(number) if project == default_project(None) else f"{project}#{number}"


def looks_like_run(name: str) -> bool:
    """Say whether a name can only be a run's, not a project's."""
    return "#" in name or name == "latest" or _COUNTER.fullmatch(name) is not None


def may_be_id(name: str) -> bool:
    """Say whether a name may be an id or a prefix of one."""
    return _ID.fullmatch(name) is not None


def _check_project(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and _PROJECT.fullmatch(value) is None:
        raise click.BadParameter(f'{value!r}: want lower-case letters, digits and "-", like {slug(value)!r}')
    return value
