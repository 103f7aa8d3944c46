from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard_client.ignore import DEFAULT_PATTERNS, is_below_ignored, is_ignored, parse_rules

pytestmark = pytest.mark.system

PATHS = (
    "a",
    "b.py",
    "ab",
    "d/a",
    "d/b.py",
    "d/e/a",
    "d/e/b.py",
    "e/a",
    "e/ab",
    "e/d/a.b",
    "[x]",
    "d/!a",
    "d/ b",
)

_token = st.sampled_from(
    ["a", "b", "d", "e", "*", "**", "?", "/", ".py", "[ab]", "[!a]", "\\", "[", "]", "!", "#", " "]
)
_pattern = st.lists(_token, min_size=1, max_size=6).map("".join)
_patterns = st.lists(_pattern, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def files_that_git_keeps(root: Path, patterns: list[str]) -> set[str]:
    (root / ".git" / "info" / "exclude").write_text("\n".join(patterns) + "\n")
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    return {name.decode() for name in listed.split(b"\0") if name}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=_patterns)
def test_patterns_mean_what_they_mean_to_git(tree: Path, patterns: list[str]) -> None:
    rules = parse_rules(patterns)
    kept = {path for path in PATHS if not is_below_ignored(rules, path)}
    assert kept == files_that_git_keeps(tree, patterns)


@pytest.mark.parametrize(
    ("pattern", "path", "ignored"),
    [
        ("*.py", "d/b.py", True),
        ("/b.py", "d/b.py", False),
        ("d/", "d/b.py", True),
        ("d/*.py", "d/e/b.py", False),
        ("d/**/b.py", "d/b.py", True),
        ("d/**", "d/e/b.py", True),
        ("**/e", "d/e/a", True),
        ("[[:digit:]]", "7", True),
        ("[[:digit:]]", "a", False),
        ("a\\ ", "a ", True),
        ("\\#a", "#a", True),
        ("# a", "# a", False),
        ("!a", "a", False),
    ],
)
def test_pattern_ignores(pattern: str, path: str, ignored: bool) -> None:
    assert is_below_ignored(parse_rules([pattern]), path) is ignored


def test_last_matching_rule_decides() -> None:
    rules = parse_rules(["*.py", "!keep.py", "d/keep.py"])
    assert is_ignored(rules, "x.py")
    assert not is_ignored(rules, "keep.py")
    assert is_ignored(rules, "d/keep.py")


def test_rules_of_a_folder_count_below_it_only() -> None:
    rules = parse_rules(["/a", "*.log"], base="d")
    assert is_ignored(rules, "d/a")
    assert is_ignored(rules, "d/e/x.log")
    assert not is_ignored(rules, "a")
    assert not is_ignored(rules, "x.log")


def test_files_made_for_secrets_are_left_out_by_default() -> None:
    rules = parse_rules(DEFAULT_PATTERNS)
    assert is_below_ignored(rules, ".env")
    assert is_below_ignored(rules, "config/.env.production")
    assert not is_below_ignored(rules, "environment.py")
