from __future__ import annotations

from runyard.run.v1.types_pb2 import OutputFile
from runyard_contracts.answer_size import ANSWER_BYTES_MAX, items_that_fit

ITEMS = [OutputFile(path="x" * 100)] * 10


def test_as_many_items_are_given_as_fit_and_one_in_any_case() -> None:
    for size, count in ((1_100, 10), (1_000, 9), (250, 2), (1, 1)):
        fitting = items_that_fit(ITEMS, bytes_max=size)
        assert (fitting.items, fitting.has_more) == (ITEMS[:count], count < len(ITEMS))
    for wanted in (1, 9, 10, 11):
        fitting = items_that_fit(ITEMS, count_max=wanted)
        assert (fitting.items, fitting.has_more) == (ITEMS[:wanted], wanted < len(ITEMS))
    nothing = items_that_fit(ITEMS[:0], bytes_max=1)
    assert (nothing.items, nothing.has_more) == ([], False)


def test_what_is_given_goes_into_an_answer_and_nothing_behind_it_is_looked_at() -> None:
    large = OutputFile(path="x" * 1_000_000)
    endless = iter(lambda: large, None)
    fitting = items_that_fit(endless)
    assert fitting.has_more
    assert ANSWER_BYTES_MAX - 1_000_100 < len(fitting.items) * large.ByteSize() <= ANSWER_BYTES_MAX
