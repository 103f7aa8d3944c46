"""A running yard's log is sealed, verified without its services, proven, and open to a query."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, timedelta
from pathlib import Path

import duckdb
import pytest

from runyard.history.v1.history_service_pb2 import EventFilter, ListEventsRequest
from runyard.run.v1.types_pb2 import Executor, Run, RunSpec
from runyard_eventlog.archive_store import open_store
from runyard_replay.direct import archive_url
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "query-the-archive.md"


async def _finished(clients: Clients) -> Run:
    spec = RunSpec(step="x", command_lines=["echo hello"], executor=Executor.EXECUTOR_PROCESS)
    run = await clients.submit(spec, "sealing")
    return (await clients.complete_record(run.run_id)).run


def _seal(yard: Yard) -> None:
    """Seal every event, telemetry first, with the settings that the yard gave its lineage service."""
    pid = json.loads((yard.home / "yard.json").read_text())["processes"]["lineage"]["pid"]
    given = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    environment = dict(line.split("=", 1) for line in given if line)
    environment |= {"RUNYARD_SEALING_AGE_SECONDS_MAX": "0.001", "RUNYARD_SEALING_EVENTS_MAX": "40"}
    for lane in ("telemetry", "domain"):
        command = [sys.executable, "-m", "runyard_lineage.sealing_process", lane]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


async def _copy(url: str, folder: Path) -> None:
    store = open_store(url)
    try:
        for key in await store.list(""):
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(await store.get(key) or b"")
    finally:
        store.close()


async def test_a_yards_log_is_sealed_verified_proven_and_queried(
    yard: Yard, clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await _finished(clients)
    await asyncio.to_thread(_seal, yard)
    report = json.loads(yard.cli("history", "verify", "--output", "json").stdout)
    assert report["sound"], report["findings"]
    for lane in report["lanes"]:
        assert lane["sealed_to"] >= 1
        assert lane["archived_count"] == lane["database_count"] == lane["sealed_to"]
    request = ListEventsRequest(filter=EventFilter(stream=f"run-{run.run_id}"), page_size=1_000)
    answer = await clients.history.ListEvents(request, timeout=20)
    events = [view.envelope for view in answer.events]
    proof = yard.cli("history", "proof", events[0].event_id).stdout
    assert proof == yard.cli("history", "proof", str(events[0].position)).stdout
    (tmp_path / "proof.json").write_text(proof)
    key = str(yard.home / "segment.key.pub")
    nowhere = Yard(tmp_path / "home")
    proven = nowhere.cli("history", "check-proof", str(tmp_path / "proof.json"), "--public-key", key)
    assert events[0].event_id in proven.stdout
    assert (yard.home / "segment.key").stat().st_mode & 0o777 == 0o600

    await _copy(archive_url(yard.home, os.environ), tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    happened, effects, around = (
        query.rstrip(";\n") for query in re.findall(r"```sql\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    )
    with duckdb.connect() as database:
        happened = happened.replace("run-s0", f"run-{run.run_id}")
        rows = database.execute(f"SELECT position, type FROM ({happened})").fetchall()
        assert rows == [(one.position, one.type) for one in events]
        effects = effects.replace("position = 1\n", f"position = {events[0].position}\n")
        found = database.execute(f"SELECT type FROM ({effects})").fetchall()
        # Granting the lease was caused by the request: its reservation is an effect in another stream.
        assert {kind for (kind,) in found} >= {"runyard.run.queued", "runyard.node.gpus_reserved"}
        began = events[0].recorded_at.ToDatetime(UTC)
        for moment, literal in (
            (began - timedelta(minutes=1), "2026-01-01 00:00:00+00"),
            (began + timedelta(minutes=5), "2026-01-01 00:02:00+00"),
        ):
            around = around.replace(literal, moment.isoformat(sep=" "))
        kinds = set(database.execute(f"SELECT lane, type FROM ({around})").fetchall())
        assert {("domain", "runyard.run.finished"), ("telemetry", "runyard.log.chunk_recorded")} <= kinds
