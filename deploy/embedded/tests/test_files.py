from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import LeaseGrant
from runyard_client import Context, save_context
from runyard_client.context import SERVICES
from runyard_core.clock import ManualClock
from runyard_core.errors import InvalidInput, NotFound, Rejected
from runyard_embedded import people, stopping, supervise
from runyard_embedded.__main__ import main as supervisor_main
from runyard_embedded.commands import up
from runyard_embedded.credentials import load_or_create
from runyard_embedded.home import Home
from runyard_embedded.plan import make_plan, role_url
from runyard_embedded.settings import ExternalStore, YardSettings, forget_secrets
from runyard_embedded.state import Phase, ProcessState, YardState, read_state, write_state
from runyard_embedded.stopping import RunningAttempt
from runyard_embedded.yard_ports import WITH_PORT, had_gate, settle_ports
from runyard_engines import EngineFailed, PortInUse, ProcessIdentity, choose_port
from runyard_engines.process import started_ticks
from runyard_replay.imported import FILE as IMPORTED
from runyard_servicekit.auth import Tokens

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "yard")
    made.make()
    return made


@pytest.fixture
def listener() -> Iterator[int]:
    port = choose_port()
    with socket.create_server(("127.0.0.1", port)):
        yield port


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_is_its_owners_alone(home: Home) -> None:
    assert [mode(folder) for folder in (home.folder, home.logs, home.data, home.agent)] == [0o700] * 4


def test_a_home_with_the_log_of_another_yard_gets_no_yard(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.folder / IMPORTED).touch()
    monkeypatch.setenv("RUNYARD_HOME", str(home.folder))
    with pytest.raises(SystemExit) as refused:
        up.command(["--background"])
    assert refused.value.code == 3
    assert "[HOME_HAS_IMPORT]" in capsys.readouterr().err
    assert not home.state_file.exists()


@pytest.mark.parametrize("words", [[], ["--background"]])
def test_a_folder_that_cannot_hold_a_yard_is_named(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file"
    place.touch()
    monkeypatch.setenv("RUNYARD_HOME", str(place))
    with pytest.raises(SystemExit) as refused:
        up.command(words)
    assert refused.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"Error: {place} cannot hold a yard: File exists [BAD_SETTING]",
        "RUNYARD_HOME names another folder.",
    ]


