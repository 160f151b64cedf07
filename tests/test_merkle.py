"""One hash for many: whatever is changed among the leaves changes the root, and paths prove one leaf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.merkle import path, root, root_from

leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=20)

# The inputs and roots of Certificate Transparency's own tests of its Merkle tree.
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
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


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    """The published test vectors give the published roots."""
    assert root(INPUTS[:count]).hex() == ROOTS[count - 1]


@given(leaves, st.data())
def test_a_path_proves_its_leaf_and_no_other(found: list[bytes], data: st.DataObject) -> None:
    """Each leaf has the root by its path; another leaf, place or path has not."""
    index = data.draw(st.integers(0, len(found) - 1))
    beside = path(found, index)
    assert root_from(found[index], index, len(found), beside) == root(found)
    assert root_from(found[index] + b"x", index, len(found), beside) != root(found)
    assert root_from(found[index], index, len(found), [*beside, b"x" * 32]) != root(found)
    if beside:
        assert root_from(found[index], index, len(found), beside[:-1]) != root(found)
    assert root_from(found[index], len(found), len(found), beside) is None


@given(leaves, st.data())
def test_no_other_leaves_have_the_root(found: list[bytes], data: st.DataObject) -> None:
    """Changed, left out, added or put elsewhere: the root is another one."""
    other = list(found)
    at = data.draw(st.integers(0, len(other) - 1))
    match data.draw(st.sampled_from(["change", "drop", "add", "move"])):
        case "change":
            other[at] = other[at] + b"x"
        case "drop":
            del other[at]
        case "add":
            other.insert(at, b"new")
        case "move":
            other.insert(data.draw(st.integers(0, len(other) - 1)), other.pop(at))
    assert (root(other) == root(found)) == (other == found)


def test_an_inner_node_is_no_leaf() -> None:
    """Two leaves can not be told as one that holds their hashes."""
    first, second = root([b"a"]), root([b"b"])
    assert root([first + second]) != root([b"a", b"b"])
