"""Merkle trees as RFC 6962 (Certificate Transparency) defines them, over SHA-256.

A leaf is hashed with the prefix 0x00 and a node with 0x01, so that neither can be passed off as the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
"""Length of every hash of a tree."""
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""Root of a tree without leaves."""
LEAF_PREFIX = b"\x00"
"""Put before the content of a leaf; for those who hash many leaves at once."""
_NODE_PREFIX = b"\x01"


def leaf_hash(content: bytes) -> bytes:
    """Hash the content of one leaf."""
    return hashlib.sha256(LEAF_PREFIX + content).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Give the root over leaf hashes, in order."""
    if not leaves:
        return EMPTY_ROOT
    level = leaves
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Give the hashes that lead from one leaf hash to the root, from the bottom up.

    Raises:
        IndexError: there is no leaf of that index.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} in a tree of {len(leaves)}")
    path = []
    level = leaves
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _level_above(level)
        index //= 2
    return path


def root_of_path(leaf: bytes, index: int, leaf_count: int, path: Sequence[bytes]) -> bytes:
    """Give the root that an inclusion path leads to (RFC 9162, 2.1.3.2).

    The leaf is in the tree exactly when this is the tree's root.

    Raises:
        ValueError: a path of this length cannot belong to that leaf.
    """
    if not 0 <= index < leaf_count:
        raise ValueError(f"no leaf {index} in a tree of {leaf_count}")
    node, last, reached = index, leaf_count - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError(f"the path is too long for leaf {index} of {leaf_count}")
        if node & 1 or node == last:
            reached = _node_hash(sibling, reached)
            # A leaf at the right edge skips the levels on which it has no sibling.
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            reached = _node_hash(reached, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ValueError(f"the path is too short for leaf {index} of {leaf_count}")
    return reached


def _level_above(level: Sequence[bytes]) -> list[bytes]:
    # A copy of what every node begins with takes less than beginning anew.
    begun = hashlib.sha256(_NODE_PREFIX).copy
    pairs, above = iter(level), []
    for left, right in zip(pairs, pairs, strict=False):
        node = begun()
        node.update(left + right)
        above.append(node.digest())
    if len(level) % 2:
        # The last one of an odd level moves up as it is: that is the split at the largest power of two.
        above.append(level[-1])
    return above


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()
