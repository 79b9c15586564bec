"""Flips the bytes of a pack, one at a time, and tells what a verification says of each."""

from __future__ import annotations

import os
from pathlib import Path

from infra.verifier.pack import NotAPack, verify_pack
from infra.verifier.trust import Trust
from infra.verifier.workers import Workers


def flipped(pack: Path, copy: Path, trust: Trust, first: int, last: int) -> list[tuple[int, frozenset[str]]]:
    """(byte, the checks that do not hold once one bit of it is changed), from byte `first` to before `last`; `copy` is where that is tried.

    No check at all: the pack was taken for a good one.
    """
    content, found = pack.read_bytes(), []
    copy.write_bytes(content)
    with copy.open("r+b", buffering=0) as file:
        for at in range(first, min(last, len(content))):
            os.pwrite(file.fileno(), bytes([content[at] ^ 1 << at % 8]), at)
            try:
                problems = verify_pack(copy, trust, (), Workers(), lambda _phase, _done, _total: None).problems
                found.append((at, frozenset(problem.check for problem in problems)))
            except NotAPack:
                found.append((at, frozenset(["not a pack"])))
            os.pwrite(file.fileno(), content[at : at + 1], at)
    return found
