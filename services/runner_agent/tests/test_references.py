"""Which paths a pattern means, and what of a reference is its path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.domain.references import Pattern, path_of, pattern_of

NAMES = st.text(alphabet="ab.*/", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("pattern", "meant", "others"),
    [
        ("images/*.jpg", ["images/a.jpg", "images/.jpg"], ["images/x/a.jpg", "a.jpg", "images/a.jpg.txt"]),
        ("images/**.jpg", ["images/a.jpg", "images/x/y/a.jpg"], ["other/a.jpg", "images/a.png"]),
        ("images/**/a.jpg", ["images/a.jpg", "images/x/a.jpg", "images/x/y/a.jpg"], ["images/xa.jpg"]),
        ("images/x**/a.jpg", ["images/x/a.jpg", "images/xy/z/a.jpg"], ["images/xa.jpg", "images/a.jpg"]),
        ("**/a.jpg", ["a.jpg", "x/y/a.jpg"], ["xa.jpg"]),
        ("*/a[1].jpg", ["x/a[1].jpg"], ["x/a1.jpg", "x/y/a[1].jpg"]),
        ("**", ["a", "a/b/c"], []),
    ],
)
def test_a_pattern_means_these_and_no_others(pattern: str, meant: list[str], others: list[str]) -> None:
    assert [path for path in (*meant, *others) if Pattern(pattern).means(path)] == meant


@pytest.mark.parametrize(
    ("pattern", "root", "prefix"),
    [("images/x*/b.jpg", "images/", "images/x"), ("**.jpg", "", ""), ("a/b/**", "a/b/", "a/b/")],
)
def test_the_root_of_a_pattern_is_the_folder_above_its_first_wildcard(
    pattern: str, root: str, prefix: str
) -> None:
    assert (Pattern(pattern).root, Pattern(pattern).prefix) == (root, prefix)


@given(NAMES.filter(lambda text: "*" in text), NAMES)
def test_whatever_a_pattern_means_begins_with_its_root_and_prefix(pattern: str, path: str) -> None:
    if Pattern(pattern).means(path):
        assert path.startswith(Pattern(pattern).prefix)
        assert path.startswith(Pattern(pattern).root)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a b/c#1?.csv", "a b/c#1?.csv"),
        ("s3://bucket/100%25.csv", "100%25.csv"),
        ("https://host/a%20b/c.csv?version=3#x", "a b/c.csv"),
        ("file:///data/a%20b.csv", "data/a b.csv"),
    ],
)
def test_the_path_of_a_reference_is_read_as_its_scheme_writes_it(uri: str, path: str) -> None:
    assert path_of(uri) == path


def test_a_star_in_a_web_address_is_a_star() -> None:
    assert pattern_of("https://host/*.csv") is None
    assert pattern_of("s3://bucket/*.csv") == Pattern("*.csv")
