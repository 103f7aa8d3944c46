"""``runyard history`` about what is a project's own: models, datasets, aliases, secrets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from runyard.artifact.v1.events_pb2 import ArtifactWritten
from runyard.artifact.v1.registry_events_pb2 import (
    ArtifactAliasMoved,
    DatasetAliasMoved,
    DatasetVersionCreated,
    ModelVersionRegistered,
)
from runyard.artifact.v1.registry_types_pb2 import VersionFile
from runyard.artifact.v1.types_pb2 import Origin
from runyard.run.v1.events_pb2 import ProjectSecretSet

from .imported import RUN, STORY, Terminal, Told, export_of

SHA256 = hashlib.sha256(b"weights").hexdigest()
WEIGHTS = VersionFile(path="model.npz", sha256=SHA256, size_bytes=7)
ORIGIN = Origin(run_id=RUN, attempt=1, project="digits", path="model.npz")
NAMED: tuple[Told, ...] = (
    *STORY,
    ("artifact", SHA256, ArtifactWritten(sha256=SHA256, size_bytes=7, origin=ORIGIN)),
    ("alias", "digits.best", ArtifactAliasMoved(project="digits", alias="best", sha256=SHA256)),
    ("model", "digits.resnet", ModelVersionRegistered(
        project="digits", model="resnet", version=1, files=[WEIGHTS], tags=["small"], origin=ORIGIN
    )),
    ("dataset", "digits.images", DatasetVersionCreated(
        project="digits", dataset="images", version="v1", files=[WEIGHTS]
    )),
    ("dataset", "digits.images", DatasetAliasMoved(
        project="digits", dataset="images", alias="newest", version="v1"
    )),
    ("project", "digits", ProjectSecretSet(project="digits", name="HF_TOKEN")),
)  # fmt: skip


@pytest.fixture
def named(empty: Terminal, tmp_path: Path) -> Terminal:
    empty.run("import", str(export_of(tmp_path / "export", NAMED)))
    return empty


def test_names_are_shown_as_of_a_moment(named: Terminal) -> None:
    for words, shown in (
        (("now", "model://resnet"), "model resnet of digits, 1 version"),
        (("now", "model", "resnet/1"), f"datum://{SHA256}"),
        (("now", "dataset://images"), "v1       newest"),
        (("now", "dataset://images/newest"), f"datum://{SHA256}"),
        (("now", "datum://best"), f"sha256: {SHA256}"),
        (("now", "project", "digits"), "HF_TOKEN"),
        (("13", "project", "digits"), "datum://best"),
        (("9", "project", "digits"), "project digits: 1 run\n"),
    ):
        assert shown in named.run("as-of", *words)
    answer = json.loads(named.run("as-of", "now", "model://resnet/1", "--output", "json"))
    assert answer["model"]["versions"][0]["files"][0]["sha256"] == SHA256


def test_a_model_and_a_file_on_disk_have_timelines(named: Terminal, tmp_path: Path) -> None:
    lines = named.run("timeline", "model://resnet/1").splitlines()
    assert [line.split()[0] for line in lines] == ["3", "4", "5", "6", "6/t1", "7", "8", "9", "11"]
    weights = tmp_path / "weights.npz"
    weights.write_bytes(b"weights")
    assert "artifact.written" in named.run("timeline", str(weights))


def test_what_changed_in_a_project_is_told(named: Terminal) -> None:
    different = named.run("diff", "--from", "8", "--to", "now", "project", "digits")
    assert f'aliases[best].sha256: - -> "{SHA256}"' in different
    assert 'secrets[HF_TOKEN].name: - -> "HF_TOKEN"' in different
    assert "5 events:" in different


def test_a_file_that_is_not_on_disk_is_named(named: Terminal, tmp_path: Path) -> None:
    for words in (("timeline", f"{tmp_path}/none"), ("as-of", "now", "none.npz")):
        assert f"Error: {words[-1]}: no such file here [FILE_UNREADABLE]\n" in named.run(*words, expect=2)
    said = named.run("timeline", str(tmp_path), expect=2)
    assert said == f"Error: {tmp_path} is a folder: name one of its files [FILE_UNREADABLE]\n"
