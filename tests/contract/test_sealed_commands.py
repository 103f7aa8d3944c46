"""``runyard history verify, proof, check-proof, detach`` on a real log, with no service up."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard_cli import output
from runyard_cli.main import main
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.stored_columns import StoredColumns
from runyard_testkit import Database
from tests.contract.archive_yard import ArchiveYard, fill_domain, fill_telemetry, opened
from tests.contract.events import DOMAIN, TELEMETRY

pytestmark = pytest.mark.engines

Answer = tuple[int, str, str]


@pytest.fixture
async def yard(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ArchiveYard]:
    """Two partitions of domain events, and one and a half of telemetry, sealed; nothing else is up."""
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path))
    monkeypatch.setenv("RUNYARD_READER_DATABASE_URL", database.url("reader"))
    monkeypatch.setenv("RUNYARD_ADMIN_DATABASE_URL", database.admin_url)
    monkeypatch.setenv("RUNYARD_ARCHIVE_URL", str(tmp_path / "archive"))
    async with opened(database, tmp_path) as made:
        await fill_domain(made, 30)
        await fill_telemetry(made, 30)
        await fill_domain(made, 14)
        await made.seal()
        await made.seal(TELEMETRY)
        yield made


async def history(*arguments: str) -> Answer:
    """Give exit code, standard output and standard error of ``runyard history ...``."""
    return await asyncio.to_thread(_run, arguments)


def _run(arguments: tuple[str, ...]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    output._Mode.is_json = False
    before, sys.argv = sys.argv, ["runyard", "history", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
        output._Mode.is_json = False


async def whole_log(yard: ArchiveYard) -> list[list[StoredColumns]]:
    return [await yard.stored.columns(lane, 1, 1_000) for lane in (DOMAIN, TELEMETRY)]


async def test_a_sealed_log_is_sound_and_its_events_are_proven_to_anybody(
    yard: ArchiveYard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, err = await history("verify")
    assert code == 0, text + err
    assert "recomputed 49 events from the archive, 49 from the database" in text
    assert "SOUND: 77 events" in text
    code, text, err = await history(
        "verify", "--archive-only", "--from", "9", "--to", "10", "--output", "json"
    )
    report = json.loads(text)
    assert (code, report["sound"], report["event_count"]) == (0, True, 7), err
    event_id = str((await yard.stored.read(DOMAIN, 10, 10))[0].event_id)
    code, proof, err = await history("proof", event_id[:-1])
    assert code == 0, err
    # Somebody else has the file and the key, and nothing more.
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "proof.json").write_text(proof)
    (stranger / "yard.pub").write_bytes(yard.key.public.pem)
    for name in ("RUNYARD_READER_DATABASE_URL", "RUNYARD_ADMIN_DATABASE_URL", "RUNYARD_ARCHIVE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNYARD_HOME", str(stranger))
    code, text, err = await history(
        "check-proof", str(stranger / "proof.json"), "--public-key", str(stranger / "yard.pub")
    )
    assert code == 0, err
    assert f"event id        {event_id}" in text


async def test_what_somebody_changed_is_named(yard: ArchiveYard, tmp_path: Path) -> None:
    async with yard.admin.acquire() as connection, connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("update log.domain_event set recorded_at = 'infinity' where position = 11")
        await connection.execute("delete from log.telemetry_event where position = 3")
    code, text, _ = await history("verify")
    assert code == 1
    assert "CHANGED: lane domain segment 2 position 11" in text
    assert "DROPPED: lane telemetry segment 1 position 3" in text
    code, text, _ = await history("verify", "--archive-only", "--output", "json")
    assert code == 0, text
    code, text, _ = await history("verify", "--lane", "telemetry", "--output", "json")
    assert [one["position"] for one in json.loads(text)["findings"]] == [3]


def truncate(archive: Path) -> None:
    victim = sorted((archive / "domain").glob("*.parquet"))[2]
    victim.write_bytes(victim.read_bytes()[:500])


def flip_a_bit(archive: Path) -> None:
    victim = sorted((archive / "domain").glob("*.parquet"))[1]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def put_another_manifest(archive: Path) -> None:
    first, second, *_ = sorted((archive / "domain").glob("*.json"))
    second.write_bytes(first.read_bytes())


def lose_a_segment(archive: Path) -> None:
    for victim in (archive / "domain").glob("00000004-*"):
        victim.unlink()


async def test_a_damaged_archive_is_told_and_the_log_left_alone(yard: ArchiveYard, tmp_path: Path) -> None:
    before = await whole_log(yard)
    for damage, finding in (
        (truncate, "CORRUPT FILE: lane domain segment 3"),
        (flip_a_bit, "lane domain segment 2"),
        (put_another_manifest, "BAD MANIFEST: lane domain segment 2"),
        (lose_a_segment, "MISSING SEGMENT: lane domain segment 4"),
    ):
        copy = tmp_path / damage.__name__
        shutil.copytree(tmp_path / "archive", copy)
        damage(copy)
        code, text, err = await history("verify", "--archive", str(copy))
        assert (code, finding in text) == (1, True), text + err
    SigningKey.load_or_create(tmp_path / "foreign.key")
    code, text, err = await history("verify", "--public-key", str(tmp_path / "foreign.key.pub"))
    assert (code, "FOREIGN KEY: lane domain segments 1 to " in text) == (1, True), text + err
    assert text.count("FOREIGN KEY: lane domain") == 1
    assert await whole_log(yard) == before


async def test_wrong_input_has_its_exit_code_and_leaves_the_log_alone(
    yard: ArchiveYard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await whole_log(yard)
    ids = [str(row.event_id) for row in await yard.stored.read(DOMAIN, 1, 50)]
    (tmp_path / "text").write_text("no key, no proof")
    public = str(tmp_path / "segment.key.pub")
    text = str(tmp_path / "text")
    for arguments, exit_code, reason in (
        (("verify", "--from", "2100-01-01"), 3, "TIME_AHEAD"),
        (("verify", "--archive-only", "--from", "2100-01-01"), 3, "TIME_AHEAD"),
        (("verify", "--from", "2001-01-01"), 3, "BEFORE_FIRST_EVENT"),
        (("verify", "--to", "9999"), 3, "POSITION_AHEAD"),
        (("verify", "--archive-only", "--to", "9999"), 3, "POSITION_AHEAD"),
        (("verify", "--from", "now"), 3, "NOTHING_SEALED"),
        (("verify", "--from", "9", "--to", "4"), 2, "BAD_SPAN"),
        (("verify", "--archive-only", "--from", "9", "--to", "4"), 2, "BAD_SPAN"),
        (("verify", "--public-key", text), 2, "BAD_KEY_FILE"),
        (("verify", "--public-key", str(tmp_path / "none")), 2, "BAD_KEY_FILE"),
        (("verify", "--archive", str(tmp_path / "none")), 3, "ARCHIVE_UNKNOWN"),
        (("verify", "--archive", "s3+http://host/bucket"), 2, "BAD_ARCHIVE_URL"),
        (("verify", "--archive", "s3+http://k:s@127.0.0.1:9/bucket"), 4, "ARCHIVE_UNAVAILABLE"),
        (("proof", "01234567-89ab-7cde-8f01-23456789abcd"), 3, "EVENT_NOT_FOUND"),
        (("proof", ids[0][:8]), 3, "AMBIGUOUS_EVENT_ID"),
        (("proof", ids[0][:7]), 2, "BAD_EVENT_ID"),
        (("proof", ids[-1]), 3, "NOT_SEALED"),
        (("check-proof", text, "--public-key", public), 1, "BAD_PROOF"),
        (("check-proof", text, "--public-key", text), 2, "BAD_KEY_FILE"),
        (("check-proof", str(tmp_path / "none"), "--public-key", public), 2, "WRONG_USAGE"),
        (("detach", "--before", "2100-01-01"), 3, "TIME_AHEAD"),
        (("detach", "--before", "5", "--yes"), 3, "NOTHING_TO_DETACH"),
    ):
        code, out, err = await history(*arguments)
        assert (code, reason in err, out) == (exit_code, True, ""), (arguments, code, out, err)
        assert "k:s@" not in err
    monkeypatch.setenv("RUNYARD_READER_DATABASE_URL", "postgresql://runyard_reader:x@127.0.0.1:9/none")
    code, _, err = await history("verify")
    assert (code, "LOG_UNREACHABLE" in err) == (4, True), err
    assert await whole_log(yard) == before


async def test_detached_partitions_are_read_from_the_archive_or_refused(
    yard: ArchiveYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = await yard.stored.read(DOMAIN, 2, 2)
    questions = (
        ("tail", "-n", "1000", "--to", "42", "--output", "json"),
        ("tail", "-n", "1000", "--telemetry", "--to", "28", "--output", "json"),
        ("tail", "-n", "1000", "--stream", row.stream, "--output", "json"),
        ("effects", str(row.event_id), "--output", "json"),
        ("as-of", "12", "queue", "--output", "json"),
    )
    whole = [await history(*question) for question in questions]
    assert [code for code, _, _ in whole] == [0] * len(whole), whole
    code, text, _ = await history("detach", "--before", "44")
    assert (code, text.count("would detach")) == (0, 3), text
    assert await yard.stored.first_position(DOMAIN) == 1
    code, text, err = await history("detach", "--before", "44", "--yes")
    assert code == 0, err
    assert "detached log.domain_event_000000000021: positions 21 to 40" in text
    assert await yard.stored.first_position(DOMAIN) == 41
    assert await yard.stored.first_position(TELEMETRY) == 21
    assert [await history(*question) for question in questions] == whole
    assert (await history("verify"))[0] == 0
    monkeypatch.delenv("RUNYARD_ARCHIVE_URL")
    for question in questions:
        code, out, err = await history(*question)
        assert (code, "ARCHIVE_NOT_CONFIGURED" in err) == (3, True), (question, out, err)


async def test_a_log_that_is_not_sound_is_not_detached(yard: ArchiveYard, tmp_path: Path) -> None:
    truncate(tmp_path / "archive")
    code, _, err = await history("detach", "--before", "44", "--lane", "domain", "--yes")
    assert (code, "LOG_NOT_SOUND" in err) == (3, True), err
    assert await yard.stored.first_position(DOMAIN) == 1
