"""The tree: the frontier's root is the root RFC 6962 defines, however the leaves arrive."""

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from infra.merkle import EMPTY_ROOT, Frontier, leaf_hash, node_hash


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(_root(leaves[:split]), _root(leaves[split:]))


# The published inputs and roots of the RFC 6962 reference tree (certificate-transparency, transparency-dev/merkle).
_INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
_ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def test_the_published_roots() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in _INPUTS]
    assert {size: Frontier().extend(leaves[:size]).root().hex() for size in _ROOTS} == _ROOTS
    assert Frontier().root() == EMPTY_ROOT


@given(st.lists(st.integers(0, 9), max_size=12))
def test_batches_lead_to_the_root_of_all_leaves(batch_sizes: list[int]) -> None:
    leaves = [leaf_hash(bytes([index])) for index in range(sum(batch_sizes))]
    frontier, start = Frontier(), 0
    for size in batch_sizes:
        frontier = frontier.extend(leaves[start : start + size])
        frontier = Frontier.load(frontier.size, frontier.dump())
        start += size
    assert (frontier.size, frontier.root()) == (len(leaves), _root(leaves))
