"""A network namespace of a test's own, tied to the machine by one cable that can be pulled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FORWARD = Path(__file__).parent / "forward.py"


class NoNamespaces(Exception):
    """This machine lets the test make no network namespace; the message says why."""


@dataclass(frozen=True)
class Network:
    """A namespace with an address of its own, and the machine's address at the other end of the cable."""

    name: str
    outer_link: str
    outer_address: str

    @property
    def enter(self) -> tuple[str, ...]:
        """Words before a command that runs in there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Pull the cable: packets go nowhere, and nobody is told."""
        _ip("link", "set", self.outer_link, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("link", "set", self.outer_link, "up")


@contextmanager
def network() -> Iterator[Network]:
    """Make a namespace, which goes with the block.

    Raises:
        NoNamespaces: it is not allowed here.
    """
    name = f"ry{os.getpid()}"
    outer, inner = f"{name}o", f"{name}i"
    # Of 10.231/16, by the test's process: two tests at once must not meet.
    third, fourth = os.getpid() // 64 % 256, os.getpid() % 64 * 4
    address = f"10.231.{third}.{fourth + 1}"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoNamespaces(f"no network namespace can be made here: {_said(error)}") from error
    try:
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
        _ip("addr", "add", f"{address}/30", "dev", outer)
        _ip("link", "set", outer, "up")
        _ip("-n", name, "addr", "add", f"10.231.{third}.{fourth + 2}/30", "dev", inner)
        _ip("-n", name, "link", "set", inner, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Network(name, outer, address)
    finally:
        # Its end of the cable goes with it, and with that ours.
        _ip("netns", "del", name)


@contextmanager
def forwarding(pairs: Mapping[str, str], enter: Sequence[str] = ()) -> Iterator[None]:
    """Forward from each address to another while the block runs."""
    words = [word for pair in pairs.items() for word in pair]
    command = [*enter, sys.executable, "-I", str(_FORWARD), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def _said(error: Exception) -> str:
    stderr = getattr(error, "stderr", b"") or b""
    return stderr.decode(errors="replace").strip() or str(error)
