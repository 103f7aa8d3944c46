"""Exports that nobody could have written are refused, whatever their files hold."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runyard.artifact.v1.registry_events_pb2 import ArtifactPropertiesSet
from runyard.event.v1.envelope_pb2 import Actor, ActorKind, Lane
from runyard.history.v1.history_service_pb2 import EventView
from runyard_contracts.envelope import Context, wrap
from runyard_contracts.ids import stream_name, uuid7
from runyard_contracts.recorded import RecordedEvent
from runyard_core.errors import Corrupt, InvalidInput
from runyard_replay.exports import FILES, FORMAT, MANIFEST, LaneWriter, read_events, read_manifest
from runyard_replay.folding.cloudevents import cloud_event
from runyard_replay.imported import FILE, import_log
from runyard_replay.views import event_view

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
FILE_ENTRY = {
    "name": "domain.jsonl",
    "lane": "LANE_DOMAIN",
    "event_count": 0,
    "size_bytes": 0,
    "sha256": EMPTY_SHA256,
}
DEEP = "[" * 200_000


def manifest_with(**changed: object) -> str:
    entry: Mapping[str, object] = {**FILE_ENTRY, **changed}
    telemetry = {**FILE_ENTRY, "name": "telemetry.jsonl", "lane": "LANE_TELEMETRY"}
    return json.dumps({"format": FORMAT, "log_id": "a", "files": [entry, telemetry]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        DEEP,
        '{"format": "runyard-history/1", "log_id": "a", "files": [1]}',
        manifest_with(name=["domain.jsonl"]),
        manifest_with(lane={}),
        manifest_with(lane="LANE_TELEMETRY"),
        manifest_with(name="../domain.jsonl"),
        manifest_with(event_count="0"),
        manifest_with(event_count=None),
        manifest_with(sha256=[]),
        manifest_with(more=1),
        # Without one of its files a lane would look as if nothing had happened.
        json.dumps({"format": FORMAT, "log_id": "a", "files": [FILE_ENTRY]}),
        json.dumps({"format": FORMAT, "log_id": "a", "files": []}),
    ],
)
def test_a_manifest_that_no_export_has_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InvalidInput) as refused:
        read_manifest(tmp_path)
    assert refused.value.code == "NOT_AN_EXPORT"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        DEEP,
        '{"envelope": {"lane": "LANE_DOMAIN", "position": "2"}}',
        '{"envelope": {"lane": "LANE_DOMAIN", "position": "1e30"}}',
        '{"envelope": {"lane": 1, "position": 1, "recordedAt": "yesterday"}}',
        '{"envelope": {"lane": 1, "position": 1, "streamVersion": "9223372036854775808"}}',
    ],
)
def test_a_line_that_is_no_event_is_refused_and_leaves_nothing(tmp_path: Path, line: str) -> None:
    folder, home = tmp_path / "export", tmp_path / "home"
    folder.mkdir()
    (folder / MANIFEST).write_text(manifest_with(event_count=1))
    (folder / "domain.jsonl").write_text(f"{line}\n")
    manifest = read_manifest(folder)
    with pytest.raises(Corrupt) as refused:
        list(read_events(folder, manifest.files[0]))
    assert refused.value.code == "MANIFEST_MISMATCH"
    with pytest.raises(Corrupt):
        import_log(folder, manifest, home)
    assert not (home / FILE).exists()


def test_an_export_without_events_is_one(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(manifest_with())
    for name in FILES.values():
        (tmp_path / name).touch()
    assert import_log(tmp_path, read_manifest(tmp_path), tmp_path / "home") == 0


def test_an_event_that_json_has_no_words_for_is_shown_and_exported_as_its_bytes(tmp_path: Path) -> None:
    properties = ArtifactPropertiesSet(sha256="ab" * 32)
    properties.properties["loss"] = math.nan
    stream = stream_name("artifact", "ab" * 32)
    actor = Actor(kind=ActorKind.ACTOR_KIND_USER, id="alice")
    envelope = wrap(
        properties, stream, Context(actor, uuid7(), "/artifact"), datetime(2026, 1, 1, tzinfo=UTC)
    )
    envelope.position = 1
    event = RecordedEvent(envelope)
    assert event_view(event) == EventView(envelope=envelope)
    written = cloud_event(event)
    assert written["data_base64"] == base64.b64encode(envelope.data).decode()
    with LaneWriter(tmp_path, Lane.LANE_DOMAIN, cloudevents=False) as writer:
        writer.write(event)
    assert list(read_events(tmp_path, writer.entry())) == [envelope]
