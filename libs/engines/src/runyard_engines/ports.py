"""Free TCP ports on loopback, chosen where nobody else draws them by chance."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Iterable

from runyard_core.errors import ResourceExhausted
from runyard_engines.process import PortInUse

LOWEST = 10240
HIGHEST = 22767
"""With 10,000 added it is still below 32768, where Linux draws the ports of outgoing connections."""

GRPC_OFFSET = 10_000
"""SeaweedFS opens each of its ports a second time this much higher."""

ATTEMPTS_MAX = 200


def is_free(port: int) -> bool:
    """Tell whether nobody listens on this loopback port just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose old connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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


def require_free(name: str, ports: Iterable[int]) -> None:
    """Check that a server may listen on these ports.

    Raises:
        PortInUse: names the first port that is taken.
    """
    for port in ports:
        if not is_free(port):
            raise PortInUse(
                f"{name} cannot listen on 127.0.0.1:{port}: the port is in use",
                metadata={"engine": name, "port": str(port)},
            )
