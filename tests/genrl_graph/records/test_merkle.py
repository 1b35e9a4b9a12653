"""Merkle trees: the roots of RFC 6962's test vectors in Certificate Transparency, and paths that hold or do not."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrl_graph.records.merkle import leaf, path, root, root_of_path

LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
}


@pytest.mark.parametrize("count", ROOTS)
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    assert root([leaf(data) for data in LEAVES[:count]]).hex() == ROOTS[count]


@given(st.integers(1, 40), st.data())
def test_a_path_leads_to_the_root_from_its_own_leaf_and_place_only(count: int, data: st.DataObject) -> None:
    leaves = [hashlib.sha256(bytes([at])).digest() for at in range(count)]
    at = data.draw(st.integers(0, count - 1))
    hashes = path(leaves, at)
    assert root_of_path(leaves[at], at, count, hashes) == root(leaves)
    assert root_of_path(leaf(b"another"), at, count, hashes) != root(leaves)
    assert root_of_path(leaves[at], count, count, hashes) is None
    assert root_of_path(leaves[at], at, count, [*hashes, leaves[0]]) is None
