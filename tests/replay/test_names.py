"""What people call things and moments: prefixes, unknown ids, times that the log does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replay.runbooks import HISTORIES, imported, printed_by

RUN = "01a204d6-25"
"""The beginning of one run id in the recorded history; "01a204d6" begins two."""
WHOLE_RUN = "01a204d6-2599-7837-8973-3d57da0ed977"
DETACHED = "01a204d6-b2a4-7d"
"""The beginning of the id of node.detached, at position 20."""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with imported(HISTORIES / "lost-node") as found:
        yield found


@pytest.mark.parametrize(
    "command",
    [
        f"history timeline {RUN} --domain-only",
        f"history explain {RUN} --field state",
        f"history as-of now {RUN}",
        f"history diff --from 20 --to 40 {RUN}",
        f"history tail -n 1000 --correlation {RUN}",
        f"history tail -n 1000 --stream run-{RUN}",
        f"trace {RUN}",
        f"impact {RUN}",
    ],
)
def test_the_beginning_of_a_run_id_says_as_much_as_its_name(command: str, home: Path) -> None:
    named = printed_by(f"runyard {command.replace(RUN, WHOLE_RUN)}", home)
    assert printed_by(f"runyard {command}", home) == named
    assert "exit code" not in named
    assert named.count("\n") > 1


@pytest.mark.parametrize("event", ["20", DETACHED, "01a204d6-b2a4-7d63-91a0-10b18b567fbc"])
def test_an_event_is_known_by_position_prefix_or_id(event: str, home: Path) -> None:
    assert printed_by(f"runyard history effects {event}", home).startswith(
        "20 node.detached by service:scheduler"
    )


@pytest.mark.parametrize(
    "command",
    [
        "history timeline 01a204d6",
        "history explain 01a204d6",
        "history as-of now 01a204d6",
        "history tail --correlation 01a204d6",
        "history tail --stream run-01a204d6",
        "history effects 01a204d6-b2",
        "trace 01a204d6",
        "impact 01a204d6",
    ],
)
def test_a_beginning_of_several_ids_names_them(command: str, home: Path) -> None:
    printed = printed_by(f"runyard {command}", home)
    assert "may mean several" in printed
    assert "[AMBIGUOUS_NAME]" in printed
    assert printed.endswith("(exit code 3)\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("history timeline deadbeef", "NOT_FOUND"),
        ("history timeline nobody", "NODE_NOT_FOUND"),
        ("history explain lab#7", "RUN_NOT_FOUND"),
        ("history as-of 8 lab#1", "RUN_NOT_FOUND"),
        ("history as-of now cost nobody", "PROJECT_NOT_FOUND"),
        ("history diff --from 3 lab#7", "RUN_NOT_FOUND"),
        ("history effects deadbeef", "EVENT_NOT_FOUND"),
        ("history effects deadbeef-0000-7000-8000-000000000000", "EVENT_NOT_FOUND"),
        ("history tail --stream artifact-deadbeef", "FILE_NOT_FOUND"),
        ("trace deadbeef", "VERTEX_NOT_FOUND"),
        ("impact lab#7", "VERTEX_NOT_FOUND"),
        ("history what-if nobody --prices docs/runbooks/right-price.json", "PROJECT_NOT_FOUND"),
    ],
)
def test_an_unknown_name_is_said_to_be_unknown(command: str, code: str, home: Path) -> None:
    printed = printed_by(f"runyard {command}", home)
    assert f"[{code}]" in printed
    assert printed.endswith("(exit code 3)\n")


MOMENTS = (
    ("0", "BEFORE_FIRST_EVENT"),
    ("2001-01-01", "BEFORE_FIRST_EVENT"),
    ("2101-01-01T00:00:00+02:00", "TIME_AHEAD"),
    ("1000", "POSITION_AHEAD"),
)
ASKED_AT = (
    "history as-of {} gpus",
    "history explain lab#1 --at {}",
    "history timeline lab#1 --to {}",
    "history diff --from 1 --to {}",
    "history tail --to {}",
    "history what-if lab --prices docs/runbooks/right-price.json --at {}",
    "history export nowhere --to {}",
    "trace lab#1 --at {}",
    "impact lab#1 --at {}",
)


@pytest.mark.parametrize(
    ("command", "moment", "code"),
    [
        *((ASKED_AT[0], *moment) for moment in MOMENTS),
        # They all find moments in one place, so two of them are enough for the others.
        *((command, *moment) for command in ASKED_AT[1:] for moment in MOMENTS[1:3]),
    ],
)
def test_a_moment_that_the_log_does_not_have_is_refused(
    command: str, moment: str, code: str, home: Path
) -> None:
    printed = printed_by(f"runyard {command.format(moment)}", home)
    assert f"[{code}]" in printed
    assert printed.endswith("(exit code 3)\n")
