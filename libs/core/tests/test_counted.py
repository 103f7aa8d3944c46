from __future__ import annotations

from runyard_core.counted import count_words


def test_one_is_not_many() -> None:
    assert count_words(1, "file") == "1 file"
    assert count_words(1200, "entry", "entries") == "1,200 entries"
