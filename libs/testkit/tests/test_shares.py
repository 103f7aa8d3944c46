from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_testkit.shares import Share, files_of

UNIT = "not system and not engines"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="want NUMBER/COUNT"):
        Share.parse(text)


@given(
    folders=st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 500), max_size=3), max_size=6),
    count=st.integers(1, 4),
)
def test_every_file_is_in_one_share_and_folders_stay_whole(
    folders: dict[str, list[int]], count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name, sizes in folders.items():
        (root / name).mkdir()
        for number, size in enumerate(sizes):
            (root / name / f"test_{number}.py").write_text("#" * size)
    shares = [files_of(Share(number, count), [root], UNIT) for number in range(1, count + 1)]
    assert sorted(path for share in shares for path in share) == sorted(root.rglob("test_*.py"))
    owners = {path.parent: number for number, share in enumerate(shares) for path in share}
    assert all(owners[path.parent] == number for number, share in enumerate(shares) for path in share)


@pytest.mark.parametrize(
    "mark",
    [
        "pytestmark = pytest.mark.engines",
        'pytestmark = [pytest.mark.xdist_group("yard"), pytest.mark.engines]',
        "pytestmark = [\n    pytest.mark.timeout(30),\n    pytest.mark.engines,\n]",
    ],
)
def test_a_file_that_is_left_out_as_a_whole_has_no_weight(mark: str, tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(f"{mark}\n" + "#" * 1000)
    quick = tmp_path / "test_quick.py"
    quick.write_text("pytestmark = [\n    pytest.mark.timeout(30),\n]\nWHY = 'not pytest.mark.engines'\n")
    assert files_of(Share(1, 1), [tmp_path], UNIT) == {quick}


def test_a_property_weighs_more_than_its_text(tmp_path: Path) -> None:
    for folder, text in (("long", "#" * 1_000), ("other", "#" * 900), ("property", "\n@given(x)")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_it.py").write_text(text)
    shares = [files_of(Share(number, 2), [tmp_path], UNIT) for number in (1, 2)]
    assert {path.parent.name for path in shares[0]} == {"property"}
    assert {path.parent.name for path in shares[1]} == {"long", "other"}
