from __future__ import annotations

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contracts.ids import Sha256, sha256_of
from runyard_contracts.manifest import (
    Entry,
    ManifestError,
    Mode,
    check_path,
    format_manifest,
    parse_manifest,
    tree_sha256,
)

EMPTY = sha256_of(b"")


def _is_safe(path: str) -> bool:
    try:
        check_path(path)
    except ManifestError:
        return False
    return True


_part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
_path = st.lists(_part, min_size=1, max_size=3).map("/".join).filter(_is_safe)
_entry = st.builds(
    Entry,
    path=_path,
    mode=st.sampled_from(Mode),
    sha256=st.binary(max_size=4).map(sha256_of),
    size_bytes=st.integers(0, 2**60),
)


def _tree(entries: list[Entry]) -> list[Entry]:
    kept: dict[str, Entry] = {}
    for entry in entries:
        clash = any(
            entry.path == path or entry.path.startswith(path + "/") or path.startswith(entry.path + "/")
            for path in kept
        )
        if not clash:
            kept[entry.path] = entry
    return list(kept.values())


_entries = st.lists(_entry, max_size=12).map(_tree)


def entry(path: str, mode: Mode = Mode.FILE) -> Entry:
    return Entry(path, mode, EMPTY, 0)


def test_manifest_has_the_agreed_text() -> None:
    entries = [entry("b\nc"), entry("a\\d", Mode.EXECUTABLE), entry("Z/link", Mode.SYMLINK)]
    expected = f"120000 {EMPTY} 0 Z/link\n100755 {EMPTY} 0 a\\\\d\n100644 {EMPTY} 0 b\\nc\n".encode()
    assert format_manifest(entries) == expected
    assert tree_sha256(entries) == hashlib.sha256(expected).hexdigest()


def test_entries_are_sorted_by_bytes_not_by_letters() -> None:
    # U+FF5E sorts after the astral U+10000 in UTF-16, before it in UTF-8.
    text = format_manifest([entry("\U00010000"), entry("\uff5e"), entry("a-b"), entry("a/b")]).decode()
    assert [line.split(" ", 3)[3] for line in text.splitlines()] == ["a-b", "a/b", "\uff5e", "\U00010000"]


def test_empty_tree_is_the_hash_of_nothing() -> None:
    assert tree_sha256([]) == EMPTY
    assert parse_manifest(b"") == ()


@given(_entries)
def test_parse_gives_back_what_format_wrote(entries: list[Entry]) -> None:
    assert set(parse_manifest(format_manifest(entries))) == set(entries)


@given(_entries, st.randoms(use_true_random=False))
def test_identity_does_not_depend_on_the_order_of_entries(entries: list[Entry], random: Random) -> None:
    shuffled = random.sample(entries, len(entries))
    assert tree_sha256(shuffled) == tree_sha256(entries)


@given(st.binary(max_size=200))
def test_parse_accepts_only_the_canonical_form(data: bytes) -> None:
    try:
        entries = parse_manifest(data)
    except ManifestError:
        return
    assert format_manifest(entries) == data


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../b",
        "a//b",
        "./a",
        "a/",
        ".",
        "a/.git/hooks/x",
        ".GIT/config",
        "nul\0",
    ],
)
def test_unsafe_path_is_refused(path: str) -> None:
    with pytest.raises(ManifestError):
        check_path(path)
    with pytest.raises(ManifestError):
        format_manifest([entry(path)])
    with pytest.raises(ManifestError):
        parse_manifest(f"100644 {EMPTY} 0 {path}\n".encode())


def test_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ManifestError, match="not valid UTF-8"):
        format_manifest([entry("bad\udcff")])


def test_overlong_path_is_refused() -> None:
    with pytest.raises(ManifestError, match="255"):
        check_path("x" * 256)
    with pytest.raises(ManifestError, match="4096"):
        check_path("/".join(["x" * 200] * 30))


def test_file_that_is_also_a_directory_is_refused() -> None:
    with pytest.raises(ManifestError, match="both a file and a directory"):
        format_manifest([entry("a", Mode.SYMLINK), entry("a-b"), entry("a/b")])
    lines = "".join(f"100644 {EMPTY} 0 {path}\n" for path in ("a", "a-b", "a/b"))
    with pytest.raises(ManifestError, match="both a file and a directory"):
        parse_manifest(lines.encode())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (f"100644 {EMPTY} 0 a", "no newline"),
        (f"100644 {EMPTY} 0 b\n100644 {EMPTY} 0 a\n", "line 2: not sorted"),
        (f"100644 {EMPTY} 0 a\n100644 {EMPTY} 0 a\n", "comes twice"),
        (f"100600 {EMPTY} 0 a\n", "line 1: unknown mode"),
        (f"100644 {EMPTY} 00 a\n", "line 1: not a size"),
        (f"100644 {EMPTY} -1 a\n", "line 1: not a size"),
        (f"100644 {EMPTY.upper()} 0 a\n", "not a SHA-256"),
        (f"100644 {EMPTY} 0 a\\t\n", "unknown escape"),
        (f"100644 {EMPTY} 0 a\\\n", "unknown escape"),
        ("100644 a\n", "line 1: want"),
        ("\n", "line 1: want"),
    ],
)
def test_malformed_manifest_is_refused_with_its_line(data: str, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        parse_manifest(data.encode())


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(ManifestError, match="not UTF-8 at byte 3"):
        parse_manifest(b"100\xff")


def test_negative_size_and_bad_hash_cannot_be_written() -> None:
    with pytest.raises(ManifestError, match="not a size"):
        format_manifest([Entry("a", Mode.FILE, EMPTY, -1)])
    with pytest.raises(ManifestError, match="not a SHA-256"):
        format_manifest([Entry("a", Mode.FILE, Sha256("abc"), 0)])
