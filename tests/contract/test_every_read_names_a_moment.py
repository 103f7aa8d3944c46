from __future__ import annotations

from tests.contract.reads import (
    CHANGES,
    NOT_OF_A_MOMENT,
    WATCHES,
    is_paged,
    methods,
    names_a_moment,
    reads,
    short_name,
)


def test_every_read_of_every_service_can_name_a_moment() -> None:
    assert [short_name(each) for each in reads() if not names_a_moment(each.input_type)] == []


def test_every_page_of_a_read_can_be_of_the_moment_of_the_first() -> None:
    """A read that comes in pages says which moment they show, so that a token can hold it."""
    paged = [each for each in reads() if is_paged(each.input_type)]
    assert len(paged) > 5
    assert [
        short_name(each) for each in paged if "next_page_token" not in each.output_type.fields_by_name
    ] == []


def test_every_watch_begins_where_it_is_told() -> None:
    watches = [method for method in methods() if short_name(method) in WATCHES]
    begins = [
        {name for name in method.input_type.fields_by_name if name.startswith("after_")} for method in watches
    ]
    assert len(watches) == len(WATCHES)
    assert all(begins)


def test_every_change_can_be_asked_again_and_no_exception_is_of_the_past() -> None:
    """A list of exceptions rots: what is named in one must be there, and must belong there."""
    known = {short_name(method): method for method in methods()}
    assert sorted((CHANGES | WATCHES | NOT_OF_A_MOMENT.keys()) - known.keys()) == []
    assert [name for name in NOT_OF_A_MOMENT if names_a_moment(known[name].input_type)] == []
    unary = {name for name in CHANGES if not known[name].client_streaming}
    assert [name for name in sorted(unary) if "request_id" not in known[name].input_type.fields_by_name] == []
