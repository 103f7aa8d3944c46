"""The queries of docs/how-to/query-the-archive.md do what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from runyard.run.v1.events_pb2 import RunStatusDetailSet
from runyard_contracts.ids import CommandId, uuid7
from runyard_eventlog.port import AppendCommand, StreamAppend
from runyard_testkit.engines import run

from .stored import DOMAIN, TELEMETRY, Yard, event, stream_of

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "query-the-archive.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return run(make_yard(tmp_path_factory.mktemp("yard")))


async def make_yard(folder: Path) -> Yard:
    """A chain of three causes, then other runs and telemetry; segments of 5 events."""
    made = Yard(folder, events_max=5)
    cause = ""
    for number in range(3):
        caused = event(stream_of(DOMAIN, 7 + number), f"link {number}")
        caused.causation_id, cause = cause, caused.event_id
        append = StreamAppend(stream_of(DOMAIN, 7 + number), 0, [caused])
        await made.log.append(AppendCommand(CommandId(uuid7()), [append]))
    await made.fill(12)
    await made.fill(10, TELEMETRY)
    for lane in (TELEMETRY, DOMAIN):
        await made.seal_all(lane)
    return made


@pytest.fixture
def database(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> Iterator[duckdb.DuckDBPyConnection]:
    monkeypatch.chdir(yard.folder.parent)
    with duckdb.connect() as connection:
        yield connection


async def test_the_history_of_a_run_is_its_stream(yard: Yard, database: duckdb.DuckDBPyConnection) -> None:
    query = blocks("sql")[0].rstrip(";\n")
    found = database.execute(f"SELECT position, version FROM ({query})").fetchall()
    history = await yard.log.read_stream(stream_of(DOMAIN, 0))
    assert found == [(one.position, one.envelope.stream_version) for one in history]
    assert found


def test_effects_are_followed_to_their_end(database: duckdb.DuckDBPyConnection) -> None:
    found = database.execute(blocks("sql")[1]).fetchall()
    assert [row[:3] for row in found] == [(0, 1, "run-s7"), (1, 2, "run-s8"), (2, 3, "run-s9")]


def test_both_lanes_are_seen_around_a_moment(database: duckdb.DuckDBPyConnection) -> None:
    query = blocks("sql")[2].rstrip(";\n")
    found = database.execute(f"SELECT lane, type, events FROM ({query})").fetchall()
    assert {(lane, kind): events for lane, kind, events in found} == {
        ("domain", "runyard.run.status_detail_set"): 15,
        ("domain", "runyard.log.segment_sealed"): 5,
        ("telemetry", "runyard.log.chunk_recorded"): 10,
    }


def test_a_payload_is_the_event(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(yard.folder.parent)
    (block,) = blocks("python")
    exec(compile(block, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == f"{RunStatusDetailSet(run_id='s', attempt=1, status_detail='link 0')}\n"


def test_the_page_names_every_column(yard: Yard, database: duckdb.DuckDBPyConnection) -> None:
    described = database.execute("DESCRIBE SELECT * FROM 'archive/domain/*.parquet'").fetchall()
    assert {name for name, *_ in described} <= set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert dict(row[:2] for row in described)["event_id"] == "UUID"
