"""Whose port it is, by the kernel's own tables."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from runyard_agent.attempt_ports import own_address
from runyard_core.errors import Rejected

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def a_machine(tmp_path: Path, *sockets: tuple[str, str, str, int]) -> Path:
    """Make a /proc with these sockets (table, address, state, inode); process 7 holds inode 70."""
    for table in ("tcp", "tcp6"):
        lines = [
            f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"
            for of, address, state, inode in sockets
            if of == table
        ]
        path = tmp_path / "net" / table
        path.parent.mkdir(exist_ok=True)
        path.write_text(HEAD + "".join(lines))
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "7/fd/3").symlink_to("socket:[70]")
    (tmp_path / "7/fd/4").symlink_to("/dev/null")
    return tmp_path


@pytest.mark.parametrize(
    ("table", "address", "reached"),
    [
        ("tcp", "0100007F:1776", "127.0.0.1"),
        ("tcp", "00000000:1776", "127.0.0.1"),
        ("tcp", "0502010A:1776", "10.1.2.5"),
        ("tcp6", "00000000000000000000000000000000:1776", "::1"),
        ("tcp6", "00000000000000000000000001000000:1776", "::1"),
        ("tcp6", "0000000000000000FFFF00000100007F:1776", "127.0.0.1"),
    ],
)
def test_a_port_is_reached_where_its_program_listens(
    tmp_path: Path, table: str, address: str, reached: str
) -> None:
    proc = a_machine(tmp_path, (table, address, "0A", 70))
    assert own_address(6006, [1, 7], proc=proc) == reached


def test_nobody_listens_where_there_are_connections_only(tmp_path: Path) -> None:
    proc = a_machine(tmp_path, ("tcp", "0100007F:1776", "01", 70), ("tcp", "0100007F:1777", "0A", 70))
    with pytest.raises(Rejected) as refused:
        own_address(6006, [7], proc=proc)
    assert refused.value.code == "CONNECTION_REFUSED"


def test_a_port_of_another_program_is_not_given_away(tmp_path: Path) -> None:
    proc = a_machine(tmp_path, ("tcp", "0100007F:1776", "0A", 71))
    with pytest.raises(Rejected) as refused:
        own_address(6006, [7], proc=proc)
    assert refused.value.code == "NOT_YOUR_PORT"


def test_of_two_programs_with_one_port_the_own_one_is_found(tmp_path: Path) -> None:
    proc = a_machine(tmp_path, ("tcp", "0502010A:1776", "0A", 71), ("tcp", "0100007F:1776", "0A", 70))
    assert own_address(6006, [7], proc=proc) == "127.0.0.1"


def test_this_machines_own_tables_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert own_address(server.getsockname()[1], [os.getpid()]) == "127.0.0.1"
