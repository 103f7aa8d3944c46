"""Exports that nobody could have written are refused, whatever their files hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from runyard_core.errors import Corrupt, InvalidInput
from runyard_replay.exports import FORMAT, MANIFEST, read_events, read_manifest
from runyard_replay.imported import FILE, import_log

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
    return json.dumps({"format": FORMAT, "log_id": "a", "files": [entry]})


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
    (tmp_path / "domain.jsonl").touch()
    assert import_log(tmp_path, read_manifest(tmp_path), tmp_path / "home") == 0
