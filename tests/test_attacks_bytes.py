"""Attacks with bytes and signatures that some readers take and others do not: signed by the operator's own keys, and found all the same."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from domain.budgets import BudgetOpened
from domain.keys import KeyAdded
from domain.ledger import Append, StreamWrite
from domain.values import uuid7
from infra.envelope import pack_signature, signing_input, unpack_signatures
from infra.key_files import FileSigner
from infra.keystore import FileKeystore, key_id, verify
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.verifier.notes import LOG, BadNote, Note, NoteSignature, VerifierKey, log_signed
from tests.support.forging import FOR_ANYTHING, NEUTRAL, Operator, findings, malleable, owning, without_nonce

pytestmark = pytest.mark.anyio
LAST: Final = 5
VECTORS: Final = json.loads((Path(__file__).parent / "data" / "ed25519-speccheck" / "cases.json").read_bytes())


@pytest.fixture
async def ledger(database_url: str, keystore: FileKeystore) -> AsyncIterator[Ledger]:
    """Positions 1 to 3 are the founding keys, 4 and 5 two budgets."""
    opened = await open_ledger(database_url, keystore)
    for name in ("a", "b"):
        event = BudgetOpened(budget_id=name, label="Lake", currency="EUR", limit_minor=1)
        await opened.append(Append("acme", "usr-ana", (StreamWrite(f"budget:{name}", 0, (event,)),), uuid7()))
    assert await findings(opened) == set()
    yield opened
    await opened.close()


@pytest.fixture
async def operator(ledger: Ledger, database_url: str, keystore: FileKeystore) -> AsyncIterator[Operator]:
    async with owning(database_url) as owner:
        yield Operator(owner.connection, ledger.name, keystore, keystore.log)


async def test_an_operator_who_holds_the_keys_and_keeps_to_the_rules_is_what_only_a_witness_finds(
    ledger: Ledger, operator: Operator
) -> None:
    """So whatever the attacks below are found by, it is not the tree."""
    await operator.rewrite(LAST, lambda body: body.replace(b'"limit_minor":1', b'"limit_minor":9'))
    assert await findings(ledger) == set()


def instead(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda body: body.replace(old, new)


BODIES: Final = {
    "a key stands twice": instead(b'"limit_minor":1', b'"limit_minor":9,"limit_minor":1'),
    "a member stands twice": instead(b'"tenant":"acme"', b'"tenant":"other","tenant":"acme"'),
    "white space": instead(b'{"_sd"', b'{ "_sd"'),
    "a line feed at the end": lambda body: body + b"\n",
    "members in another order": instead(b'"currency":"EUR","label":"Lake"', b'"label":"Lake","currency":"EUR"'),
    "an integer that no double holds": instead(b'"limit_minor":1', b'"limit_minor":9007199254740993'),
    "an integer of twenty digits": instead(b'"limit_minor":1', b'"limit_minor":18446744073709551616'),
    "a float": instead(b'"limit_minor":1', b'"limit_minor":1.0'),
    "an exponent": instead(b'"limit_minor":1', b'"limit_minor":1e0'),
    "minus zero": instead(b'"limit_minor":1', b'"limit_minor":-0'),
    "not a number": instead(b'"limit_minor":1', b'"limit_minor":NaN'),
    "infinity": instead(b'"limit_minor":1', b'"limit_minor":Infinity'),
    "a lone surrogate": instead(b"Lake", rb"\ud800"),
    "a surrogate in UTF-8": instead(b"Lake", b"\xed\xa0\x80"),
    "text that is not NFC": instead(b"Lake", "La\u0308ke".encode()),
    "an escape that is not needed": instead(b"Lake", rb"\u004cake"),
    "a slash that is escaped": instead(b"Lake", rb"La\/ke"),
    "U+0000": instead(b"Lake", rb"\u0000"),
    "UTF-8 that is none": instead(b"Lake", b"L\xffke"),
    "a key that is not ASCII": instead(b'"limit_minor":1', b'"limit_minor":1,"\xc3\xa9":1'),
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "nesting without an end": instead(b'"limit_minor":1', b'"limit_minor":' + b"[" * 5_000 + b"]" * 5_000),
    "a member too many": instead(b'"v":1,', b'"v":1,"w":1,'),
    "a member too few": instead(b'"causation":null,', b""),
    "a version of ours that is not": instead(b'"v":1,', b'"v":2,'),
    "no JSON at all": lambda _: b"Lake",
}


async def test_bytes_that_readers_could_disagree_on_are_found(ledger: Ledger, operator: Operator) -> None:
    honest, found = await operator.row(LAST), {}
    for what, change in BODIES.items():
        await operator.rewrite(LAST, change)
        found[what] = await findings(ledger)
        await operator.put(LAST, *honest)
    assert found == {what: {(LAST, "body")} for what in BODIES}


# -- signatures


@pytest.mark.parametrize("number", range(12))
def test_the_published_edge_cases_of_ed25519_are_decided_as_libsodium_does(number: int) -> None:
    """3 alone holds: 0 to 2 and 8 to 11 have points of small order or not canonical, 4 and 5 need a cofactor, in 6 and 7 S is too large."""
    vector = {name: bytes.fromhex(value) for name, value in VECTORS[number].items()}
    message, public, signature = vector["message"], vector["pub_key"], vector["signature"]
    assert verify(public, message, signature) is (number == 3)
    key = VerifierKey("log.example", LOG, public)
    note = Note(message, (NoteSignature(key.name, key.key_id, signature),))
    if number == 3:
        assert log_signed(note, key)
    else:
        with pytest.raises(BadNote):
            log_signed(note, key)


Forged = Callable[[bytes, FileSigner], bytes]
SIGNATURES: Final[dict[str, Forged]] = {
    "S raised by the order of the group": lambda message, signer: malleable(signer.sign(message)),
    "R is the neutral point": lambda message, signer: without_nonce(signer, message),
    "all zero": lambda _message, _signer: bytes(64),
}


async def test_a_second_signature_for_the_same_event_is_found(ledger: Ledger, operator: Operator) -> None:
    body, packed = await operator.row(LAST)
    signer, found = operator.keys.service, {}
    assert isinstance(signer, FileSigner)
    for what, forge in SIGNATURES.items():
        forged = forge(signing_input(body), signer)
        assert forged != unpack_signatures(packed)[0][1]
        await operator.put(LAST, body, pack_signature(signer.key_id, forged))
        found[what] = await findings(ledger)
    assert found == {what: {(LAST, "signature")} for what in SIGNATURES}


async def test_a_key_that_anybody_can_sign_with_does_not_get_in(ledger: Ledger, operator: Operator) -> None:
    """The root key's holder adds the neutral point: what verifies under it, nobody need have signed, its own proof included."""
    body, _ = await operator.row(3)
    member = json.loads(body)
    public, proof = base64.b64encode(NEUTRAL).decode(), base64.b64encode(FOR_ANYTHING).decode()
    member["data"] |= {"key_id": key_id(NEUTRAL), "public": public, "proof": proof}
    await operator.rewrite(3, lambda _: json.dumps(member, sort_keys=True, separators=(",", ":")).encode(), operator.keys.root)
    assert (3, "key") in await findings(ledger)
    assert not verify(NEUTRAL, KeyAdded.statement(ledger.name, "service", key_id(NEUTRAL)), FOR_ANYTHING)
