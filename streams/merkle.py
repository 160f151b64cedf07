"""One hash for many: Merkle trees as certificate logs have them (RFC 6962, section 2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

Node = bytes
"""SHA-256, 32 bytes."""


def root(leaves: Sequence[bytes]) -> Node:
    """The hash over all `leaves`, in their order. Leaves and inner nodes can not stand for one another."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = _half(len(leaves))
    return _join(root(leaves[:half]), root(leaves[half:]))


def path(leaves: Sequence[bytes], index: int) -> list[Node]:
    """What shows that the leaf `index` is under the root: the nodes beside its way up, lowest first."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*path(leaves[:half], index), root(leaves[half:])]
    return [*path(leaves[half:], index - half), root(leaves[:half])]


def root_from(leaf: bytes, index: int, count: int, beside: Sequence[Node]) -> Node | None:
    """The root that `leaf` gives as number `index` of `count` with that path; None where it cannot be one."""
    if not 0 <= index < count:
        return None
    if count == 1:
        return None if beside else root([leaf])
    if not beside:
        return None
    half = _half(count)
    if index < half:
        below = root_from(leaf, index, half, beside[:-1])
        return None if below is None else _join(below, beside[-1])
    below = root_from(leaf, index - half, count - half, beside[:-1])
    return None if below is None else _join(beside[-1], below)


def _half(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _join(left: Node, right: Node) -> Node:
    return hashlib.sha256(b"\1" + left + right).digest()
