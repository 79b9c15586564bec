"""Keys: who may let one in, hand it on and take it out, and every reason why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from commands.keys import DECIDER, KEYS_MAX, AddKey, RevokeKey, key_id_of
from domain.access import Actor, Registration
from domain.kernel import Asker
from domain.keys import KeyAdded, KeyEvent, KeyRevoked, KeyRotated
from domain.values import ActorKind, Role
from infra.key_files import FileSigner, verify
from tests.given import ADMIN, AGENT, ANALYST, Given, given
from tests.support.keys import MADE, adding, new_key, rotating, text

LEDGER = "aureus.test/keys"
ROOT, LOG, SERVICE = (new_key(role, None) for role in ("root", "log", "service"))
ANA, WITNESS = new_key("actor", "acme/usr-ana"), new_key("witness", "witness.example.org/north")
REGISTERED = Registration(Actor("usr-ana", ActorKind.PERSON, frozenset({Role.ANALYST})))


def added(key: FileSigner, **more: Any) -> KeyAdded:
    proof = text(key.sign(KeyAdded.statement(LEDGER, key.role, key.key_id)))
    said = {"key_id": key.key_id, "role": key.role, "custody": key.custody, "public": text(key.public), "holder": key.holder}
    return KeyAdded.model_validate({**said, "proof": proof, **more})


FOUNDING = tuple(added(key) for key in (ROOT, LOG, SERVICE))


def ledger(*history: KeyEvent, by: Asker = ANALYST) -> Given:
    """A founded ledger in which `usr-ana` is registered, and what happened to its keys since."""
    there = given(DECIDER, *FOUNDING, *history).by(by).beside(**{"actor:usr-ana": REGISTERED})
    return replace(there, asked=replace(there.asked, ledger=LEDGER, signed=verify))


# -- letting in


def test_an_actor_adds_a_key_of_its_own_with_the_roots_authorisation() -> None:
    command = adding(LEDGER, ANA, ROOT)
    expected = added(ANA, authorised_by=ROOT.key_id, authorisation=command.authorisation)
    ledger().when(command).then(expected)


def test_an_administrator_adds_the_key_of_a_witness() -> None:
    command = adding(LEDGER, WITNESS, ROOT)
    ledger(by=ADMIN).when(command).then(added(WITNESS, authorised_by=ROOT.key_id, authorisation=command.authorisation))
    ledger().when(command).refused("key_of_another")


def test_what_the_root_has_to_sign_is_said_to_the_byte() -> None:
    command = adding(LEDGER, ANA)
    said = command.authorisation_statement(LEDGER).decode()
    assert said == f"aureus key authorised\n{LEDGER}\nactor\n{ANA.key_id}\nclient\nacme/usr-ana\n"
    ledger().when(command).refused("authorisation_missing", field="authorisation", sign=said, root_keys=[ROOT.key_id])


@pytest.mark.parametrize("signer", [LOG, SERVICE, ANA], ids=lambda key: key.role)
def test_nobody_but_the_root_authorises(signer: FileSigner) -> None:
    ledger().when(adding(LEDGER, ANA, signer)).refused("authorisation_wrong", root_keys=[ROOT.key_id])
    claimed = adding(LEDGER, ANA, signer).model_copy(update={"authorised_by": ROOT.key_id})
    ledger().when(claimed).refused("authorisation_wrong")


def test_an_authorisation_is_for_exactly_what_it_names() -> None:
    other = new_key("witness", "witness.example.org/south")
    for wanted, given_for in ((adding(LEDGER, ANA), ANA), (adding(LEDGER, WITNESS), WITNESS)):
        by = ADMIN if given_for is WITNESS else ANALYST
        for changed in ({"custody": "kms"}, {"public": text(other.public), "proof": adding(LEDGER, other).proof, "role": "witness"}):
            command = wanted.model_copy(update=changed)
            taken = {name: getattr(adding(LEDGER, given_for, ROOT), name) for name in ("authorised_by", "authorisation")}
            ledger(by=by if command.role == "actor" else ADMIN).when(command.model_copy(update=taken)).refused("authorisation_wrong")


def test_a_proof_and_an_authorisation_for_another_ledger_are_worth_nothing_here() -> None:
    ledger().when(adding("aureus.test/other", ANA, ROOT)).refused("proof_wrong", field="proof")
    elsewhere = adding("aureus.test/other", ANA, ROOT)
    here = adding(LEDGER, ANA).model_copy(update={"authorised_by": ROOT.key_id, "authorisation": elsewhere.authorisation})
    ledger().when(here).refused("authorisation_wrong")


def test_a_key_that_its_asker_does_not_hold_is_refused() -> None:
    stolen = adding(LEDGER, ANA, ROOT).model_copy(update={"public": text(new_key().public)})
    ledger().when(stolen).refused("proof_wrong")


def test_nobody_adds_a_key_for_somebody_else_not_even_an_administrator() -> None:
    for by in (ADMIN, AGENT):
        ledger(by=by).when(adding(LEDGER, ANA, ROOT)).refused("key_of_another", field="holder")


def test_the_holder_is_a_registered_actor() -> None:
    unknown = ledger().beside(**{"actor:usr-ana": Registration()})
    unknown.when(adding(LEDGER, ANA, ROOT)).refused("actor_not_found", field="holder")
    assert adding(LEDGER, ANA).relies_on() == ("actor:usr-ana",)


@pytest.mark.parametrize("then", [(), (KeyRevoked(key_id=ANA.key_id, reason="lost"),)])
def test_a_key_never_enters_twice_whatever_became_of_it(then: tuple[KeyEvent, ...]) -> None:
    ledger(added(ANA), *then).when(adding(LEDGER, ANA, ROOT)).refused("key_exists", key_id=ANA.key_id)


def test_a_key_of_the_ledger_cannot_come_in_as_an_actors() -> None:
    borrowed = FileSigner.from_seed("actor", SERVICE.seed, MADE, "client", "usr-ana")
    ledger().when(adding(LEDGER, borrowed, ROOT)).refused("key_exists")


def test_a_holder_has_five_keys_at_most_and_room_again_after_one_is_revoked() -> None:
    held = [new_key() for _ in range(KEYS_MAX)]
    full = [added(key) for key in held]
    ledger(*full).when(adding(LEDGER, ANA, ROOT)).refused("too_many_keys", limit=KEYS_MAX)
    freed = ledger(*full, KeyRevoked(key_id=held[0].key_id, reason="lost")).when(adding(LEDGER, ANA, ROOT))
    assert freed.refusal is None


@pytest.mark.parametrize("key", [ANA, WITNESS], ids=lambda key: key.role)
def test_the_server_never_holds_the_key_of_an_actor_or_a_witness(key: FileSigner) -> None:
    kept_here = adding(LEDGER, key, ROOT).model_copy(update={"custody": "server"})
    ledger(by=ADMIN if key is WITNESS else ANALYST).when(kept_here).refused("custody_of_role", field="custody")


@pytest.mark.parametrize("role", ["root", "log", "service", "token", "vault"])
def test_the_ledgers_own_keys_are_never_added(role: str) -> None:
    with pytest.raises(ValidationError, match="role"):
        AddKey.model_validate({**adding(LEDGER, ANA, ROOT).model_dump(), "role": role})


@pytest.mark.parametrize("public", ["", "AAAA", text(bytes(31)), text(bytes(33)), text(bytes(32)).rstrip("="), text(bytes(32))[:-2] + "B="])
def test_a_public_key_is_32_bytes_in_the_one_base64_there_is(public: str) -> None:
    with pytest.raises(ValidationError, match="base64, with padding, of 32 bytes"):
        AddKey.model_validate({**adding(LEDGER, ANA).model_dump(), "public": public})


@pytest.mark.parametrize("holder", ["", "usr-ana\nclient", "usr ana", "usr-ana+1", "x" * 201])
def test_a_holder_is_one_word_for_it_is_a_line_of_what_is_signed(holder: str) -> None:
    with pytest.raises(ValidationError, match="holder"):
        AddKey.model_validate({**adding(LEDGER, ANA).model_dump(), "holder": holder})


def test_a_small_order_key_proves_nothing() -> None:
    """Whose signatures anybody can make, over anything."""
    identity = bytes([1]) + bytes(31)
    weak = adding(LEDGER, ANA, ROOT).model_copy(update={"public": text(identity), "proof": text(identity + bytes(32))})
    ledger().when(weak).refused("proof_wrong")


def test_the_roots_word_is_no_part_of_the_question() -> None:
    """So a server that has the root key can add it to what an actor signed."""
    assert adding(LEDGER, ANA).digest() == adding(LEDGER, ANA, ROOT).digest()
    assert adding(LEDGER, ANA).digest() != adding(LEDGER, new_key()).digest()


# -- handing on


def test_a_holder_hands_its_key_on_and_both_keys_sign_that() -> None:
    new = new_key()
    command = rotating(LEDGER, ANA, new)
    expected = KeyRotated(
        old_key_id=ANA.key_id,
        key_id=new.key_id,
        role="actor",
        custody="client",
        public=text(new.public),
        proof=command.proof,
        consent=command.consent,
        holder="acme/usr-ana",
    )
    ledger(added(ANA)).when(command).then(expected)


def test_an_actors_key_is_nobody_elses_to_hand_on() -> None:
    for by in (ADMIN, AGENT):
        ledger(added(ANA), by=by).when(rotating(LEDGER, ANA, new_key())).refused("key_of_another")


@pytest.mark.parametrize("old", [ROOT, LOG, SERVICE, WITNESS], ids=lambda key: key.role)
def test_the_other_keys_are_an_administrators_to_hand_on(old: FileSigner) -> None:
    command = rotating(LEDGER, old, new_key(old.role, old.holder))
    done = ledger(added(WITNESS), by=ADMIN).when(command)
    assert [type(event) for event in done.events] == [KeyRotated]
    ledger(added(WITNESS)).when(command).refused("key_of_another")


def test_a_rotation_needs_both_keys() -> None:
    new, other = new_key(), new_key()
    whole, forged = rotating(LEDGER, ANA, new), rotating(LEDGER, other, new)
    unproven = whole.model_copy(update={"public": text(other.public)})
    ledger(added(ANA)).when(whole.model_copy(update={"consent": forged.consent})).refused("consent_wrong", field="consent")
    ledger(added(ANA)).when(unproven).refused("proof_wrong", field="proof")
    ledger(added(ANA)).when(rotating("aureus.test/other", ANA, new)).refused("proof_wrong")


def test_a_key_stays_what_it_is_for() -> None:
    """A service key in an actor's hands would sign events."""
    posing = rotating(LEDGER, replace(ANA, role="service"), new_key("service", None))
    ledger(added(ANA)).when(posing).refused("role_differs", field="role")


