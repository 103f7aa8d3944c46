"""A person is erased from a running yard: the name is nowhere, and nothing else of the log has changed."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.artifact.v1.artifact_service_pb2 import GetArtifactRequest
from runyard.event.v1.read_pb2 import AsOf
from runyard.history.v1.history_service_pb2 import (
    ErasePersonRequest,
    ErasePersonResponse,
    EventFilter,
    ExplainRunRequest,
    GetStateAsOfRequest,
    ListEventsRequest,
    ReadTimelineRequest,
    Subject,
)
from runyard.lineage.v1.lineage_service_pb2 import TraceRequest
from runyard.record.v1.record_service_pb2 import GetRecordRequest
from runyard.run.v1.scheduler_service_pb2 import GetRunRequest
from runyard_contracts.ids import uuid7
from tests.e2e.searching import places_with
from tests.e2e.yard import TINY, Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

NAME = "quetzalcoatl"
MAIL = "xochipilli@example.com"
AUTHOR = f"Xochi Pilli <{MAIL}>"
NEVER = (NAME, MAIL, "Xochi Pilli")


@pytest.fixture
def persons_yard(yard: Yard, tmp_path: Path) -> Iterator[Yard]:
    """The same yard as a person of our own sees it."""
    token = secrets.token_urlsafe(16)
    tokens_file = yard.home / "tokens.json"
    before = tokens_file.read_text()
    tokens = json.loads(before)
    entry = {
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
        "actor": f"user:{NAME}",
        "roles": ["client"],
    }
    tokens["tokens"].append(entry)
    tokens_file.write_text(json.dumps(tokens))
    home = tmp_path / "home"
    home.mkdir()
    (home / "context.json").write_text(json.dumps({**yard.context, "token": token}))
    yield Yard(home)
    tokens_file.write_text(before)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose one commit the other person wrote."""
    folder = tmp_path / "project"
    folder.mkdir()
    for file in TINY.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    for words in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x", f"--author={AUTHOR}"),
    ):
        subprocess.run(("git", *words), cwd=folder, check=True)
    return folder


async def test_an_erased_person_is_erased_everywhere_and_the_log_unchanged(
    yard: Yard, persons_yard: Yard, project: Path, clients: Clients, tmp_path: Path
) -> None:
    queued = persons_yard.cli("run", "count", "--output", "json", folder=project).stdout
    run_id = json.loads(queued)["run"]["run_id"]
    record = await clients.complete_record(run_id)
    (tmp_path / "pushed").write_text(f"{uuid7()}\n")
    pushed = persons_yard.cli("put", str(tmp_path / "pushed")).stdout.strip()
    at = record.run.position

    before = await _answers(clients, run_id, at, pushed)
    assert all(NAME in answer for answer in before)
    assert AUTHOR in before[0]
    tail = ("history", "tail", "--actor", f"user:{NAME}", "--type", "runyard.run.queued")
    assert f"user:{NAME}" in yard.cli(*tail, "--direct").stdout
    persons_yard.cli("history", "export", str(tmp_path / "before"), "--to", str(at))
    found = await places_with([run_id], yard)
    assert any(place.startswith("log.domain_event") for place in found)
    assert any("/data/postgres/" in place for place in found)
    assert await places_with(NEVER, yard, tmp_path / "before") == []

    assert "erased; " in yard.cli("history", "erase", f"user:{NAME}", "--yes").stdout
    assert "erased; " in yard.cli("history", "erase", MAIL.upper(), "--yes").stdout
    again = ErasePersonRequest(request_id=uuid7(), person=f"user:{NAME}")
    assert await clients.history.ErasePerson(again, timeout=20) == ErasePersonResponse()

    after = await _answers(clients, run_id, at, pushed)
    assert after == [answer.replace(NAME, "[erased]").replace(AUTHOR, "[erased]") for answer in before]
    assert "by [erased]" in yard.cli("show", run_id).stdout
    assert yard.cli(*tail, "--direct").stdout == ""
    erasures = EventFilter(types=["runyard.log.person_erased"])
    said = (await clients.history.ListEvents(ListEventsRequest(filter=erasures), timeout=20)).events
    assert len(said) == 2
    yard.cli("history", "export", str(tmp_path / "after"), "--to", str(at))
    for lane in ("domain.jsonl", "telemetry.jsonl"):
        old, new = ((tmp_path / folder / lane).read_bytes() for folder in ("before", "after"))
        assert new.startswith(old)
    assert await places_with(NEVER, yard, tmp_path / "after") == []


async def _answers(clients: Clients, run_id: str, position: int, pushed: str) -> list[str]:
    """Ask every service about a run and a file, as text."""
    at, of = AsOf(position=position), Subject(name=run_id)
    events = ListEventsRequest(filter=EventFilter(correlation_id=run_id), to_position=position)
    timeline = clients.history.ReadTimeline(ReadTimelineRequest(subject=of, end=AsOf(position=position)))
    answers: list[object] = [
        await clients.scheduler.GetRun(GetRunRequest(name=run_id), timeout=20),
        await clients.records.GetRecord(GetRecordRequest(name=run_id), timeout=20),
        await clients.lineage.Trace(TraceRequest(name=run_id), timeout=20),
        await clients.artifacts.GetArtifact(GetArtifactRequest(name=pushed), timeout=20),
        await clients.history.ListEvents(events, timeout=20),
        await clients.history.ExplainRun(ExplainRunRequest(name=run_id, as_of=at), timeout=20),
        await clients.history.GetStateAsOf(GetStateAsOfRequest(subject=of, as_of=at), timeout=20),
        [entry async for entry in timeline],
    ]
    return [re.sub(r"\bdata: .*\n|\bposition: .*\n", "", str(answer)) for answer in answers]
