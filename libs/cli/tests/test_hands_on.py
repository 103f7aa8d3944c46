"""The command lines of shells and forwarded ports, up to where a yard is needed."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason, HandsOnSession
from runyard.run.v1.types_pb2 import Run
from runyard_cli.commands import exec as exec_command
from runyard_cli.commands import forward
from runyard_cli.commands.show import record_lines


@pytest.mark.parametrize(
    ("text", "ports"), [("6006", (6006, 6006)), ("6006:8080", (6006, 8080)), ("6006:0", (6006, 0))]
)
def test_ports_are_one_there_and_one_here(text: str, ports: tuple[int, int]) -> None:
    assert forward.PortPair().convert(text, None, None) == ports


@pytest.mark.parametrize("text", ["", "0", "65536", "6006:", "a:b", ":80", "-1"])
def test_what_is_no_port_is_wrong_usage(text: str) -> None:
    assert CliRunner().invoke(forward.command, ["12", "--", text]).exit_code == 2


def test_a_terminal_cannot_be_asked_for_without_one() -> None:
    done = CliRunner().invoke(exec_command.command, ["12", "-t"])
    assert (done.exit_code, "standard input is none" in done.output) == (2, True)


def test_a_record_shows_who_had_hands_on_its_run() -> None:
    run = Run(project="digits", number=3)
    for number in range(7):
        session = HandsOnSession(
            session_id=str(number), attempt=1, opened_by="user:alice", port=6000 + number
        )
        session.opened_at.seconds = session.ended_at.seconds = 1
        session.end_reason = HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT
        run.hands_on_sessions.append(session)
    run.hands_on_sessions.add(
        attempt=1, opened_by="user:bob", command=["rm", "a b"], exit_status=ExitStatus(exit_code=1)
    ).ended_at.seconds = 2
    run.hands_on_sessions.add(attempt=1, opened_by="user:eve", terminal=True)
    lines = list(record_lines(Record(run=run), whole=False, now=5.0))
    at = lines.index("hands on 9 times, the newest 5:")
    assert lines[at + 1].endswith("user:alice: port 6004, attempt 1, closed by its user")
    assert lines[at + 4].endswith("user:bob: command `rm 'a b'`, attempt 1, exit code 1")
    assert lines[at + 5].endswith("user:eve: a shell, attempt 1, open")
