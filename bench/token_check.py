"""`token_check`: verifying an access token that was not seen before, beside pynacl's bare check of the same signatures.

The bare check knows nothing of headers, claims and clocks: what is said of a token beyond its signature is the difference.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from nacl.bindings import crypto_sign_open

from bench.lab import Lab
from bench.measure import Figure, Goal, Sample
from domain.kernel import Asker
from domain.values import Role
from infra.keystore import FileKeystore
from infra.tokens import TokenIssuer, base64url

CHECK_US: Final = 60.0
SHARE_OF_BARE: Final = 0.8
TOKENS: Final = 10_000
_WHO: Final = Asker("usr-7f3k2m", "acme", frozenset({Role.ANALYST, Role.VIEWER}), session=f"ses-{'0' * 32}")


def _issuer(lab: Lab) -> TokenIssuer:
    return TokenIssuer(FileKeystore.open(lab.subfolder("keys")).token, "bench.aureus/1")


@contextmanager
def ours(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """Each round verifies tokens that no earlier one saw, so none is answered from memory."""
    issuer = _issuer(lab)

    def measure() -> Sample:
        shown = [issuer.issue(_WHO).encode() for _ in range(lab.scaled(TOKENS))]
        return _timed(issuer.verify, shown)

    yield measure


@contextmanager
def bare(lab: Lab) -> Iterator[Callable[[], Sample]]:
    """libsodium through pynacl, on the same texts and signatures."""
    issuer = _issuer(lab)
    public = base64url(issuer.public_keys()["keys"][0]["x"].encode())
    assert public is not None

    def measure() -> Sample:
        split = [issuer.issue(_WHO).encode().rpartition(b".") for _ in range(lab.scaled(TOKENS))]
        shown = [(base64url(signature) or b"") + text for text, _, signature in split]
        return _timed(lambda message: crypto_sign_open(message, public), shown)

    yield measure


def _timed(check: Callable[[bytes], object], shown: list[bytes]) -> Sample:
    gc.freeze()  # as a server does: what was loaded before is no garbage, and is not looked through
    try:
        began = time.perf_counter()
        for one in shown:
            check(one)
        seconds = time.perf_counter() - began
    finally:
        gc.unfreeze()
    return {"rate": len(shown) / seconds, "each_us": seconds / len(shown) * 1e6}


FIGURES: Final = (
    Figure(
        "token_check",
        ours=ours,
        peers={"pynacl": bare},
        goals=(
            Goal(CHECK_US, "each_us", "us", 1.0, "lower", name="limit"),
            Goal("pynacl", "rate", "checks/s", SHARE_OF_BARE, name="pynacl"),
        ),
    ),
)
