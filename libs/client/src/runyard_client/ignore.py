"""What a code snapshot leaves out: patterns of ``.gitignore`` and ``.vhignore``, read as git reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Never wanted in a snapshot unless git tracks them: caches, environments, and files made for secrets.
DEFAULT_PATTERNS = (
    "__pycache__/",
    "*.pyc",
    ".venv/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    ".ipynb_checkpoints/",
    ".DS_Store",
    ".env",
    ".env.*",
)

_GLOB = re.compile(r"\\(.)|(\*\*)|(\*)|(\?)|(\[)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern line."""

    expression: re.Pattern[str]
    """Matches a path relative to the root."""
    negated: bool
    """A line with "!": takes back what an earlier line ignored."""
    directories_only: bool
    """A line that ends in "/"."""


def parse_rules(lines: Iterable[str], base: str = "") -> list[Rule]:
    """Read pattern lines.

    Args:
        lines: lines of an ignore file.
        base: the directory that holds the file, relative to the root, without a slash at its end.
    """
    return [rule for line in lines if (rule := _parse_rule(line.rstrip("\r\n"), base)) is not None]


def is_ignored(rules: Iterable[Rule], path: str, *, is_directory: bool = False) -> bool:
    """Say whether a path is left out by itself; the last rule that matches decides.

    A path below an ignored directory is left out too: whoever walks must not go into one.
    """
    ignored = False
    for rule in rules:
        if rule.negated is ignored and (is_directory or not rule.directories_only):
            ignored ^= rule.expression.fullmatch(path) is not None
    return ignored


def is_below_ignored(rules: Iterable[Rule], path: str) -> bool:
    """Say whether a file is left out by itself or by a directory above it."""
    rules = list(rules)
    parts = path.split("/")
    above = ("/".join(parts[:count]) for count in range(1, len(parts)))
    return any(is_ignored(rules, each, is_directory=True) for each in above) or is_ignored(rules, path)


def _parse_rule(line: str, base: str) -> Rule | None:
    if not line or line.startswith("#"):
        return None
    text = line
    # Spaces at the end do not count unless escaped.
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    negated = text.startswith("!")
    text = text.removeprefix("!")
    directories_only = text.endswith("/")
    text = text.removesuffix("/")
    if not text:
        return None
    anchored = "/" in text
    pattern = _translate(text.removeprefix("/"))
    if pattern is None:
        return None
    where = re.escape(base + "/") if base else ""
    anywhere = "" if anchored else "(?:.*/)?"
    return Rule(re.compile(where + anywhere + pattern, re.DOTALL), negated, directories_only)


def _translate(glob: str) -> str | None:
    """Turn a git glob into a regular expression; None for one that can match nothing."""
    out: list[str] = []
    index = 0
    while index < len(glob):
        match = _GLOB.match(glob, index)
        if match is None:
            if glob[index] == "\\":
                return None
            out.append(re.escape(glob[index]))
            index += 1
            continue
        escaped, double, star, question, bracket = match.groups()
        index = match.end()
        if escaped is not None:
            out.append(re.escape(escaped))
        elif double and glob[index : index + 1] in {"", "/"} and (index == 2 or glob[index - 3] == "/"):
            if index == len(glob):
                out.append(".+")
            else:
                out.append("(?:.*/)?")
                index += 1
        elif double or star:
            out.append("[^/]*")
        elif question:
            out.append("[^/]")
        elif bracket:
            end, expression = _translate_class(glob, index)
            if expression is None:
                return None
            out.append(expression)
            index = end
    return "".join(out)


def _translate_class(glob: str, start: int) -> tuple[int, str | None]:
    """Turn "[a-z]" into a class that never matches a slash; ``start`` is behind the bracket."""
    index = start
    negated = glob[index : index + 1] in {"!", "^"}
    index += negated
    members: list[str] = []
    first = True
    while index < len(glob) and (first or glob[index] != "]"):
        first = False
        named = re.compile(r"\[:([a-z]+):\]").match(glob, index)
        if named is not None:
            if named.group(1) not in _CLASSES:
                return index, None
            members.append(_CLASSES[named.group(1)])
            index = named.end()
            continue
        low, index = _member(glob, index)
        if glob[index : index + 1] == "-" and glob[index + 1 : index + 2] not in {"", "]"}:
            high, index = _member(glob, index + 1)
            if low <= high:
                members.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            members.append(re.escape(low))
    if index >= len(glob):
        return index, None
    inside = "".join(members)
    if not inside:
        return index + 1, "[^/]" if negated else "(?!)"
    return index + 1, f"(?!/)[{'^' if negated else ''}{inside}]"


def _member(glob: str, index: int) -> tuple[str, int]:
    if glob[index] == "\\" and index + 1 < len(glob):
        return glob[index + 1], index + 2
    return glob[index], index + 1


_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
