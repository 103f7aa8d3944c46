"""Where a port of a process is: only of its own, as other programs of the machine have theirs there too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from runyard_core.errors import Rejected

_LISTENS = "0A"
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for connections."""

    address: str
    inode: int


def own_address(port: int, pids: Iterable[int], *, proc: Path = PROC) -> str:
    """Give the address at which one of these processes listens on a port.

    Raises:
        Rejected: nobody listens there (CONNECTION_REFUSED), or somebody else of the machine (NOT_YOUR_PORT).
    """
    listeners = list(_listeners(port, proc))
    if not listeners:
        raise Rejected(f"nothing listens on port {port} (yet)", code="CONNECTION_REFUSED")
    sockets = {f"socket:[{listener.inode}]": listener for listener in listeners}
    for pid in pids:
        for target in _open_files(pid, proc):
            if target in sockets:
                return sockets[target].address
    raise Rejected(
        f"port {port} of the node belongs to another program than this run's", code="NOT_YOUR_PORT"
    )


def _listeners(port: int, proc: Path) -> Iterator[Listener]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == _LISTENS and int(number, 16) == port:
                yield Listener(_reachable(address), int(fields[9]))


def _reachable(text: str) -> str:
    """Give the address to connect to; one that stands for all is reached at loopback."""
    # Each 32-bit word is written as the machine holds it.
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    if len(packed) == 4:
        address = IPv4Address(packed)
        return "127.0.0.1" if address.is_unspecified else str(address)
    address6 = IPv6Address(packed)
    if address6.ipv4_mapped is not None:
        return str(address6.ipv4_mapped)
    return "::1" if address6.is_unspecified else str(address6)


def _open_files(pid: int, proc: Path) -> Iterator[str]:
    folder = proc / str(pid) / "fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(folder / name)
        except OSError:
            continue