def test_what_takes_over_is_new() -> None:
    other = new_key()
    ledger(added(ANA), added(other)).when(rotating(LEDGER, ANA, other)).refused("key_exists")
    ledger(added(ANA)).when(rotating(LEDGER, ANA, ANA)).refused("key_exists")


def test_a_key_hands_on_once_and_never_after_it_was_revoked() -> None:
    second, third = new_key(), new_key()
    once = rotated(ANA, second)
    ledger(added(ANA), once).when(rotating(LEDGER, ANA, third)).refused("key_not_active", field="old_key_id")
    ledger(added(ANA), KeyRevoked(key_id=ANA.key_id, reason="lost")).when(rotating(LEDGER, ANA, third)).refused("key_not_active")
    ledger().when(rotating(LEDGER, ANA, second)).refused("key_not_found", field="old_key_id")


def test_after_its_rotation_the_old_root_authorises_nothing() -> None:
    new_root = new_key("root", None)
    turned = rotated(ROOT, new_root)
    ledger(turned).when(adding(LEDGER, ANA, ROOT)).refused("authorisation_wrong", root_keys=[new_root.key_id])
    assert ledger(turned).when(adding(LEDGER, ANA, new_root)).refusal is None


def test_a_key_of_an_actor_cannot_be_handed_to_the_server() -> None:
    kept_here = FileSigner.from_seed("actor", new_key().seed, MADE, "server", "usr-ana")
    ledger(added(ANA)).when(rotating(LEDGER, ANA, kept_here)).refused("custody_of_role")


