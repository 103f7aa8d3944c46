"""The ports of a yard: chosen free at the first start and kept, so that addresses stay the same."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runyard_embedded.home import Home, write_private
from runyard_engines import choose_port, choose_store_port
from runyard_engines.ports import LOOPBACK, is_free, require_free
from runyard_engines.store import PORT_OFFSETS

STORE = "store"
GATE = "gate"
WITH_PORT = ("postgres", "nats", STORE, "scheduler", "artifact", "metrics", "cost", "lineage")


def settle_ports(
    home: Home, fixed: Mapping[str, int], *, with_gate: bool = False, gate_host: str = LOOPBACK
) -> dict[str, int]:
    """Give every process its port: the fixed one, the one it had, or a free one.

    The gate's, when there shall be one, is kept also while there is none: machines outside know it. One
    that was fixed and cannot be had at ``gate_host`` is not kept.

    Raises:
        PortInUse: a fixed port is taken. (One that was ours by chance is simply replaced.)
        EngineFailed: a fixed port may not be listened on, or not at this address.
        ResourceExhausted: no port is free.
    """
    ports: dict[str, int] = {}
    known = _read(home)
    wanted = (*WITH_PORT, GATE) if with_gate else WITH_PORT
    for name in wanted:
        offsets = PORT_OFFSETS if name == STORE else (0,)
        if name in fixed:
            host = gate_host if name == GATE else LOOPBACK
            require_free(name, [fixed[name] + offset for offset in offsets], host)
            ports[name] = fixed[name]
        elif name in known and all(is_free(known[name] + offset) for offset in offsets):
            ports[name] = known[name]
    taken = {port + offset for port in ports.values() for offset in PORT_OFFSETS}
    for name in wanted:
        if name not in ports:
            ports[name] = choose_store_port(frozenset(taken)) if name == STORE else choose_port(taken=taken)
            taken |= {ports[name] + offset for offset in PORT_OFFSETS}
    kept = {GATE: known[GATE]} if GATE in known else {}
    write_private(home.ports_file, kept | ports)
    return ports


def had_gate(home: Home) -> bool:
    """Say whether the yard ever had a gate: others may know it."""
    return GATE in _read(home)


def _read(home: Home) -> dict[str, int]:
    try:
        content = json.loads(home.ports_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {str(name): int(port) for name, port in content.items()}
