"""History on a running yard: the service and the log itself give the same answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from runyard.artifact.v1.artifact_service_pb2 import ListArtifactsRequest
from runyard.cost.v1.cost_service_pb2 import GetProjectCostRequest
from runyard.event.v1.envelope_pb2 import ActorKind
from runyard.history.v1.history_service_pb2 import ListEventsRequest
from runyard.run.v1.types_pb2 import Executor, Run, RunSpec
from runyard_replay.direct import reader_database_url
from runyard_testkit import connected
from tests.e2e.yard import Clients, Yard

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240), pytest.mark.xdist_group("yard")]

PROJECT = "history"


async def _finished(clients: Clients) -> Run:
    command = "echo hello; echo hello > $VH_OUTPUTS_DIR/o"
    spec = RunSpec(step="x", command_lines=[command], executor=Executor.EXECUTOR_PROCESS)
    run = await clients.submit(spec, PROJECT)
    return (await clients.complete_record(run.run_id)).run


async def test_the_log_alone_answers_as_the_service_does(
    yard: Yard, clients: Clients, tmp_path: Path
) -> None:
    run = await _finished(clients)
    # Behind the newest event, batches of other runs and of GPUs come between two questions.
    at, closed = str(run.position), str(run.position - 1)
    book = tmp_path / "book.json"
    book.write_text('{"prices": [{"unit": "PRICE_UNIT_NODE_HOUR", "micro_usd_per_hour": "1000000"}]}')
    queued = json.loads(
        yard.cli("history", "explain", run.run_id, "--field", "number", "--output", "json").stdout
    )["explanations"][0]["event"]["envelope"]["event_id"]
    for words in (
        ("timeline", run.run_id, "--with-causes", "--to", at),
        ("timeline", run.attempts[0].node_id, "--to", closed),
        ("timeline", run.attempts[0].outputs[0].sha256, "--to", at),
        ("as-of", at, run.run_id),
        ("as-of", at, "queue"),
        ("as-of", closed, "gpus"),
        ("as-of", at, "cost", PROJECT),
        ("as-of", at, "prices"),
        ("explain", run.run_id, "--at", at),
        ("diff", "--from", "1", "--to", at),
        ("effects", queued),
        ("tail", "--to", at, "--correlation", run.run_id),
        ("what-if", PROJECT, "--prices", str(book), "--at", at),
    ):
        served = yard.cli("history", *words, "--output", "json").stdout
        direct = yard.cli("history", *words, "--direct", "--output", "json").stdout
        assert served == direct, words
        assert served


async def test_the_log_alone_walks_the_graph_as_the_service_does(yard: Yard, clients: Clients) -> None:
    run = await _finished(clients)
    at = str(run.position)
    for words in (
        ("trace", run.attempts[0].outputs[0].sha256, "--at", at),
        ("trace", f"{PROJECT}#{run.number}", "--at", at),
        ("impact", run.run_id, "--at", at),
    ):
        served = json.loads(yard.cli(*words, "--output", "json").stdout)
        assert served == json.loads(yard.cli(*words, "--direct", "--output", "json").stdout), words
        assert served["edges"], words


async def test_what_the_log_adds_up_to_is_what_the_read_models_show(yard: Yard, clients: Clients) -> None:
    run = await _finished(clients)
    at = str(run.position)
    shown = json.loads(yard.cli("history", "as-of", at, run.run_id, "--output", "json").stdout)["run"]
    assert shown["state"] == "RUN_STATE_FINISHED"
    assert shown["attempts"][0]["telemetry"]["spool_id"] == run.attempts[0].telemetry.spool_id
    cost = json.loads(yard.cli("history", "as-of", at, "cost", PROJECT, "--output", "json").stdout)["cost"]
    request = GetProjectCostRequest(project=PROJECT)
    request.read.as_of.position = run.position
    answer = await clients.costs.GetProjectCost(request, timeout=20)
    assert int(cost["run_count"]) == answer.run_count
    assert int(cost.get("micro_usd", 0)) == answer.micro_usd
    timeline = yard.cli("history", "timeline", run.run_id, "--output", "json").stdout.splitlines()
    types = [json.loads(line)["event"]["envelope"]["type"] for line in timeline]
    assert {"runyard.log.chunk_recorded", "runyard.artifact.written", "runyard.run.finished"} <= set(types)


async def test_the_files_of_a_run_belong_to_its_group_of_events(yard: Yard, clients: Clients) -> None:
    run = await _finished(clients)
    listed = await clients.artifacts.ListArtifacts(ListArtifactsRequest(run_id=run.run_id), timeout=20)
    assert len(listed.artifacts) == 1
    words = ("tail", "--correlation", run.run_id, "--type", "runyard.artifact.written", "--output", "json")
    lines = yard.cli("history", *words).stdout.splitlines()
    assert len(lines) == 1


async def test_every_event_of_a_run_leads_back_to_a_command_and_an_actor(clients: Clients) -> None:
    run = await _finished(clients)
    request = ListEventsRequest(page_size=1000)
    request.filter.correlation_id = run.run_id
    listed = await clients.history.ListEvents(request, timeout=20)
    story = {view.envelope.event_id: view.envelope for view in listed.events}
    types = {envelope.type.removeprefix("runyard.") for envelope in story.values()}
    assert types >= {"run.queued", "run.started", "run.finished", "node.gpus_released", "artifact.written"}
    asked = {"runyard.run.queued", "runyard.project.created", "runyard.project.run_numbered"}
    for envelope in story.values():
        root = envelope
        while root.causation_id:
            assert story[root.causation_id].position < root.position, envelope.type
            root = story[root.causation_id]
        assert root.type in asked, envelope.type
        assert root.command_id
        assert (root.actor.kind, bool(root.actor.id)) == (ActorKind.ACTOR_KIND_USER, True)


async def test_with_every_service_away_the_log_is_read(yard: Yard, clients: Clients, tmp_path: Path) -> None:
    run = await _finished(clients)
    # A home that has the same log and services that do not answer.
    for name in ("credentials.json", "ports.json"):
        (tmp_path / name).write_bytes((yard.home / name).read_bytes())
    nobody = dict.fromkeys(("scheduler", "artifact", "metrics", "cost", "lineage"), "127.0.0.1:9")
    (tmp_path / "context.json").write_text(json.dumps({"addresses": nobody, "token": "t"}))
    done = Yard(tmp_path).cli("history", "timeline", run.run_id)
    assert "does not answer; reading the log itself, read-only" in done.stderr
    assert "run.finished" in done.stdout
    lost = Yard(tmp_path).cli("ps", expect=4)
    assert "UNAVAILABLE" in lost.stderr


async def test_an_export_tells_the_same_story_without_any_engine(
    yard: Yard, clients: Clients, tmp_path: Path
) -> None:
    run = await _finished(clients)
    yard.cli("history", "export", str(tmp_path / "export"))
    elsewhere = Yard(tmp_path / "home")
    elsewhere.cli("history", "import", str(tmp_path / "export"))
    words = ("history", "timeline", run.run_id, "--with-causes", "--to", str(run.position))
    # Names stay in the yard, which has their keys.
    told = re.sub(r"user:[^\s,]+", "user:[sealed]", yard.cli(*words).stdout)
    assert elsewhere.cli(*words).stdout == told
    assert "user:[sealed]" in told
    refused = yard.cli("history", "import", str(tmp_path / "export"), expect=3)
    assert "LOG_NOT_EMPTY" in refused.stderr


async def test_the_readers_role_and_session_cannot_write(yard: Yard) -> None:
    url = reader_database_url(yard.home, {})
    async with connected(url) as connection:
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute("update log.identity set log_id = gen_random_uuid()")
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(
                "set default_transaction_read_only = off; delete from log.event where position = 1"
            )


def test_a_piped_timeline_may_be_cut_short(yard: Yard) -> None:
    command = f"{sys.executable} -m runyard_cli history tail -n 100 | head -1"
    environment = {**os.environ, "RUNYARD_HOME": str(yard.home)}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
