"""Commands of other packages: entry points of group ``runyard.cli``, loaded only when used.

An entry point's name is the command's name; its object is a ``click.Command``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

import click

GROUP = "runyard.cli"


def plugin_names() -> Sequence[str]:
    """List the commands that other installed packages add."""
    return sorted({point.name for point in entry_points(group=GROUP)})


class BrokenPluginError(Exception):
    """A command that is announced and cannot be loaded."""


def load_plugin(name: str) -> click.Command | None:
    """Load a command by name; None when no package adds it.

    Raises:
        BrokenPluginError: its package is not installed as it should be.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    return _load(points[0]) if points else None


def _load(point: EntryPoint) -> click.Command:
    package = point.dist.name if point.dist is not None else point.value
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise BrokenPluginError(f"command {point.name} of {package} cannot be loaded: {error}") from error
    if not isinstance(loaded, click.Command):
        raise BrokenPluginError(f"command {point.name} of {package} is not a click.Command")
    return loaded
