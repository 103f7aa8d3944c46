"""What a snapshot asks of git: which files, which commit, and the patch between that and the tree.

Nothing here writes to the user's repository: the patch is made with an index and objects of its own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from runyard_client.errors import LocalError

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class GitState:
    """Where a working tree stands."""

    commit: str
    """Commit checked out; empty before the first one."""
    branch: str
    """Branch checked out; empty when the head is detached."""
    remote_url: str
    """Where the branch comes from, without user name and password; empty without a remote."""
    author: str
    """Who wrote the commit: "Alice Example <alice@example.com>"; empty before the first one."""


@dataclass(frozen=True, slots=True)
class GitFiles:
    """The files of a directory, as git tells them apart. Paths are relative to the directory."""

    tracked: tuple[str, ...]
    """In the index; may be deleted on disk."""
    untracked: tuple[str, ...]
    """Neither tracked nor ignored. A repository inside ends in "/"."""


def is_git_directory(root: Path) -> bool:
    """Say whether git is installed and this directory is in a working tree of it.

    Raises:
        LocalError: ``GIT_FAILED`` when git refuses the tree (owned by another user, broken).
    """
    if not any((directory / ".git").exists() for directory in (root, *root.parents)):
        return False
    try:
        return _run(root, "rev-parse", "--is-inside-work-tree").strip() == b"true"
    except FileNotFoundError:
        return False


def read_state(root: Path) -> GitState:
    """Read commit, its author, branch and remote of the tree that a directory is in."""
    commit = _run(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", may_fail=True).decode().strip()
    show = ("show", "--no-patch", "--no-show-signature", "--encoding=UTF-8", "--format=%aN <%aE>", "HEAD")
    author = _run(root, *show, may_fail=True).decode("utf-8", "replace").strip() if commit else ""
    branch = _run(root, "symbolic-ref", "--quiet", "--short", "HEAD", may_fail=True).decode().strip()
    remote = _run(root, "config", "--get", f"branch.{branch}.remote", may_fail=True).decode().strip()
    url = _run(root, "config", "--get", f"remote.{remote or 'origin'}.url", may_fail=True).decode().strip()
    return GitState(commit=commit, branch=branch, remote_url=without_credentials(url), author=author)


def list_files(root: Path) -> GitFiles:
    """List the files below a directory."""
    return GitFiles(
        tracked=_split(_run(root, "ls-files", "-z", "--cached")),
        untracked=_split(_run(root, "ls-files", "-z", "--others", "--exclude-standard")),
    )


def list_changes(root: Path) -> tuple[str, ...]:
    """List the tracked files below a directory that differ from the commit, deleted ones included."""
    return _split(_run(root, "diff", "--name-only", "-z", "--no-renames", "--relative", "HEAD", "--", "."))


def make_patch(root: Path, changed: Iterable[str]) -> bytes:
    """Make the patch that leads from the commit to the files on disk, binary files included.

    Args:
        root: the directory; the patch and its paths are limited to it and relative to it.
        changed: the paths to take from disk: changed, untracked or deleted. Others stay as committed.
    """
    with tempfile.TemporaryDirectory(prefix="runyard-index-") as scratch:
        environment = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": str(Path(scratch, "objects")),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(_object_directories(root)),
        }
        Path(scratch, "objects").mkdir()
        _run(root, "read-tree", "HEAD", environment=environment)
        names = b"".join(os.fsencode(path) + b"\0" for path in changed)
        _run(root, "update-index", "--add", "--remove", "-z", "--stdin", environment=environment, stdin=names)
        return _run(
            root,
            *("diff", "--cached", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv"),
            *("--no-renames", "--relative", "--src-prefix=a/", "--dst-prefix=b/", "HEAD", "--", "."),
            environment=environment,
        )


def without_credentials(url: str) -> str:
    """Take user name and password out of a URL. ``git@host:path`` has no secret and stays."""
    parts = urlsplit(url)
    if "://" not in url or "@" not in parts.netloc:
        return url
    host = parts.netloc.rpartition("@")[2]
    # The user of an ssh URL is part of the address, a password never is.
    user = (parts.username or "") + "@" if parts.scheme in {"ssh", "git+ssh"} and parts.username else ""
    return urlunsplit(parts._replace(netloc=user + host))


def _object_directories(root: Path) -> list[str]:
    own = _run(root, "rev-parse", "--git-path", "objects").decode().rstrip("\n")
    inherited = os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES", "")
    return [str(root / own), *(each for each in inherited.split(os.pathsep) if each)]


def _split(output: bytes) -> tuple[str, ...]:
    return tuple(os.fsdecode(name) for name in output.split(b"\0") if name)


def _run(
    root: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    stdin: bytes | None = None,
    may_fail: bool = False,
) -> bytes:
    command: Sequence[str] = ("git", "-C", str(root), "-c", "core.quotePath=false", *arguments)
    settings = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", **(environment or {})}
    try:
        done = subprocess.run(
            command, env=settings, input=stdin, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalError("GIT_FAILED", f"git {arguments[0]} in {root}: no answer in time") from None
    if done.returncode != 0 and not may_fail:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        said = lines[0] if lines else f"exit code {done.returncode}"
        raise LocalError("GIT_FAILED", f"git {arguments[0]} in {root}: {said}")
    return done.stdout if done.returncode == 0 else b""
