"""What a reference of an input names, which of many files a pattern means, and where each of them goes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent.domain.safe_paths import relative_path

WITHOUT_SERVICE = frozenset({"http", "https", "file", "s3"})
"""Schemes that the agent reads by itself; all others are names that the artifact service knows."""

_PATTERNS = frozenset({"s3", "file"})
_WILDCARD = re.compile(r"(?:^|(?<=/))\*\*/|\*\*|\*")
_MEANT_BY = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """The path of a reference, in which ``*`` stands for a part of a name and ``**`` for any folders too.

    As git, Python's ``glob`` and ``gcloud storage`` have it, ``a/**/b`` means ``a/b`` as well.
    """

    text: str

    @property
    def root(self) -> str:
        """The folder above the first wildcard, with its slash: what "suffix" cuts off."""
        return self.text[: self.text.find("*")].rpartition("/")[0] + "/" * (
            "/" in self.text.partition("*")[0]
        )

    @property
    def prefix(self) -> str:
        """What every path begins with that it means."""
        return self.text[: self.text.find("*")]

    def means(self, path: str) -> bool:
        """Say whether it means this path."""
        parts = _WILDCARD.split(self.text)
        wildcards = [_MEANT_BY[found] for found in _WILDCARD.findall(self.text)]
        expression = "".join(
            re.escape(part) + wildcard for part, wildcard in zip(parts, [*wildcards, ""], strict=True)
        )
        return re.fullmatch(expression, path, re.DOTALL) is not None


def scheme_of(uri: str) -> str:
    """Give the scheme of a reference: "s3"."""
    return uri.partition("://")[0]


def path_of(uri: str) -> str:
    """Give the path of a reference, without the slash that it begins with.

    The names of objects and files stand as they are; web addresses are escaped, and may have a query.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        return rest.partition("/")[2]
    if scheme == "file":
        return unquote(rest.partition("/")[2])
    return unquote(urlsplit(uri).path).strip("/")


def pattern_of(uri: str) -> Pattern | None:
    """Give the pattern of a reference that stands for many files; None for a plain one."""
    path = path_of(uri)
    return Pattern(path) if "*" in path and scheme_of(uri) in _PATTERNS else None


def kept_path(wanted: Input, pattern: Pattern, path: str) -> str:
    """Give what an input keeps of a path that a pattern means: all, what follows the root, or the name."""
    match wanted.keep_directories:
        case "full":
            return path
        case "suffix":
            return path.removeprefix(pattern.root)
        case _:
            return path.rpartition("/")[2]


def placed(wanted: Input, file: InputFile) -> PurePosixPath:
    """Say where a file goes below the inputs folder: by name, or with folders where the input keeps them.

    Raises:
        InvalidInput: PATH_ESCAPES.
    """
    path = relative_path(wanted.filename or file.path or path_of(file.uri).strip("/") or wanted.name)
    match wanted.keep_directories:
        case "full":
            keeps_directories = True
        case "suffix":
            # What follows the wildcard is all that is in a given path; a plain address has none.
            keeps_directories = bool(file.path)
        case _:
            keeps_directories = bool(wanted.filename)
    return PurePosixPath(wanted.name) / (path if keeps_directories else path.name)
