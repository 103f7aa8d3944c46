"""Which files of a working tree are code: what git tracks and does not ignore, else all but ignored files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runyard_client import git
from runyard_client.errors import LocalError
from runyard_client.ignore import DEFAULT_PATTERNS, Rule, is_below_ignored, is_ignored, parse_rules


@dataclass(frozen=True, slots=True)
class Listing:
    """Paths of a tree, before anything is read."""

    paths: tuple[str, ...]
    """Every file, relative to the root; tracked ones may be deleted on disk."""
    changed: tuple[str, ...] = ()
    """Those that differ from the commit, untracked and deleted ones included."""
    state: git.GitState | None = None
    """Where the tree stands; None without git."""
    absent_submodules: tuple[str, ...] = ()
    """Submodules whose files were never fetched."""


def list_tree(root: Path) -> Listing:
    """List the files of code below a directory. ``.vhignore`` at the root leaves out more, tracked or not.

    Raises:
        LocalError: ``FILE_UNREADABLE`` or ``GIT_FAILED``.
    """
    vhignore = _rules_of(root / ".vhignore")
    if not git.is_git_directory(root):
        return Listing(paths=tuple(_walk(root, "", parse_rules(DEFAULT_PATTERNS), vhignore)))
    state = git.read_state(root)
    files = _list_with_git(root, "")
    rules = [*parse_rules(DEFAULT_PATTERNS), *vhignore]
    untracked = [path for path in files.untracked if not is_below_ignored(rules, path)]
    nested = [path for path in files.nested if not is_below_ignored(rules, path)]
    differing = git.list_changes(root) if state.commit else ()
    inside = set(nested)
    return Listing(
        paths=(
            *(path for path in files.tracked if not is_below_ignored(vhignore, path)),
            *untracked,
            *nested,
        ),
        changed=(
            *(path for path in differing if path not in inside and not is_below_ignored(vhignore, path)),
            *untracked,
        ),
        state=state,
        absent_submodules=tuple(path for path in files.absent if not is_below_ignored(vhignore, path)),
    )


@dataclass(slots=True)
class _Files:
    tracked: list[str]
    untracked: list[str]
    # Files of submodules and of repositories inside: the patch of the outer one cannot hold them.
    nested: list[str]
    # Submodules that were never fetched: empty folders.
    absent: list[str]


def _list_with_git(root: Path, prefix: str) -> _Files:
    listed = git.list_files(root / prefix)
    files = _Files([], [], [], [])
    for names, into in ((listed.tracked, files.tracked), (listed.untracked, files.untracked)):
        for name in names:
            path = (prefix + name).removesuffix("/")
            if (root / path).is_symlink() or not (root / path).is_dir():
                into.append(path)
            elif (root / path / ".git").exists():
                inner = _list_with_git(root, path + "/")
                files.nested += (*inner.tracked, *inner.untracked, *inner.nested)
                files.absent += inner.absent
            else:
                files.absent.append(path)
    return files


def _walk(root: Path, directory: str, above: list[Rule], last: list[Rule]) -> Iterator[str]:
    rules = [*above, *_rules_of(root / directory / ".gitignore", directory.removesuffix("/"))]
    try:
        found = sorted(os.scandir(root / directory), key=lambda each: each.name)
    except OSError as error:
        raise LocalError(
            "FILE_UNREADABLE", f"{root / directory}: {error.strerror}; name it in .vhignore"
        ) from None
    for each in found:
        path = directory + each.name
        is_directory = each.is_dir(follow_symlinks=False)
        if each.name == ".git" or is_ignored([*rules, *last], path, is_directory=is_directory):
            continue
        if is_directory:
            yield from _walk(root, path + "/", rules, last)
        else:
            yield path


def _rules_of(file: Path, base: str = "") -> list[Rule]:
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalError("FILE_UNREADABLE", f"{file}: {error.strerror}") from None
    return parse_rules(text.splitlines(), base)