def test_a_folder_of_somebody_else_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(home.folder))
    # Tests may be root's, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != home.folder)
    with pytest.raises(SystemExit) as refused:
        up.command(["--background"])
    assert refused.value.code == 2
    assert f"{home.folder} cannot hold a yard: Permission denied [BAD_SETTING]" in capsys.readouterr().err
    assert not home.lock_file.exists()


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (0, "The yard is down."),
        (1, "The yard is down. 1 attempt trains on; the next `runyard up` takes that back."),
    ],
)
def test_a_yard_in_a_terminal_says_at_its_end_what_trains_on(
    left: int, words: str, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = [RunningAttempt(ProcessIdentity(1, 1), home.agent)] * left
    monkeypatch.setenv("RUNYARD_HOME", str(home.folder))
    monkeypatch.setattr(supervise, "supervise", lambda *_: None)
    monkeypatch.setattr(stopping, "running_attempts", lambda _: attempts)
    up.command([], standalone_mode=False)
    assert capsys.readouterr().err.splitlines() == [words]


def test_credentials_are_drawn_once_and_readable_by_their_owner_only(home: Home) -> None:
    first = load_or_create(home)
    assert load_or_create(home) == first
    assert mode(home.credentials_file) == mode(home.tokens_file) == 0o600
    secrets = [first.client_token, first.agent_token, first.service_token, first.postgres_password]
    secrets += [*first.role_passwords.values(), *first.nats_passwords.values(), first.s3_secret_key]
    assert len(set(secrets)) == len(secrets)
    assert min(len(secret) for secret in secrets) >= 43


def test_a_restored_yard_without_its_secrets_is_not_given_others(home: Home) -> None:
    first = load_or_create(home)
    key = home.yard_key_file.read_bytes()
    home.yard_key_file.unlink()
    with pytest.raises(Rejected, match="put it back") as refused:
        load_or_create(home)
    assert refused.value.code == "YARD_KEY_MISSING"
    assert not home.yard_key_file.exists()
    home.yard_key_file.write_bytes(key)
    (home.data / "postgres").mkdir(parents=True)
    home.credentials_file.rename(home.folder / "elsewhere")
    with pytest.raises(Rejected, match="put it back") as refused:
        load_or_create(home)
    assert refused.value.code == "CREDENTIALS_MISSING"
    (home.folder / "elsewhere").rename(home.credentials_file)
    assert load_or_create(home) == first


def test_a_yard_remembers_that_others_know_its_gate(home: Home) -> None:
    assert not had_gate(home)
    settle_ports(home, {})
    assert not had_gate(home)
    with_gate = settle_ports(home, {}, with_gate=True)["gate"]
    settle_ports(home, {})
    assert had_gate(home)
    assert settle_ports(home, {}, with_gate=True)["gate"] == with_gate


def test_tokens_of_persons_outlast_a_start_and_the_secret_is_kept_nowhere(home: Home) -> None:
    load_or_create(home)
    until = NOW + timedelta(days=90)
    laptop, ci = people.invite(home, "alice", NOW, until), people.invite(home, "alice", NOW, until)
    load_or_create(home)
    text = home.tokens_file.read_text()
    assert laptop not in text
    assert [each.sha256 for each in people.tokens_of_people(home)] == [
        hashlib.sha256(secret.encode()).hexdigest() for secret in (laptop, ci)
    ]
    assert mode(home.tokens_file) == 0o600
    tokens = Tokens(home.tokens_file, ManualClock(NOW))
    caller = tokens.caller(hashlib.sha256(ci.encode()).hexdigest())
    assert caller is not None
    assert (caller.name, caller.roles) == ("user:alice", frozenset({"client"}))


def test_a_person_loses_one_token_or_all_and_can_be_forgotten(home: Home) -> None:
    load_or_create(home)
    for name in ("alice", "alice", "bob"):
        people.invite(home, name, NOW, NOW + timedelta(days=1))
    first = people.tokens_of_people(home)[0]
    assert people.revoke(home, "alice", NOW, token_id=first.id) == 1
    good = [each.is_good(NOW) for each in people.tokens_of_people(home)]
    assert good == [False, True, True]
    assert people.revoke(home, "alice", NOW) == 1
    assert people.revoke(home, "alice", NOW) == 0
    assert people.revoke(home, "alice", NOW, forget=True) == 0
    assert {each.person for each in people.tokens_of_people(home)} == {"bob"}
    assert "alice" not in home.tokens_file.read_text()
    with pytest.raises(NotFound, match="alice has no token"):
        people.revoke(home, "alice", NOW)
    assert not people.tokens_of_people(home)[0].is_good(NOW + timedelta(days=1))
    # The yard's own are nobody's to revoke here.
    assert len(json.loads(home.tokens_file.read_text())["tokens"]) == 4


@pytest.mark.parametrize("name", ["", "a b", "-x", "user:x", "é", "a" * 65])
def test_a_person_has_a_name_that_events_can_carry(home: Home, name: str) -> None:
    load_or_create(home)
    with pytest.raises(InvalidInput, match="cannot name a person"):
        people.invite(home, name, NOW, NOW)


def test_a_folder_that_joined_another_yard_gets_none_of_its_own(home: Home) -> None:
    save_context(Context(dict.fromkeys(SERVICES, "yard.example:7443"), "secret", "PEM"), home.folder)
    with pytest.raises(Rejected, match=r"yard\.example:7443") as refused:
        load_or_create(home)
    assert refused.value.code == "ENTERED_ANOTHER_YARD"
    assert not home.credentials_file.exists()


def test_the_services_know_tokens_by_their_hashes(home: Home) -> None:
    credentials = load_or_create(home)
    tokens = json.loads(home.tokens_file.read_text())["tokens"]
    assert {(token["sha256"], tuple(token["roles"])) for token in tokens} == {
        (hashlib.sha256(token.encode()).hexdigest(), (role,))
        for token, role in (
            (credentials.client_token, "client"),
            (credentials.agent_token, "agent"),
            (credentials.service_token, "service"),
        )
    }
    assert credentials.client_token not in home.tokens_file.read_text()


def test_ports_are_kept_from_start_to_start(home: Home) -> None:
    first = settle_ports(home, {})
    assert set(first) == set(WITH_PORT)
    assert settle_ports(home, {}) == first


def test_a_port_that_somebody_else_took_meanwhile_is_replaced(home: Home) -> None:
    first = settle_ports(home, {})
    with socket.create_server(("127.0.0.1", first["cost"])):
        second = settle_ports(home, {})
    assert second["cost"] != first["cost"]
    assert {name: port for name, port in second.items() if name != "cost"} == {
        name: port for name, port in first.items() if name != "cost"
    }


def test_a_fixed_port_in_use_is_named(home: Home, listener: int) -> None:
    with pytest.raises(PortInUse, match=rf"scheduler cannot listen on 127\.0\.0\.1:{listener}"):
        settle_ports(home, {"scheduler": listener})


def test_a_fixed_port_of_the_gate_that_cannot_be_had_is_said_and_not_kept(home: Home) -> None:
    kept = settle_ports(home, {})
    elsewhere = "192.0.2.1"  # set aside for documentation: no machine has it
    with pytest.raises(EngineFailed, match=r"^gate cannot listen on 192\.0\.2\.1:7443: cannot assign"):
        settle_ports(home, {"gate": 7443}, with_gate=True, gate_host=elsewhere)
    assert not had_gate(home)
    assert settle_ports(home, {}) == kept


def test_the_gate_may_have_a_port_that_is_taken_elsewhere_on_the_machine(home: Home, listener: int) -> None:
    assert settle_ports(home, {"gate": listener}, with_gate=True, gate_host="127.0.0.2")["gate"] == listener
    with pytest.raises(PortInUse, match=rf"gate cannot listen on 0\.0\.0\.0:{listener}: the port is in use"):
        settle_ports(home, {"gate": listener}, with_gate=True, gate_host="0.0.0.0")


def test_only_one_supervisor_gets_the_lock(home: Home) -> None:
    lock = home.lock()
    assert lock is not None
    assert home.lock() is None
    lock.release()
    again = home.lock()
    assert again is not None
    again.release()


def test_the_state_is_read_as_it_was_written(home: Home) -> None:
    assert read_state(home) is None
    supervisor = ProcessState(
        "supervisor", "1", None, pid=os.getpid(), started_ticks=started_ticks(os.getpid())
    )
    cost = ProcessState("cost", "1", 7001, Phase.FAILED, restarts=3, detail="ended")
    state = YardState(supervisor).with_process(cost)
    write_state(home, state)
    assert read_state(home) == state
    assert state.is_alive
    assert not replace(state, supervisor=replace(supervisor, started_ticks=1)).is_alive


def test_external_engines_replace_the_embedded_ones(home: Home, tmp_path: Path) -> None:
    passwords = tmp_path / "nats.json"
    passwords.write_text(json.dumps({"relay": "r", "metrics": "m"}))
    settings = YardSettings.from_environment(
        {
            "RUNYARD_EXTERNAL_DATABASE_URL": "postgresql://admin:x@db.example:5433/yard?sslmode=require",
            "RUNYARD_EXTERNAL_NATS_URL": "nats://bus.example:4222",
            "RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE": str(passwords),
            "RUNYARD_EXTERNAL_S3_ENDPOINT": "https://s3.example",
            "RUNYARD_EXTERNAL_S3_ACCESS_KEY": "key",
            "RUNYARD_EXTERNAL_S3_SECRET_KEY": "secret",
        }
    )
    credentials = load_or_create(home)
    plan = make_plan(home, settings, credentials, settle_ports(home, {}))
    assert plan.engines == ()
    assert plan.addresses.store == ExternalStore(
        "https://s3.example", "us-east-1", "artifacts", "key", "secret"
    )
    reader = role_url(
        plan.addresses, replace(credentials, role_passwords={"runyard_reader": "a/b"}), "runyard_reader"
    )
    assert reader == "postgresql://runyard_reader:a%2Fb@db.example:5433/yard?sslmode=require"


def test_without_settings_everything_is_embedded(home: Home) -> None:
    plan = make_plan(home, YardSettings.from_environment({}), load_or_create(home), settle_ports(home, {}))
    assert [member.engine.name for member in plan.engines] == ["postgres", "nats", "store"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RUNYARD_EXTERNAL_S3_ENDPOINT": "http://x"}, "RUNYARD_EXTERNAL_S3_ACCESS_KEY is not set"),
        ({"RUNYARD_EXTERNAL_NATS_URL": "nats://x"}, "RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE is not set"),
        ({"RUNYARD_PORT_SCHEDULER": "80x"}, "RUNYARD_PORT_SCHEDULER='80x' is not a port"),
        ({"RUNYARD_PORT_SCHEDULER": "65536"}, "is not a port"),
        (
            {
                "RUNYARD_EXTERNAL_NATS_URL": "nats://x",
                "RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE": "/nowhere.json",
            },
            "RUNYARD_EXTERNAL_NATS_PASSWORDS_FILE cannot be read",
        ),
    ],
)
def test_a_wrong_setting_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        YardSettings.from_environment(environment)


