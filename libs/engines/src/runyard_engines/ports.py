"""Free TCP ports on loopback, chosen where nobody else draws them by chance."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Collection, Iterable

from runyard_core.errors import ResourceExhausted
from runyard_engines.process import EngineFailed, PortInUse

LOOPBACK = "127.0.0.1"

LOWEST = 10240
HIGHEST = 22767
"""With 10,000 added it is still below 32768, where Linux draws the ports of outgoing connections."""

GRPC_OFFSET = 10_000
"""SeaweedFS opens each of its ports a second time this much higher."""

ATTEMPTS_MAX = 200


def is_free(port: int) -> bool:
    """Tell whether we may listen on this loopback port, and nobody does just now."""
    return _bind_error(LOOPBACK, port) is None


def choose_port(*, taken: Collection[int] = (), offsets: Iterable[int] = (0,)) -> int:
    """Choose a port P so that P + each offset is free and not in ``taken``.

    It may be gone a moment later: whoever starts a server on it must be ready to choose again.

    Raises:
        ResourceExhausted: none found (code NO_FREE_PORT).
    """
    wanted = tuple(offsets)
    for _ in range(ATTEMPTS_MAX):
        port = random.randint(LOWEST, HIGHEST - max(o for o in wanted if o < GRPC_OFFSET))  # noqa: S311 - not a secret
        if all(port + offset not in taken and is_free(port + offset) for offset in wanted):
            return port
    raise ResourceExhausted(
        f"no free port between {LOWEST} and {HIGHEST} after {ATTEMPTS_MAX} tries", code="NO_FREE_PORT"
    )


def require_free(name: str, ports: Iterable[int], host: str = LOOPBACK) -> None:
    """Check that a server may listen on these ports of an address of this machine.

    Raises:
        PortInUse: names the first port that is taken.
        EngineFailed: names the first one that cannot be had for another reason, with the system's words.
    """
    for port in ports:
        error = _bind_error(host, port)
        if error is None:
            continue
        is_taken = error.errno == errno.EADDRINUSE
        reason = "the port is in use" if is_taken else str(error.strerror or error).lower()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise (PortInUse if is_taken else EngineFailed)(
            f"{name} cannot listen on {address}: {reason}", metadata={"engine": name, "port": str(port)}
        )


def _bind_error(host: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose old connections linger in TIME_WAIT is free, and IPv4 another's.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return error
    return None
