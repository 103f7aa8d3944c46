from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.event.v1.read_pb2 import AsOf, ReadOptions
from runyard_core.errors import InvalidInput
from runyard_servicekit.paging import (
    PageToken,
    decode_page_token,
    encode_page_token,
    page_query,
    page_size,
)

_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_numbers = st.integers(-(2**63), 2**63 - 1)
_ALL = page_query(read=None)


@given(st.integers(0, 2**62), st.lists(_texts | _numbers, max_size=4), st.lists(_texts, max_size=3))
def test_a_token_reads_back_for_the_same_query(
    position: int, after: list[str | int], parts: list[str]
) -> None:
    token, query = PageToken(position, tuple(after)), page_query(*parts, read=None)
    assert decode_page_token(encode_page_token(token, query), query, token.after) == token


@pytest.mark.parametrize(
    "forged", [(), ("a",), (1, 2), ("a", 1, 2), ("a", "1"), ("a", True), ("a\0", 1), ("a", 2**63), ("a", 1.5)]
)
def test_a_token_with_another_key_is_refused(forged: tuple[str | int, ...]) -> None:
    with pytest.raises(InvalidInput) as refused:
        decode_page_token(encode_page_token(PageToken(1, forged), _ALL), _ALL, like=("", 0))
    assert refused.value.code == "BROKEN_PAGE_TOKEN"


def test_a_token_of_a_position_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode_page_token(encode_page_token(PageToken(2**63, ("a",)), _ALL), _ALL, like=("",))


def test_a_token_of_another_query_is_refused() -> None:
    text = encode_page_token(PageToken(1, ("a",)), page_query("state=RUNNING", read=None))
    with pytest.raises(InvalidInput) as refused:
        decode_page_token(text, page_query("state=FINISHED", read=None), like=("",))
    assert refused.value.code == "BROKEN_PAGE_TOKEN"


def test_a_token_is_good_for_the_moment_that_was_asked_for() -> None:
    position, time = ReadOptions(as_of=AsOf(position=7)), ReadOptions()
    time.as_of.time.seconds = 7
    moments = {page_query(read=read) for read in (ReadOptions(), position, time)}
    assert len(moments) == 3
    # What a reader waits for is no part of what it wants to see.
    assert page_query(read=ReadOptions(as_of=AsOf(position=7), min_position=3)) == page_query(read=position)
    assert page_query(read=ReadOptions(min_position=3)) == page_query(read=ReadOptions()) == _ALL


@given(st.text(min_size=1))
def test_any_other_text_is_refused_and_never_crashes(text: str) -> None:
    with pytest.raises(InvalidInput):
        decode_page_token(text, _ALL, like=("",))


def test_page_sizes_have_a_default_a_maximum_and_are_not_negative() -> None:
    assert [page_size(n) for n in (0, 7, 10**6)] == [50, 7, 1_000]
    with pytest.raises(InvalidInput):
        page_size(-1)