# -- taking out


def test_a_holder_or_an_administrator_takes_a_key_out() -> None:
    command = RevokeKey(key_id=ANA.key_id, reason="The laptop was stolen", compromised_since=17)
    expected = KeyRevoked(key_id=ANA.key_id, reason="The laptop was stolen", compromised_since=17)
    for by in (ANALYST, ADMIN):
        ledger(added(ANA), by=by).when(command).then(expected)
    ledger(added(ANA), by=AGENT).when(command).refused("key_of_another")
    assert command.restrains, "it only takes power away: carried out even when no policy can answer"


def test_a_revoked_key_stays_so() -> None:
    gone = KeyRevoked(key_id=ANA.key_id, reason="lost")
    ledger(added(ANA), gone).when(RevokeKey(key_id=ANA.key_id, reason="again", compromised_since=1)).refused("key_revoked")
    ledger().when(RevokeKey(key_id=ANA.key_id, reason="lost")).refused("key_not_found", field="key_id")


@pytest.mark.parametrize("key", [LOG, SERVICE], ids=lambda key: key.role)
def test_what_the_server_signs_with_is_rotated_first_and_can_be_disputed_then(key: FileSigner) -> None:
    command = RevokeKey(key_id=key.key_id, reason="The disk was copied", compromised_since=4)
    ledger(by=ADMIN).when(command).refused("key_in_use", role=key.role)
    done = ledger(rotated(key, new_key(key.role, None)), by=ADMIN).when(command)
    assert done.events == (KeyRevoked(key_id=key.key_id, reason="The disk was copied", compromised_since=4),)


def test_the_root_is_never_revoked() -> None:
    ledger(by=ADMIN).when(RevokeKey(key_id=ROOT.key_id, reason="lost")).refused("root_not_revocable")


def rotated(old: FileSigner, new: FileSigner) -> KeyRotated:
    command = rotating(LEDGER, old, new)
    said = {"key_id": key_id_of(command.public), "holder": old.holder}
    return KeyRotated.model_validate({**said, **command.model_dump()})


def test_policies_see_what_a_key_is_for() -> None:
    ring = DECIDER.replay([*FOUNDING, added(ANA)])
    assert DECIDER.facts(ring, adding(LEDGER, WITNESS)) == {"key_role": "witness", "custody": "client"}
    assert DECIDER.facts(ring, rotating(LEDGER, SERVICE, new_key())) == {"key_role": "service", "custody": "client"}
    lost = RevokeKey(key_id=ANA.key_id, reason="lost", compromised_since=1)
    assert DECIDER.facts(ring, lost) == {"key_role": "actor", "compromised": True}
    assert DECIDER.facts(DECIDER.initial, lost)["key_role"] is None
