"""Lists of files that one event cannot name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runyard_contracts.file_list import ListedFile, format_file_list, parse_file_list

PATHS = st.text(alphabet=st.sampled_from("a b/\\\n\r\u2028é"), min_size=1, max_size=12)
FILES = st.builds(ListedFile, PATHS, st.sampled_from(["a" * 64, "b" * 64]), st.integers(0, 1 << 62))


def test_a_list_has_one_line_for_each_version_of_each_path_in_one_order() -> None:
    files = [ListedFile("b", "1" * 64, 5), ListedFile("a\n", "2" * 64, 0), ListedFile("b", "0" * 64, 6)]
    text = f"{'2' * 64} 0 a\\n\n{'0' * 64} 6 b\n{'1' * 64} 5 b\n".encode()
    assert format_file_list(files) == format_file_list(reversed(files)) == text


@given(st.lists(FILES, max_size=4, unique=True))
def test_a_list_is_read_as_it_was_written(files: list[ListedFile]) -> None:
    content = format_file_list(files)
    read = parse_file_list(content)
    assert set(read) == set(files)
    assert format_file_list(read) == content
