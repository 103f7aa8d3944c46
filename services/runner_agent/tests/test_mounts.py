"""Folders of the node for programs: only shared ones, and recorded so that a change can be told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Mount, MountedFolder
from runyard_agent import mounts
from runyard_agent.mounts import find_mounts
from runyard_core.errors import RunyardError


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"1234")
    (folder / "sub/b.bin").write_bytes(b"56")
    return folder


def found(shared: Path) -> MountedFolder:
    [folder] = find_mounts([Mount(source=str(shared), destination="/sets")], [shared])
    return folder


def test_a_shared_folder_is_described(shared: Path) -> None:
    folder = found(shared)
    assert (folder.real_path, folder.file_count, folder.size_bytes) == (str(shared), 2, 6)
    assert folder.file_system
    assert len(folder.fingerprint) == 64


def test_a_change_of_any_file_changes_the_fingerprint(shared: Path) -> None:
    first = found(shared)
    assert found(shared).fingerprint == first.fingerprint
    os.utime(shared / "sub/b.bin", ns=(0, 1))
    assert found(shared).fingerprint != first.fingerprint


def test_of_very_many_files_no_fingerprint_is_taken(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "FILES_MAX", 1)
    assert found(shared).fingerprint == ""


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (Mount(source="/etc", destination="/sets"), "does not share it"),
        (Mount(source="{shared}/../secret", destination="/sets"), "does not share it"),
        (Mount(source="{shared}/a.bin", destination="/sets"), "no folder"),
        (Mount(source="relative", destination="/sets"), "no whole path"),
        (Mount(source="server:/export", destination="/sets", type="nfs"), "mount it on the node"),
        (Mount(source="{shared}", destination="/"), "own choice"),
        (Mount(source="{shared}", destination="/valohai/inputs"), "own choice"),
        (Mount(source="{shared}", destination="/sets/../proc"), "own choice"),
        (Mount(source="{shared}", destination="sets"), "own choice"),
    ],
)
def test_what_cannot_be_shown_is_refused(shared: Path, mount: Mount, reason: str) -> None:
    (shared.parent / "secret").mkdir()
    mount.source = mount.source.format(shared=shared)
    with pytest.raises(RunyardError, match=reason) as refused:
        find_mounts([mount], [shared])
    assert refused.value.code == "ENVIRONMENT_UNAVAILABLE"
