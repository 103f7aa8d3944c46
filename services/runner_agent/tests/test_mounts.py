"""Folders of the node for programs: only shared ones, and recorded so that a change can be told."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Mount, MountedFolder
from runyard_agent import folder_look, gpus, mounts, private_view
from runyard_agent.container_rules import ContainerRules
from runyard_agent.domain.file_systems import FileSystem
from runyard_agent.executors import DockerOnDemand, ProcessExecutor
from runyard_agent.input_sources import InputRules
from runyard_agent.machine_check import take_inventory
from runyard_agent.mounts import find_mounts, look_at
from runyard_core.errors import InvalidInput, RunyardError


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"1234")
    (folder / "sub/b.bin").write_bytes(b"56")
    return folder


def found(shared: Path) -> MountedFolder:
    mount = Mount(source=str(shared), destination="/sets")
    [folder] = find_mounts([mount], InputRules((shared,)), shared.parent, in_container=False)
    assert folder.file_system is None
    return folder.record


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
    monkeypatch.setattr(folder_look, "FILES_MAX", 1)
    assert found(shared).fingerprint == ""


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (Mount(source="/etc", destination="/sets"), "does not share it"),
        (Mount(source="{shared}/../secret", destination="/sets"), "does not share it"),
        (Mount(source="{shared}/a.bin", destination="/sets"), "no folder"),
        (Mount(source="relative", destination="/sets"), "no whole path"),
        (Mount(source="nas:/other", destination="/sets", type="nfs"), "does not mount it for runs"),
        (Mount(source="nas:/export2", destination="/sets", type="nfs"), "does not mount it for runs"),
        (Mount(source="nas:/export/../x", destination="/sets", type="nfs"), "is no NFS export"),
        (Mount(source="nas:/export,suid", destination="/sets", type="nfs"), "is no NFS export"),
        (Mount(source="/export", destination="/sets", type="nfs"), "is no NFS export"),
        (Mount(source="//nas/export", destination="/sets", type="cifs"), "type 'cifs' are not mounted"),
        (Mount(source="nas:/export", destination="/sets", type="nfs", options={"rw": ""}), "'rw' is not"),
        (
            Mount(source="nas:/export", destination="/sets", type="nfs", options={"vers": "4,suid"}),
            "'vers=4,suid' is not",
        ),
        (Mount(source="nas:/export", destination="/sets", type="nfs"), "its agent is not root"),
        (Mount(source="{shared}", destination="/"), "own choice"),
        (Mount(source="{shared}", destination="/valohai/inputs"), "own choice"),
        (Mount(source="{shared}", destination="/sets/../proc"), "own choice"),
        (Mount(source="{shared}", destination="sets"), "own choice"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    shared: Path, mount: Mount, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "mounting_problem", lambda: "its agent is not root")
    (shared.parent / "secret").mkdir()
    mount.source = mount.source.format(shared=shared)
    with pytest.raises(RunyardError, match=reason) as refused:
        find_mounts(
            [mount], InputRules((shared,), nfs_exports=("nas:/export",)), shared.parent, in_container=False
        )
    assert refused.value.code == "ENVIRONMENT_UNAVAILABLE"


def test_an_export_is_mounted_by_the_daemon_where_the_agent_may_not(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "mounting_problem", lambda: "its agent is not root")
    mount = Mount(source="NAS:/export/sets/", destination="/sets", type="nfs4")
    mount.options.update({"minorversion": "2", "soft": "True", "ro": "", "lock": "False"})
    [found] = find_mounts([mount], InputRules(nfs_exports=("nas:/export",)), shared, in_container=True)
    assert found.file_system is not None
    assert found.file_system.volume() == {
        "type": "nfs",
        "device": ":/export/sets",
        "o": "addr=nas,ro,nosuid,nodev,minorversion=2,soft,vers=4",
    }
    assert found.file_system.words == (
        "nfs", "nas:/export/sets", "ro,nosuid,nodev,minorversion=2,soft,vers=4", "/sets",
    )  # fmt: skip
    record = found.record
    assert (record.source, record.destination) == ("NAS:/export/sets/", "/sets")
    assert (record.file_system, record.device, record.fingerprint) == ("nfs", "nas:/export/sets", "")


async def test_an_agent_that_cannot_mount_exports_says_at_its_start_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some images of Debian have no ``mount``: the first step would end with 127, and nobody knew of what."""
    monkeypatch.setattr(mounts, "_effective_capabilities", lambda: mounts._CAP_SYS_ADMIN)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(private_view, "PROGRAMS_PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    (tmp_path / "mount.nfs").touch(0o755)
    parts = (gpus.open_gpus(), ProcessExecutor(tmp_path, ""), DockerOnDemand("a", tmp_path, ContainerRules()))

    nothing_asked, asked = [
        await take_inventory(tmp_path, 1, *parts, nfs_exports=exports) for exports in ((), ("nas:/export",))
    ]

    [warning] = set(asked.warnings) - set(nothing_asked.warnings)
    assert warning == (
        "NFS exports are mounted for steps in containers only: mount is not installed "
        "(package mount on Debian and Ubuntu, util-linux elsewhere)."
    )


@pytest.mark.system
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root may mount, with a program for it"
)
def test_a_file_system_is_looked_at_without_the_machine_seeing_it(tmp_path: Path) -> None:
    for name in private_view.FOLDERS:
        (tmp_path / name).mkdir()
    place = f"/runyard-test-{os.getpid()}/sets"
    empty = look_at(FileSystem("tmpfs", "", "tmpfs", "ro,size=1m", place), tmp_path)
    assert empty == (0, 0, hashlib.sha256().hexdigest())
    with pytest.raises(InvalidInput, match="mount of tmpfs ended with"):
        look_at(FileSystem("no-such-kind", "", "tmpfs", "ro", place), tmp_path)
    # Containers of tests beside this one come and go among the others.
    seen = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    assert [line for line in seen if place in line or str(tmp_path) in line] == []
    assert place.split("/")[1] not in os.listdir("/")


ODD_NAMES = """
import os, subprocess, sys
from pathlib import Path
from runyard_agent.limits import look_at_machine
from runyard_agent.mounts import _file_system
from runyard_agent.own_container import own_id

for name in (b"odd \\xff\\r\\x0c", "\u2028".encode(), "donn\u00e9es".encode()):
    place = os.path.join(os.fsencode(sys.argv[1]), name)
    os.mkdir(place)
    subprocess.run(["mount", "-t", "tmpfs", name, place], check=True)
look_at_machine(Path(sys.argv[1]))
own_id()
print(ascii([_file_system(os.fsdecode(place)), _file_system(os.fsdecode(place) + "/below")]))
"""


@pytest.mark.system
def test_names_of_mounts_may_be_anything(tmp_path: Path) -> None:
    """Any mount of the machine: one whose name is no text must not keep an agent from starting."""
    looked = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", ODD_NAMES, str(tmp_path)],
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    if "unshare" in looked.stderr or "'mount'" in looked.stderr:
        pytest.skip("nothing can be mounted here")
    found = ("tmpfs", "donn\u00e9es")
    assert (looked.stdout.strip(), looked.stderr) == (ascii([found, found]), "")
