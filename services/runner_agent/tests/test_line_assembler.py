"""Lines for people, whatever bytes come in whatever chunks."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.domain import line_assembler
from runyard_agent.domain.line_assembler import Line, LineAssembler


@pytest.fixture(autouse=True)
def _short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut lines at 16 bytes, so that Hypothesis finds the edges."""
    monkeypatch.setattr(line_assembler, "LINE_BYTES_MAX", 16)


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_line_is_given_when_it_ends() -> None:
    assembler = LineAssembler()

    assert assembler.feed(b"on") == []
    assert assembler.feed(b"e\ntwo") == [Line("one", is_whole=True)]
    assert assembler.finish() == [Line("two", is_whole=True)]
    assert assembler.finish() == []


def test_empty_lines_are_lines() -> None:
    assert texts(LineAssembler().feed(b"\n\na\n")) == ["", "", "a"]


def test_carriage_return_before_the_line_end_belongs_to_it() -> None:
    assert texts(LineAssembler().feed(b"dos\r\nmac\r\r\n")) == ["dos", "mac"]


def test_progress_bar_leaves_its_last_state() -> None:
    assert texts(LineAssembler().feed(b"\r 1%\r50%\r99%\rdone\n")) == ["done"]


def test_progress_of_an_unfinished_line_can_be_seen_and_is_not_given_again() -> None:
    assembler = LineAssembler()
    assembler.feed(b"\r 1%\r 2%\r 3")

    assert texts(assembler.take_progress()) == [" 2%"]
    assert assembler.take_progress() == []
    assert texts(assembler.feed(b"%\n")) == [" 3%"]


def test_endless_progress_is_held_in_bounded_memory() -> None:
    assembler = LineAssembler()
    for percent in range(10_000):
        assert assembler.feed(b"\rat %d" % percent) == []
        assert assembler.read_offset - assembler.offset <= 32
    assert texts(assembler.feed(b"\n")) == ["at 9999"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert texts(LineAssembler().feed(b"a\xff\x00b\n")) == ["a\ufffd\ufffdb"]


def test_long_line_comes_in_pieces_that_are_not_whole() -> None:
    lines = LineAssembler().feed(b"x" * 40 + b"\nshort\n")

    assert lines == [
        Line("x" * 16, is_whole=False),
        Line("x" * 16, is_whole=False),
        Line("x" * 8, is_whole=False),
        Line("short", is_whole=True),
    ]


def test_line_as_long_as_allowed_is_whole() -> None:
    assert LineAssembler().feed(b"x" * 16 + b"\n") == [Line("x" * 16, is_whole=True)]


def test_character_is_never_cut_in_two() -> None:
    assert "".join(texts(LineAssembler().feed("€".encode() * 20 + b"\n"))) == "€" * 20


@given(data=st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"")), cuts=st.lists(st.integers(0)))
def test_chunks_make_no_difference_and_lose_nothing(data: bytes, cuts: list[int]) -> None:
    whole, pieces = LineAssembler(), LineAssembler()
    expected = whole.feed(data) + whole.finish()

    found: list[Line] = []
    for chunk in chunks_of(data, cuts):
        found += pieces.feed(chunk)
        assert pieces.read_offset - pieces.offset <= 16
    found += pieces.finish()

    assert found == expected
    assert len("".join(texts(found)).encode()) >= len(data.replace(b"\n", b""))


@given(
    text=st.text(st.sampled_from("ab\n\n€ü"), max_size=120),
    cuts=st.lists(st.integers(0), max_size=8),
    restarts=st.sets(st.integers(0, 8)),
)
def test_reading_goes_on_after_any_restart(text: str, cuts: list[int], restarts: set[int]) -> None:
    data = text.encode()
    whole = LineAssembler()
    expected = whole.feed(data) + whole.finish()

    found: list[Line] = []
    assembler = LineAssembler()
    for index, chunk in enumerate(chunks_of(data, cuts)):
        found += assembler.feed(chunk)
        if index in restarts:
            read_to = assembler.read_offset
            assembler = LineAssembler(assembler.offset, in_cut_line=assembler.in_cut_line)
            found += assembler.feed(data[assembler.read_offset : read_to])
    found += assembler.finish()

    assert found == expected


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0)))
def test_any_bytes_are_taken_in_bounded_memory(data: bytes, cuts: list[int]) -> None:
    assembler = LineAssembler()
    for chunk in chunks_of(data, cuts):
        for line in assembler.feed(chunk) + assembler.take_progress():
            assert "\n" not in line.text
            line.text.encode()
        assert assembler.read_offset - assembler.offset <= 16
    assembler.finish()
    assert assembler.offset == len(data)