def test_children_do_not_inherit_the_credentials_of_external_engines() -> None:
    environment = {"RUNYARD_EXTERNAL_S3_SECRET_KEY": "x", "RUNYARD_LOG_LEVEL": "INFO", "PATH": "/bin"}
    forget_secrets(environment)
    assert environment == {"RUNYARD_LOG_LEVEL": "INFO", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("listen", "known_as", "address"),
    [
        ("10.0.0.5", "", "10.0.0.5:4711"),
        ("10.0.0.5", "yard.example", "yard.example:4711"),
        ("0.0.0.0", "yard.example:443", "yard.example:443"),
        ("fe80::1", "", "[fe80::1]:4711"),
        ("[fe80::1]:7443", "", "[fe80::1]:4711"),
    ],
)
def test_the_gate_is_known_by_the_name_that_was_given(listen: str, known_as: str, address: str) -> None:
    environment = {"RUNYARD_GATE_LISTEN": listen, "RUNYARD_GATE_ADDRESS": known_as}
    gate = YardSettings.from_environment(environment).gate
    assert gate is not None
    assert gate.address(4711) == address


def test_the_port_of_the_gate_is_the_one_named_or_the_one_it_had(home: Home) -> None:
    named = YardSettings.from_environment({"RUNYARD_GATE_LISTEN": "127.0.0.1:7443"})
    assert named.ports == {"gate": 7443}
    kept = settle_ports(home, {}, with_gate=True)["gate"]
    assert "gate" not in settle_ports(home, {})
    assert settle_ports(home, {}, with_gate=True)["gate"] == kept


