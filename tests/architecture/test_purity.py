"""``domain/``, ``process/`` and ``projections/`` are functions of their arguments and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE_FOLDERS = ("domain", "process", "projections")
REPLAY = ROOT / "libs/replay/src/runyard_replay"
PURE_FILES = sorted(
    [
        *(
            path
            for folder in PURE_FOLDERS
            for package in ROOT.glob("services/*/src/*")
            for path in (package / folder).rglob("*.py")
        ),
        *(REPLAY / "folding").rglob("*.py"),
        *(REPLAY / "pricing").rglob("*.py"),
    ]
)

# Everything that a pure module may import; what is not here does I/O, keeps time or draws lots, or might.
STANDARD_LIBRARY = """
    __future__ abc array ast base64 binascii bisect collections copy dataclasses datetime decimal enum
    fractions functools graphlib hashlib heapq ipaddress itertools json math numbers operator
    pathlib.PurePosixPath posixpath re shlex statistics string struct textwrap types typing unicodedata
    urllib.parse zlib
"""
OURS = """
    google.protobuf google.rpc runyard runyard_contracts runyard_runspec
    runyard_core.counted runyard_core.decider runyard_core.errors runyard_core.projection
    runyard_replay.folding runyard_replay.pricing runyard_replay.graph
"""
ALLOWED_ROOTS = frozenset(STANDARD_LIBRARY.split() + OURS.split())
# The names of signals; and the port of the ways to run an attempt, whose types decisions are about.
ALLOWED_NAMES = {"runyard_agent": frozenset({"signal", "runyard_agent.runtime"})}
IMPURE_CALLS = frozenset(
    "now utcnow today time monotonic uuid7 uuid4 uuid1 urandom open print input".split()  # noqa: SIM905
)
IMPURE_METHODS_OF = frozenset({"datetime", "date", "time", "os", "uuid", "Timestamp"})
PROTOBUF_CLOCK = "GetCurrentTime"


PURE_PACKAGES = sorted({path.relative_to(ROOT).parts[3] for path in PURE_FILES})


def test_there_are_pure_files_to_check() -> None:
    assert len(PURE_FILES) > 100
    assert len(PURE_PACKAGES) == 7


@pytest.mark.parametrize("package", PURE_PACKAGES)
def test_pure_modules_import_only_pure_ones_and_read_no_clock_and_draw_no_lots(package: str) -> None:
    own = {f"{package}.{part}" for part in (*PURE_FOLDERS, "tables")}
    allowed = ALLOWED_ROOTS | own | ALLOWED_NAMES.get(package, frozenset())
    wrong = []
    for path in (path for path in PURE_FILES if path.relative_to(ROOT).parts[3] == package):
        tree = ast.parse(path.read_text())
        foreign = (name for name in imported(tree) if not any(within(name, root) for root in allowed))
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in (*foreign, *impure_calls(tree))]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("datetime.now(UTC)", ["datetime.now"]),
        ("uuid7()", ["uuid7"]),
        ("stamp.GetCurrentTime()", ["GetCurrentTime"]),
        ("open('x')", ["open"]),
        ("event.occurred_at.ToDatetime()", []),
        ("rows.time('x')", []),
    ],
)
def test_the_check_sees_what_it_must(code: str, found: list[str]) -> None:
    assert list(impure_calls(ast.parse(code))) == found


def within(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def impure_calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in IMPURE_CALLS:
            yield called.id
        elif isinstance(called, ast.Attribute) and called.attr == PROTOBUF_CLOCK:
            yield called.attr
        elif isinstance(called, ast.Attribute) and called.attr in IMPURE_CALLS:
            owner = called.value
            if isinstance(owner, ast.Name) and owner.id in IMPURE_METHODS_OF:
                yield f"{owner.id}.{called.attr}"
