"""An attempt's own environment on top of a shared one: it finds its packages, and installs none there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from runyard_agent.environment.shared import site_packages

_LINK_FILE = "_shared_environment.pth"
_LOOKED_AT_BYTES = 4_096
"""Of each script: its interpreter is named at its beginning."""
_INTERPRETER = re.compile(rb"(/[^\n\0'\"]+)/bin/python")


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
    files = sorted((shared / "bin").iterdir())
    names = _names(shared, files)
    for file in files:
        _add_script(file, names, private)
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


def _names(shared: Path, files: Sequence[Path]) -> Sequence[bytes]:
    """Give the paths by which scripts may call a shared environment, longest first.

    It may have been made by way of a link that is not the way here.
    """
    names = {os.fsencode(shared), os.fsencode(os.path.realpath(shared))}
    for file in files:
        if not file.is_file() or _is_interpreter(file):
            continue
        with file.open("rb") as script:
            named = _INTERPRETER.search(script.read(_LOOKED_AT_BYTES))
        if named and os.path.realpath(named.group(1)) == os.fsencode(os.path.realpath(shared)):
            names.add(named.group(1))
    return sorted(names, key=len, reverse=True)


def _is_interpreter(file: Path) -> bool:
    return file.is_symlink() and file.name.startswith("python")


def _add_script(file: Path, names: Sequence[bytes], private: Path) -> None:
    target = private / "bin" / file.name
    if _is_interpreter(file):
        target.symlink_to(os.readlink(file))
        return
    content = file.read_bytes() if file.is_file() else b""
    looked_at = content[:_LOOKED_AT_BYTES]
    name = next((name for name in names if name in looked_at), None)
    if name is not None and b"\0" not in looked_at:
        target.write_bytes(content.replace(name, os.fsencode(private)))
        target.chmod(file.stat().st_mode & 0o777)
    else:
        target.symlink_to(file)
