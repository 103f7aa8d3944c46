"""Merkle trees against the published vectors of Certificate Transparency and another implementation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from runyard_core.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, merkle_root, root_of_path

# Inputs and roots of the tests of certificate-transparency (merkle_tree_test.cc), sizes 1 to 8.
INPUTS = [bytes.fromhex(one) for one in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
INPUTS.append(bytes(range(0x60, 0x70)))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

contents = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def leaves_of(entries: list[bytes]) -> list[bytes]:
    return [leaf_hash(entry) for entry in entries]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert merkle_root(leaves_of(INPUTS[:size])).hex() == ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert merkle_root([]) == EMPTY_ROOT


@given(contents)
def test_roots_are_those_of_another_implementation(entries: list[bytes]) -> None:
    other = InmemoryTree(algorithm="sha256")
    for entry in entries:
        other.append_entry(entry)
    assert merkle_root(leaves_of(entries)) == other.get_root()


@given(contents)
def test_every_leaf_has_a_path_to_the_root(entries: list[bytes]) -> None:
    leaves = leaves_of(entries)
    root = merkle_root(leaves)
    for index, leaf in enumerate(leaves):
        assert root_of_path(leaf, index, len(leaves), inclusion_path(leaves, index)) == root


@given(contents, st.data())
def test_a_path_proves_no_other_leaf_and_no_other_place(entries: list[bytes], data: st.DataObject) -> None:
    leaves = leaves_of(entries)
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, path = merkle_root(leaves), inclusion_path(leaves, index)
    assert root_of_path(leaf_hash(entries[index] + b"x"), index, len(leaves), path) != root
    other = data.draw(st.integers(0, len(leaves) - 1))
    if leaves[other] != leaves[index]:
        try:
            assert root_of_path(leaves[index], other, len(leaves), path) != root
        except ValueError:
            assert len(inclusion_path(leaves, other)) != len(path)


@given(contents, st.data())
def test_a_flipped_bit_of_a_path_leads_elsewhere(entries: list[bytes], data: st.DataObject) -> None:
    leaves = leaves_of(entries)
    index = data.draw(st.integers(0, len(leaves) - 1))
    path = inclusion_path(leaves, index)
    if not path:
        return
    step, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(path[step], "big") ^ 1 << bit).to_bytes(32, "big")
    assert root_of_path(leaves[index], index, len(leaves), [*path[:step], flipped, *path[step + 1 :]]) != (
        merkle_root(leaves)
    )


def test_a_path_of_the_wrong_length_is_refused() -> None:
    leaves = leaves_of(INPUTS)
    path = inclusion_path(leaves, 3)
    with pytest.raises(ValueError, match="too short"):
        root_of_path(leaves[3], 3, 8, path[:-1])
    with pytest.raises(ValueError, match="too long"):
        root_of_path(leaves[3], 3, 8, [*path, path[0]])
    with pytest.raises(ValueError, match="no leaf"):
        root_of_path(leaves[3], 8, 8, path)
    with pytest.raises(IndexError):
        inclusion_path(leaves, 8)


def test_a_node_is_no_leaf() -> None:
    leaves = leaves_of(INPUTS[:2])
    assert leaf_hash(leaves[0] + leaves[1]) != merkle_root(leaves)
