"""``runyard history`` on an imported log: every command, no engine and no service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.history.v1.history_service_pb2 import ListEffectsResponse
from runyard_cli.commands.history import command
from runyard_cli.history.lines import effects_lines

from .imported import RUN, Terminal, event_id, export_of


def test_a_timeline_has_both_lanes_and_causes(terminal: Terminal) -> None:
    lines = terminal.run("timeline", "digits#1", "--with-causes").splitlines()
    places = [line.split()[0] for line in lines if "<-" not in line]
    assert places == ["3", "4", "5", "6", "6/t1", "7", "8"]
    assert "log line 1: hello" in "\n".join(lines)
    assert lines[-1].strip().startswith("<- run.queued at 4 by user:alice")
    entries = [json.loads(line) for line in terminal.run("timeline", RUN, "--output", "json").splitlines()]
    assert entries[1]["event"]["envelope"]["type"] == "runyard.run.queued"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("4", "queue"), "digits#1"),
        (("6", "gpus"), "digits#1 attempt 1"),
        (("8", "cost", "digits"), "digits#1  $1.00"),
        (("5", RUN), "digits#1 train: starting"),
        (("5", RUN), "RUN_STATE_STARTING"),
        (("2026-01-01T00:00:04.5+00:00", RUN), "RUN_STATE_QUEUED"),
        (("now", "n1"), "uuid: G"),
        (("now", "prices"), "$3,600.00  GPU-hour"),
        (("6",), "nothing waited"),
    ],
)
def test_a_state_is_shown_as_of_a_moment(terminal: Terminal, words: tuple[str, ...], shown: str) -> None:
    assert shown in terminal.run("as-of", *words)
    assert json.loads(terminal.run("as-of", *words, "--output", "json"))["position"]


def test_why_what_changed_and_what_came_of_it(terminal: Terminal) -> None:
    explained = terminal.run("explain", "digits#1", "--field", "state")
    assert 'state: "RUN_STATE_QUEUED" -> "RUN_STATE_STARTING"' in explained
    assert "asked by user:alice" in explained
    first = terminal.run("explain", "digits#1", "--field", "state", "-n", "1")
    assert first.splitlines()[-1] == "and more: --at 8 --skip 1 shows them"
    rest = terminal.run("explain", "digits#1", "--field", "state", "--skip", "1")
    assert first.splitlines()[:-1] + rest.splitlines() == explained.splitlines()
    beyond = terminal.run("explain", "digits#1", "--field", "state", "--skip", "99")
    assert beyond == "nothing else changed it\n"
    different = terminal.run("diff", "--from", "4", "--to", "8", RUN)
    assert 'outcome: - -> "OUTCOME_SUCCEEDED"' in different
    assert "2 events:" in different
    first = terminal.run("diff", "--from", "4", "--to", "8", "-n", "1", RUN)
    assert "and more: --from 4 --to 8 --skip 1 shows them" in first
    effects = terminal.run("effects", event_id(4))
    assert [line.strip().split()[1] for line in effects.splitlines()[1:]] == ["5", "6", "7", "8"]


def test_a_chain_of_effects_may_be_long() -> None:
    answer = ListEffectsResponse()
    answer.event.envelope.event_id = "event-0"
    for depth in range(1, 3_000):
        effect = answer.effects.add(depth=depth)
        effect.event.envelope.event_id = f"event-{depth}"
        effect.event.envelope.causation_id = f"event-{depth - 1}"
    assert len(list(effects_lines(answer))) == 3_000


def test_the_tail_is_filtered(terminal: Terminal) -> None:
    assert len(terminal.run("tail", "--type", "runyard.run.").splitlines()) == 3
    assert len(terminal.run("tail", "--node", "n1").splitlines()) == 3
    assert len(terminal.run("tail", "--correlation", RUN).splitlines()) == 6
    assert len(terminal.run("tail", "--from", "3", "--to", "4").splitlines()) == 2
    assert len(terminal.run("tail", "--to", "2026-01-01T00:00:03+00:00").splitlines()) == 2
    assert len(terminal.run("tail", "--telemetry").splitlines()) == 1
    assert len(terminal.run("tail", "--telemetry", "--from", "1").splitlines()) == 1
    # Nothing came after now yet.
    assert terminal.run("tail", "--from", "now") == ""
    # As they are shown, types may be written.
    assert terminal.run("tail", "--type", "run.") == terminal.run("tail", "--type", "runyard.run.")
    assert terminal.run("tail", "--type", "run") == terminal.run("tail", "--type", "run.")
    assert len(terminal.run("tail", "--type", "run.queued", "--type", "price.set").splitlines()) == 2


def test_pages_of_large_events_are_short_and_followed_to_their_end(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = terminal.run("tail", "-n", "100")
    of_node = terminal.run("tail", "--node", "n1")
    decided = terminal.run("what-if", "--decide")
    assert (len(tail.splitlines()), len(of_node.splitlines())) == (8, 3)
    for pages in ("runyard_replay.imported", "runyard_replay.reading.selecting"):
        monkeypatch.setattr(f"{pages}.PAGE_BYTES_MAX", 1_000)
    monkeypatch.setattr("runyard_contracts.answer_size.ANSWER_BYTES_MAX", 600)
    assert terminal.run("tail", "-n", "100") == tail
    assert terminal.run("tail", "--node", "n1") == of_node
    assert terminal.run("what-if", "--decide") == decided
    terminal.run("export", str(tmp_path / "again"))
    for name in ("manifest.json", "domain.jsonl", "telemetry.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "export" / name).read_bytes()


def test_other_prices_give_another_cost(terminal: Terminal, tmp_path: Path) -> None:
    book = tmp_path / "book.json"
    book.write_text('{"prices": [{"unit": "PRICE_UNIT_GPU_HOUR", "micro_usd_per_hour": "7200000000"}]}')
    shown = terminal.run("what-if", "digits", "--prices", str(book))
    assert shown.splitlines()[-1].split() == ["all", "$1.00", "$2.00", "+$1.00"]
    assert "no price" not in shown
    book.write_text('{"prices": [{"unit": "PRICE_UNIT_GPU_HOUR", "effective_from": "2099-01-01T00:00:00Z"}]}')
    shown = terminal.run("what-if", "digits", "--prices", str(book))
    assert shown.splitlines()[-2].split() == ["all", "$1.00", "$0.00", "-$1.00"]
    assert shown.splitlines()[-1] == "some of it has no price in that book"
    for broken in ("[1]", "[" * 100_000):
        book.write_text(broken)
        assert "WRONG_USAGE" in terminal.run("what-if", "digits", "--prices", str(book), expect=2)


def test_an_export_of_an_import_is_the_same_files(terminal: Terminal, tmp_path: Path) -> None:
    terminal.run("export", str(tmp_path / "again"))
    for name in ("manifest.json", "domain.jsonl", "telemetry.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "export" / name).read_bytes()
    terminal.run("export", str(tmp_path / "part"), "--to", "5")
    files = json.loads((tmp_path / "part" / "manifest.json").read_text())["files"]
    assert [entry["event_count"] for entry in files] == [5, 0]
    terminal.run("export", str(tmp_path / "cloud"), "--cloudevents")
    first = json.loads((tmp_path / "cloud" / "domain.jsonl").read_text().splitlines()[0])
    assert (first["specversion"], first["type"], first["sequence"]) == ("1.0", "runyard.node.enrolled", "1")
    assert all(name.isalnum() and name.islower() for name in first if name != "data_base64")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text.replace("alice", "malice", 1), "another SHA-256"),
        (lambda text: text.replace("PRICE_UNIT_GPU_HOUR", "PRICE_UNIT_NODE_HOUR", 1), "another SHA-256"),
        (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "holds 7 events, the manifest says 8"),
        (lambda text: "\n".join([*text.splitlines()[1:], ""]), "line 1 has the event of position 2"),
        (lambda text: text[:-40], "line 8 is not an event"),
        (lambda text: text.replace("position", "xosition", 1), 'named "xosition" at "Envelope". [MANIFEST'),
    ],
)
def test_an_export_that_is_not_what_its_manifest_says_is_refused(
    empty: Terminal, tmp_path: Path, damage: object, said: str
) -> None:
    export = export_of(tmp_path / "export")
    path = export / "domain.jsonl"
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    error = empty.run("import", str(export), expect=3)
    assert said in error
    assert "MANIFEST_MISMATCH" in error
    assert list((tmp_path / "home").iterdir()) == []


def test_a_home_with_a_log_is_not_imported_into(terminal: Terminal, tmp_path: Path) -> None:
    assert "LOG_NOT_EMPTY" in terminal.run("import", str(tmp_path / "export"), expect=3)
    (tmp_path / "none").mkdir()
    none = terminal.run("import", str(tmp_path / "none"), expect=2)
    assert "manifest.json: No such file or directory [NOT_AN_EXPORT]" in none
    (tmp_path / "none" / "manifest.json").write_text("{")
    assert "is not the manifest of one" in terminal.run("import", str(tmp_path / "none"), expect=2)
    assert "new folder" in terminal.run("export", str(tmp_path / "export"), expect=2)


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("as-of", "9"), "POSITION_AHEAD", 3),
        (("as-of", "0"), "BEFORE_FIRST_EVENT", 3),
        (("as-of", "2099-01-01"), "TIME_AHEAD", 3),
        (("as-of", "2001-01-01"), "BEFORE_FIRST_EVENT", 3),
        (("as-of", "soon"), "WRONG_USAGE", 2),
        (("as-of", "now", "cost"), "WRONG_USAGE", 2),
        (("as-of", "now", "digits#7"), "RUN_NOT_FOUND", 3),
        (("timeline", "abcd"), "NOT_FOUND", 3),
        (("explain", RUN, "--field", "mood"), "NO_SUCH_FIELD", 3),
        (("effects", "0198abc"), "BAD_EVENT_ID", 3),
        (("effects", "99"), "EVENT_NOT_FOUND", 3),
        (("as-of", "now", "cost", "nobody"), "PROJECT_NOT_FOUND", 3),
        (("tail", "--from", "99"), "POSITION_AHEAD", 3),
        # The telemetry lane has one batch, the domain lane eight events.
        (("tail", "--telemetry", "--from", "2"), "POSITION_AHEAD", 3),
        (("tail", "--telemetry", "--to", "8"), "POSITION_AHEAD", 3),
        (("tail", "--telemetry", "--from", "2099-01-01"), "TIME_AHEAD", 3),
        (("tail", "--from", "5", "--to", "3"), "BAD_SPAN", 3),
        (("tail", "--from", "now", "--to", "3"), "BAD_SPAN", 3),
        (("tail", "--from", "2026-01-02", "--to", "2026-01-01T00:00:03+00:00"), "BAD_SPAN", 3),
        (("tail", "--to", "2001-01-01"), "BEFORE_FIRST_EVENT", 3),
        (("tail", "--correlation", "digits#7"), "RUN_NOT_FOUND", 3),
        (("effects", RUN), "EVENT_NOT_FOUND", 3),
        (("diff", "--from", "8", "--to", "2"), "BAD_SPAN", 3),
        (("tail", "--actor", "alice"), "BAD_FILTER", 3),
        (("tail", "-f", "--to", "3"), "WRONG_USAGE", 2),
        (("tail", "--type", "run.finishd"), "WRONG_USAGE", 2),
        (("tail", "--node", "nowhere"), "NODE_NOT_FOUND", 3),
        (("tail", "--stream", "price-q"), "STREAM_NOT_FOUND", 3),
        (("as-of", "now", "model://resnet"), "MODEL_NOT_FOUND", 3),
        (("as-of", "now", "datum://best"), "ALIAS_NOT_FOUND", 3),
        (("timeline", "dataset://images/v1"), "DATASET_NOT_FOUND", 3),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_reason(
    terminal: Terminal, arguments: tuple[str, ...], code: str, exit_code: int
) -> None:
    error = terminal.run(*arguments, expect=exit_code)
    assert f"[{code}]" in error.splitlines()[0]


def test_without_yard_or_log_it_says_so(empty: Terminal) -> None:
    assert "[NO_CONTEXT]" in empty.run("timeline", RUN, expect=4)


@pytest.mark.system
def test_the_log_at_hand_is_not_taken_for_another_machines(empty: Terminal, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    services = ("scheduler", "artifact", "metrics", "cost", "lineage")
    away = {"addresses": dict.fromkeys(services, "yard.invalid:1"), "token": "t"}
    (home / "context.json").write_text(json.dumps(away))
    (home / "credentials.json").write_text('{"role_passwords": {"runyard_reader": "x"}}')
    (home / "ports.json").write_text('{"postgres": 1}')
    assert "lineage at yard.invalid:1 does not answer" in empty.run("tail", expect=4)
    away["addresses"] = dict.fromkeys(services, "127.0.0.1:1")
    (home / "context.json").write_text(json.dumps(away))
    assert "LOG_UNREACHABLE" in empty.run("tail", expect=4)


@pytest.mark.system
def test_the_log_is_read_directly_only_when_it_must_be() -> None:
    heavy = {"asyncpg", "sqlalchemy", "nats", "sqlite3", "runyard_replay", "runyard_eventlog"}
    code = "import runyard_cli.commands.history, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.isdisjoint(done.stdout.split())
    assert {"timeline", "as-of", "explain", "diff", "effects", "tail", "export", "import", "what-if"} <= set(
        command.commands
    )


def test_who_asks_a_yard_that_is_only_an_imported_log_is_told_what_can_be_asked(terminal: Terminal) -> None:
    assert "It holds an imported log: `runyard history`" in terminal.run("projections", expect=4)
