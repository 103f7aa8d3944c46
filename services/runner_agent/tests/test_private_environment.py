"""An attempt's own environment names itself in its scripts, by whatever path the shared one was made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard_agent.environment.private import make_private


def _shared_environment(folder: Path, made_at: Path) -> None:
    """Lay out what venv and pip make: scripts name the folder as it was called then."""
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / "bin" / "python3").symlink_to("/usr/bin/python3")
    (folder / "bin" / "pip").write_text(f"#!{made_at}/bin/python3\nimport pip\n")
    (folder / "bin" / "activate").write_text(f"VIRTUAL_ENV='{made_at}'\nexport VIRTUAL_ENV\n")
    (folder / "bin" / "other").write_text("#!/usr/bin/python3\nprint()\n")
    (folder / "bin" / "tool").write_bytes(b"\x7fELF\0" + os.fsencode(made_at))


@pytest.mark.parametrize("made_by", ["path", "link", "another link"])
@pytest.mark.parametrize("reached_by", ["path", "link"])
def test_scripts_name_the_attempts_own_folder_however_the_shared_one_is_reached(
    tmp_path: Path, made_by: str, reached_by: str
) -> None:
    """Else "pip install" of one run writes into the environment of all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for link in ("link", "another link"):
        (tmp_path / link).symlink_to(disk)
    paths = {"path": disk, "link": tmp_path / "link", "another link": tmp_path / "another link"}
    _shared_environment(disk / "shared", paths[made_by] / "shared")
    private = tmp_path / "private"
    make_private(paths[reached_by] / "shared", private)
    own = private / "bin"
    assert (own / "pip").read_text().splitlines()[0] == f"#!{private}/bin/python3"
    assert (own / "activate").read_text().splitlines()[0] == f"VIRTUAL_ENV='{private}'"
    assert (own / "other").read_text().splitlines()[0] == "#!/usr/bin/python3"
    assert (own / "tool").is_symlink()