def test_a_gate_listens_on_an_address_not_on_a_name() -> None:
    with pytest.raises(InvalidInput, match="want an address"):
        YardSettings.from_environment({"RUNYARD_GATE_LISTEN": "yard.example:7443"})


def test_a_setting_that_cannot_be_is_told_to_whoever_starts_in_the_background(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNYARD_HOME", str(home.folder))
    monkeypatch.setenv("RUNYARD_PORT_SCHEDULER", "abc")
    reading, writing = os.pipe()
    assert supervisor_main(writing) == 1
    with os.fdopen(reading, encoding="utf-8") as reports:
        told = json.load(reports)["error"]
    assert told["code"] == "BAD_SETTING"
    assert "RUNYARD_PORT_SCHEDULER='abc' is not a port" in told["message"]


def test_an_attempt_is_named_as_its_run_or_as_its_folder_where_nothing_says_so(tmp_path: Path) -> None:
    attempt = RunningAttempt(ProcessIdentity(1, 1), tmp_path / "0195-1" / "state")
    assert attempt.run_name() == "0195-1"
    record = tmp_path / "0195-1" / "record"
    record.mkdir(parents=True)
    (record / "grant.pb").write_bytes(LeaseGrant(project="digits", number=12).SerializeToString())
    assert attempt.run_name() == "digits#12"
    (record / "grant.pb").write_bytes(b"\xff")
    assert attempt.run_name() == "0195-1"
