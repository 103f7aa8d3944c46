"""The process that seals: what it leaves behind, and what its end tells the service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runyard.event.v1.envelope_pb2 import Lane
from runyard.history.v1.events_pb2 import LogSegmentSealed
from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.ids import uuid7
from runyard_core.errors import Corrupt, Unavailable
from runyard_eventlog.archive import Archive
from runyard_eventlog.archive_store import FolderStore
from runyard_eventlog.postgres import PostgresEventLog
from runyard_eventlog.signing import SigningKey
from runyard_eventlog.verification import verify
from runyard_lineage.sealing_process import seal_apart
from runyard_lineage.settings import LineageSettings
from runyard_testkit import Database

from .yard import NOBODY, append

DOMAIN = Lane.LANE_DOMAIN


@pytest.fixture
def key(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SigningKey:
    """The settings of a service that seals every 3 events, in the environment."""
    made = SigningKey.load_or_create(tmp_path / "segment.key")
    for name, value in {
        "TOKENS_FILE": str(tmp_path / "tokens.json"),
        "DATABASE_URL": database.url("lineage"),
        "ARCHIVE_URL": str(tmp_path / "archive"),
        "SEGMENT_KEY_FILE": str(tmp_path / "segment.key"),
        "SEALING_EVENTS_MAX": "3",
        "SERVICE_TOKEN": "unused",
        **dict.fromkeys(("SCHEDULER_ADDRESS", "ARTIFACT_ADDRESS", "METRICS_ADDRESS", "COST_ADDRESS"), NOBODY),
    }.items():
        monkeypatch.setenv(f"RUNYARD_{name}", value)
    return made


async def happen(database: Database, count: int) -> None:
    run_id = uuid7()
    messages = [
        RunStatusDetailSet(run_id=run_id, attempt=1, status_detail=str(number)) for number in range(count)
    ]
    await append(database, messages)


@pytest.mark.engines
async def test_a_full_segment_is_sealed_and_the_log_says_so(
    database: Database, tmp_path: Path, key: SigningKey
) -> None:
    await happen(database, 4)
    await seal_apart(DOMAIN)
    async with await PostgresEventLog.connect(database.url("reader")) as log:
        events = (await log.read(DOMAIN)).events
        report = await verify(Archive(FolderStore(tmp_path / "archive")), [key.public], log=log)
    assert isinstance(events[-1].message, LogSegmentSealed)
    assert len(events) == 5
    assert (report.is_sound, report.lanes[0].archived_count) == (True, 3)


@pytest.mark.engines
async def test_the_service_hears_whether_to_try_again(
    database: Database, tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    await happen(database, 4)
    foreign = tmp_path / "archive" / "domain" / "00000001-000000000001-000000000009.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({}))
    with pytest.raises(Corrupt):
        await seal_apart(DOMAIN)
    monkeypatch.setenv("RUNYARD_SEGMENT_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(Unavailable):
        await seal_apart(DOMAIN)


def test_a_service_seals_only_with_a_key_and_an_archive(tmp_path: Path) -> None:
    names = ("scheduler_address", "artifact_address", "metrics_address", "cost_address")
    given = {"tokens_file": tmp_path, "service_token": "unused", **dict.fromkeys(names, NOBODY)}
    both = {"segment_key_file": tmp_path / "key", "archive_url": "/archive"}
    assert LineageSettings.model_validate({**given, **both}).seals
    for missing in both:
        some = {name: value for name, value in both.items() if name != missing}
        assert not LineageSettings.model_validate({**given, **some}).seals
    for wrong in ({"sealing_events_max": 0}, {"sealing_age_seconds_max": 0}, {"sealing_look_seconds": 0}):
        with pytest.raises(ValueError, match="greater than"):
            LineageSettings.model_validate({**given, **wrong})
