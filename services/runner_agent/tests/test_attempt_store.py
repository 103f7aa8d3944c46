"""What the agent wrote down before it died is what its next life finds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runyard.agent.v1.agent_service_pb2 import (
    AttemptExited,
    AttemptFinished,
    AttemptStarted,
    InputFetched,
    LeaseGrant,
    RegistryLogin,
)
from runyard.run.v1.types_pb2 import Cause, CauseCode, Environment, Executor, Hardware, InputFile
from runyard_agent import attempt_store
from runyard_agent.attempt_store import AttemptRecord, AttemptStore
from runyard_agent.domain.attempt import AttemptState, begun, launched
from runyard_agent.runtime import Handle
from runyard_contracts.ids import deterministic_id
from runyard_core.errors import Corrupt

GRANT = LeaseGrant(run_id="0199-run", attempt=2, epoch=5, lease_id="lease-1", project="p")
AT = datetime(2026, 1, 1, tzinfo=UTC)


def create(directory: Path) -> AttemptRecord:
    return AttemptStore(directory).create(GRANT, AttemptState())


def found_again(directory: Path) -> AttemptRecord:
    (record,) = AttemptStore(directory).load()
    return record


def test_held_attempt_is_found_again(tmp_path: Path) -> None:
    record = create(tmp_path)
    record.save(begun(record.state, Executor.EXECUTOR_PROCESS, "boot-1"))

    again = found_again(tmp_path)

    assert (again.grant, again.state) == (GRANT, record.state)
    assert (again.held.run_id, again.held.attempt, again.held.epoch) == ("0199-run", 2, 5)


def test_reports_wait_in_order_until_acknowledged(tmp_path: Path) -> None:
    record = create(tmp_path)
    record.report(AttemptFinished(), AT)
    record.report(AttemptExited(), AT)
    record.report(Environment(os="x"), AT)
    record.report(AttemptStarted(), AT)

    pending = list(found_again(tmp_path).pending_reports())

    facts = [report.WhichOneof("fact") for report in pending]
    assert facts == ["environment_captured", "started", "exited", "finished"]
    assert len({report.report_id for report in pending}) == 4
    assert record.acknowledge(pending[1].report_id)
    assert list(found_again(tmp_path).pending_reports()) == [pending[0], *pending[2:]]


def test_report_that_is_acknowledged_while_others_are_sent_is_passed_over(tmp_path: Path) -> None:
    record = create(tmp_path)
    for number in range(3):
        record.report_status(f"epoch {number}", AT)
    record.report_fetched(InputFetched(input="set"), AT)
    sending = record.pending_reports()
    next(sending)
    status, fetched = list(record.pending_reports())[1::2]

    # They were sent before: reports go in the order of their names, which is not that of their making.
    assert record.acknowledge(status.report_id)
    assert record.acknowledge(fetched.report_id)
    assert [report.status_detail for report in sending] == ["epoch 2"]


def test_acknowledgement_costs_no_more_after_many_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create(tmp_path)
    for number in range(50):
        record.report_fetched(InputFetched(input="set", file=InputFile(path=f"{number}")), AT)
    *others, last = [report.report_id for report in record.pending_reports()]
    for report_id in others:
        assert record.acknowledge(report_id)
    hashed: list[object] = []

    def counted(*parts: str | int) -> str:
        hashed.append(parts)
        return deterministic_id(*parts)

    monkeypatch.setattr(attempt_store, "deterministic_id", counted)
    assert record.acknowledge(last)
    assert len(hashed) < 10
    assert not list(record.pending_reports())


def test_report_is_made_once_also_after_its_acknowledgement(tmp_path: Path) -> None:
    record = create(tmp_path)
    assert record.report(Cause(code=CauseCode.CAUSE_CODE_INPUT_UNAVAILABLE), AT)
    (report,) = record.pending_reports()

    assert not record.report(Cause(code=CauseCode.CAUSE_CODE_IMAGE_UNAVAILABLE), AT)
    record.acknowledge(report.report_id)
    assert not found_again(tmp_path).report(Cause(), AT)
    assert list(record.pending_reports()) == []


def test_report_ids_are_the_same_in_every_life(tmp_path: Path) -> None:
    ids = []
    for life in ("a", "b"):
        record = create(tmp_path / life)
        record.report(AttemptExited(), AT)
        ids += [report.report_id for report in record.pending_reports()]

    assert ids[0] == ids[1]


def test_login_of_a_registry_is_never_on_the_disk_and_comes_again(tmp_path: Path) -> None:
    grant = LeaseGrant()
    grant.CopyFrom(GRANT)
    grant.registry_login.CopyFrom(RegistryLogin(registry="ghcr.io", username="alice", password="plugh"))
    record = AttemptStore(tmp_path).create(grant, AttemptState())
    assert record.grant.registry_login.password == "plugh"
    assert not record.held.lacks_login
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"ghcr.io" in kept
    assert b"alice" not in kept
    assert b"plugh" not in kept

    again = found_again(tmp_path)
    assert again.lacks_login
    asyncio.run(take_while_waiting(again, grant))
    assert not again.held.lacks_login
    assert again.grant.registry_login.username == "alice"

    removed = found_again(tmp_path)
    asyncio.run(take_while_waiting(removed, GRANT))
    assert not removed.grant.HasField("registry_login")
    removed.save(launched(removed.state, Handle("process", "1")))
    assert not found_again(tmp_path).held.lacks_login


async def take_while_waiting(record: AttemptRecord, grant: LeaseGrant) -> None:
    waiting = asyncio.create_task(record.wait_for_login())
    await asyncio.sleep(0)
    assert not waiting.done()
    record.take_login(grant)
    await waiting


def test_acknowledgement_of_another_attempt_is_not_taken(tmp_path: Path) -> None:
    assert not create(tmp_path).acknowledge("somebody else's")


def test_attempt_is_over_when_its_last_report_is_acknowledged(tmp_path: Path) -> None:
    record = create(tmp_path)
    record.report(AttemptExited(), AT)
    record.report(AttemptFinished(), AT)
    exited, finished = record.pending_reports()

    record.acknowledge(exited.report_id)
    assert not record.is_over
    record.acknowledge(finished.report_id)
    assert found_again(tmp_path).is_over


def test_prepared_start_survives(tmp_path: Path) -> None:
    started = AttemptStarted(hardware=Hardware(node_id="node-1"))
    create(tmp_path).save_prepared(started)

    assert found_again(tmp_path).load_prepared() == started


def test_half_made_and_half_removed_folders_are_swept(tmp_path: Path) -> None:
    record = create(tmp_path)
    (tmp_path / ".making-x" / "record").mkdir(parents=True)
    (tmp_path / ".removed-y").mkdir()

    assert len(AttemptStore(tmp_path).load()) == 1
    for _ in record.removing():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{}", '{"phase": "unheard of"}'])
def test_unreadable_attempt_is_named_and_never_started_again(tmp_path: Path, content: str) -> None:
    record = create(tmp_path)
    (record.directory / "record" / "state.json").write_text(content, encoding="utf-8")

    with pytest.raises(Corrupt, match=str(record.directory)):
        AttemptStore(tmp_path).load()


def test_grant_can_be_taken_after_a_try_that_was_cut_short(tmp_path: Path) -> None:
    store = AttemptStore(tmp_path)
    (tmp_path / ".making-0199-run-2").mkdir()

    assert store.create(GRANT, AttemptState()).directory.name == "0199-run-2"
