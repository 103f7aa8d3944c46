"""What the child processes are given: one JSON object on the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class WriterArguments:
    """Of ``tests.jepsen.writer``."""

    scheduler_url: str
    metrics_url: str
    history: str
    seed: int


@dataclass(frozen=True, slots=True)
class WatcherArguments:
    """Of ``tests.jepsen.watcher``."""

    database_url: str
    history: str
    nats_url: str
    """Empty: without a doorbell."""
    nats_password: str


@dataclass(frozen=True, slots=True)
class BusWatcherArguments:
    """Of ``tests.jepsen.bus_watcher``."""

    stream: str
    """The mirror's."""
    history: str
    nats_url: str
    nats_password: str


Arguments = TypeVar("Arguments", WriterArguments, WatcherArguments, BusWatcherArguments)


def arguments_of(kind: type[Arguments], text: str) -> Arguments:
    """Read them."""
    return kind(**json.loads(text))


def text_of_arguments(arguments: WriterArguments | WatcherArguments | BusWatcherArguments) -> str:
    """Write them."""
    return json.dumps(asdict(arguments))
