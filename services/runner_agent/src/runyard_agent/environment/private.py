"""An attempt's own environment on top of a shared one: it finds its packages, and installs none there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from runyard_agent.environment.shared import site_packages

_LINK_FILE = "_shared_environment.pth"


def make_private(shared: Path, private: Path) -> None:
    """Make an environment that adds to a shared one; nothing happens when it is there already.

    A few milliseconds: one line that makes Python look into the shared folder too, links to its
    interpreter, and its scripts with their first line changed, so that "pip install" lands here.
    """
    packages = private / site_packages(shared).relative_to(shared)
    if (packages / _LINK_FILE).exists():
        return
    _empty(private)
    packages.mkdir(parents=True)
    (private / "bin").mkdir()
    shutil.copyfile(shared / "pyvenv.cfg", private / "pyvenv.cfg")
    for file in sorted((shared / "bin").iterdir()):
        _add_script(file, shared, private)
    # By addsitedir, because a plain path would leave out what .pth files over there add.
    (packages / _LINK_FILE).write_text(
        f"import site; site.addsitedir({str(site_packages(shared))!r})\n", encoding="utf-8"
    )


def _empty(private: Path) -> None:
    """Begin anew; the folder itself stays, as it says that the shared environment is in use."""
    private.mkdir(parents=True, exist_ok=True)
    for path in private.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _add_script(file: Path, shared: Path, private: Path) -> None:
    target = private / "bin" / file.name
    if file.is_symlink() and file.name.startswith("python"):
        real = os.readlink(file)
        target.symlink_to(real)
        return
    content = file.read_bytes() if file.is_file() else b""
    own = os.fsencode(shared)
    if own in content[:4096] and b"\0" not in content[:4096]:
        target.write_bytes(content.replace(own, os.fsencode(private)))
        target.chmod(file.stat().st_mode & 0o777)
    else:
        target.symlink_to(file)
