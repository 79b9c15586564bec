"""Which key may sign what, where: the verifier against a model that looks through the whole history for every question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.verifier.ledger import Verifier
from infra.verifier.result import Result
from infra.verifier.trust import Trust
from tests.support.by_hand import LOG, ROOT, SERVICE, ByHand, Key, b64

OTHERS: Final = [Key(number) for number in range(10, 16)]
ALL: Final = [ROOT, LOG, SERVICE, *OTHERS]
ROLES: Final = ("root", "log", "service", "actor", "witness")
ACTOR: Final = "usr-ana"
HOLDER: Final = f"acme/{ACTOR}"
FIRST: Final = 4
"""The position after the founding keys."""


def verified(log: ByHand, checkpoint: bytes | None = None, trust: Trust | None = None) -> Result:
    verifier = Verifier(trust or Trust(root_keys=(ROOT.id,)))
    verifier.add(log.entries)
    return verifier.finish(checkpoint or log.checkpoint())


def found(log: ByHand) -> set[tuple[int | None, str]]:
    return {(problem.position, problem.check) for problem in verified(log).problems}


# -- the model


@dataclass
class Life:
    """When a key came, and when it went."""

    role: str
    holder: str | None
    added: int
    rotated: int | None = None
    revoked: int | None = None
    since: int | None = None

    def signs(self, position: int) -> bool:
        came = self.added < position or (self.role == "root" and self.added == position == 1)
        return came and (self.rotated is None or position <= self.rotated) and (self.revoked is None or position < self.revoked)


@dataclass
class Model:
    """What the rules say, position by position."""

    lives: dict[str, Life]
    wrong: set[int] = field(default_factory=set)
    signed: list[tuple[str, int]] = field(default_factory=list)

    def event(self, position: int, by: Key, *, adds_a_key: bool = False) -> bool:
        """Whether an event is signed by a key that may."""
        life = self.lives.get(by.id)
        good = life is not None and life.signs(position) and (life.role == "service" or (life.role == "root" and adds_a_key))
        if good:
            self.signed.append((by.id, position))
        else:
            self.wrong.add(position)
        return good

    def require(self, position: int, good: bool) -> bool:
        if not good:
            self.wrong.add(position)
        return good

    def of_actor(self, position: int) -> set[str]:
        """The keys that the actor signs its requests with."""
        return {key_id for key_id, life in self.lives.items() if (life.role, life.holder) == ("actor", HOLDER) and life.signs(position)}

    def current(self, key: Key, role: str | None = None) -> Life | None:
        life = self.lives.get(key.id)
        return life if life and life.rotated is None and life.revoked is None and role in (None, life.role) else None


Step = Callable[[ByHand, Model], None]
keys = st.sampled_from(ALL)
signers = st.sampled_from([SERVICE] * 6 + ALL)


@st.composite
def additions(draw: st.DrawFn) -> Step:
    key, by, root = draw(keys), draw(signers), draw(st.sampled_from([ROOT] * 4 + ALL))
    role = draw(st.sampled_from(ROLES))
    holder = draw(st.sampled_from([HOLDER] * 4 + [None])) if role in ("actor", "witness") else draw(st.sampled_from([None] * 6 + [HOLDER]))

    def step(log: ByHand, model: Model) -> None:
        position = log.key_added(key, role, holder, root, by)
        let_in = (life := model.lives.get(root.id)) is not None and life.role == "root" and life.signs(position)
        fits = role != "root" and (holder is not None) == (role in ("actor", "witness"))
        if model.event(position, by, adds_a_key=True) and model.require(position, let_in and fits and key.id not in model.lives):
            model.lives[key.id] = Life(role, holder, position)

    return step


@st.composite
def rotations(draw: st.DrawFn) -> Step:
    old, new, by, role = draw(keys), draw(keys), draw(signers), draw(st.sampled_from(ROLES) | st.none())

    def step(log: ByHand, model: Model) -> None:
        life = model.current(old)
        said = role or (life.role if life else "service")
        position = log.key_rotated(old, new, said, by)
        if not model.event(position, by):
            return
        if model.require(position, life is not None and life.role == said and new.id not in model.lives) and life is not None:
            life.rotated = position
            model.lives[new.id] = Life(life.role, life.holder, position)

    return step


@st.composite
def revocations(draw: st.DrawFn) -> Step:
    key, by, since = draw(keys), draw(signers), draw(st.none() | st.integers(0, 30))

    def step(log: ByHand, model: Model) -> None:
        position = log.key_revoked(key, since, by)
        life = model.lives.get(key.id)
        good = life is not None and life.revoked is None and (since is None or 1 <= since <= position)
        # An event that revokes the very key it is signed by is not signed by a key in force, and revokes all the same.
        model.event(position, by)
        known = model.lives.get(by.id)
        if known is not None and known.role == "service" and known.signs(position) and model.require(position, good):
            assert life is not None
            life.revoked, life.since = position, since
            if by is key:
                model.wrong.add(position)
                model.signed = [one for one in model.signed if one != (key.id, position)]

    return step


@st.composite
def events(draw: st.DrawFn) -> Step:
    by = draw(keys)

    def step(log: ByHand, model: Model) -> None:
        position = log.append("budgets.budget_closed", {"budget_id": "lake"}, by)
        if model.event(position, by):
            model.require(position, not model.of_actor(position))  # with a key in force, what is done is asked for with it

    return step


@st.composite
def actions(draw: st.DrawFn) -> Step:
    signer, kind = draw(st.none() | st.sampled_from(ALL)), draw(st.sampled_from(["action_allowed", "action_parked", "action_blocked"]))

    def step(log: ByHand, model: Model) -> None:
        position = log.action(ACTOR, signer, kind=kind)
        if not model.event(position, SERVICE):
            return
        current = model.of_actor(position)
        model.require(position, signer.id in current if signer else not current or kind == "action_blocked")

    return step


@settings(max_examples=150)
@given(st.lists(additions() | rotations() | revocations() | events() | actions(), max_size=16), keys)
def test_the_rules_of_keys_are_those_of_the_model(steps: list[Step], checkpointed_by: Key) -> None:
    log = ByHand.founded()
    model = Model({key.id: Life(role, None, at) for at, (role, key) in enumerate((("root", ROOT), ("log", LOG), ("service", SERVICE)), 1)})
    model.signed = [(ROOT.id, position) for position in (1, 2, 3)]
    for step in steps:
        step(log, model)
    result = verified(log, log.checkpoint(checkpointed_by))
    assert {problem.position for problem in result.problems if problem.position} == model.wrong
    disputed = {
        position
        for key_id, position in model.signed
        if (life := model.lives[key_id]).revoked and life.since is not None and life.since <= position < life.revoked
    }
    assert set(result.disputed) == disputed
    signer, size = model.lives.get(checkpointed_by.id), len(log.entries)
    trusted = signer is not None and signer.role == "log" and signer.signs(size)
    assert {problem.check for problem in result.problems if problem.position is None} == (set() if trusted else {"checkpoint"})


# -- what the model does not say


def test_a_key_that_is_revoked_signs_not_even_its_own_revocation() -> None:
    log = ByHand.founded()
    log.key_added(OTHERS[0], "service")
    log.key_revoked(OTHERS[0], by=OTHERS[0])
    assert found(log) == {(5, "key")}


def test_what_an_actor_asked_for_with_a_key_is_judged_by_the_keys_it_had_when_it_asked() -> None:
    """The action that brings the first key in cannot be signed with it; the one that takes the last out is."""
    log, mine, next_one = ByHand.founded(), OTHERS[0], OTHERS[1]
    adding, rotating, revoking = (str(UUID(int=number)) for number in (1, 2, 3))
    log.key_added(mine, "actor", HOLDER, causation=adding)
    log.action(ACTOR, None, stream=f"action:{adding}")
    log.key_rotated(mine, next_one, "actor", causation=rotating)
    log.action(ACTOR, mine, stream=f"action:{rotating}")
    log.key_revoked(next_one, causation=revoking)
    log.action(ACTOR, next_one, stream=f"action:{revoking}")
    log.action(ACTOR, None)
    assert found(log) == set()
    log.action(ACTOR, mine)
    assert found(log) == {(11, "request")}


def of_an_action(action: str, told: dict[str, Any], ended: str = "action_allowed", **fact: Any) -> set[tuple[int | None, str]]:
    """What is said of a fact in the name of somebody with a key, before an action that they signed."""
    log = ByHand.founded()
    log.key_added(OTHERS[0], "actor", HOLDER)
    log.append(fact.pop("kind", "budgets.budget_closed"), {"budget_id": "lake"}, causation=str(UUID(int=7)), **fact)
    log.action(ACTOR, OTHERS[0], kind=ended, told=told, stream=f"action:{action}")
    return found(log)


def test_what_stands_in_the_name_of_somebody_with_a_key_came_of_an_action_that_they_signed() -> None:
    its_own, another = str(UUID(int=7)), str(UUID(int=8))
    closed = {"type": "budgets.budget_closed", "stream": "budget:lake", "version": 1}
    assert of_an_action(its_own, {"outputs": [closed]}) == set()
    assert of_an_action(its_own, {"outputs": [], "approval_id": "a1"}, kind="approvals.approval_used", stream="approval:a1") == set()
    assert of_an_action(another, {"outputs": [closed]}) == {(5, "request")}
    for outputs in ([], [closed | {"version": 2}], [closed | {"stream": "budget:sea"}]):
        assert of_an_action(its_own, {"outputs": outputs}) == {(5, "request")}


def test_what_waits_for_an_approval_is_the_request_for_one_and_no_more() -> None:
    its_own = str(UUID(int=7))
    asked = {"kind": "approvals.approval_requested", "stream": f"approval:{its_own}"}
    assert fact_parked(its_own, **asked) == set()
    assert fact_parked(its_own) == {(5, "request")}


def fact_parked(action: str, **fact: Any) -> set[tuple[int | None, str]]:
    return of_an_action(action, {"approval_id": action}, "action_parked", **fact)


def signed_action(change: Callable[[dict[str, Any]], None]) -> set[tuple[int | None, str]]:
    """What is said of an action whose data were changed after its actor had signed, and before the service did."""
    log = ByHand.founded()
    log.key_added(OTHERS[0], "actor", HOLDER)
    log.action(ACTOR, OTHERS[0])
    honest = log.bodies.pop()
    log.entries.pop()
    change(honest)
    log.append(
        honest["type"], honest["data"], **{name: honest[name] for name in ("actor", "stream", "schema", "tenant")}, version=1, prev=""
    )
    return found(log)


CHANGES: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "another command": lambda body: body["data"]["intent"].update(command="budgets.open_budget"),
    "another digest": lambda body: body["data"]["intent"].update(digest="0" * 64),
    "other inputs": lambda body: body["data"]["intent"].update(inputs={"budget_id": "pond"}),
    "another nonce": lambda body: body["data"]["signature"].update(nonce=str(UUID(int=99))),
    "another time": lambda body: body["data"]["signature"].update(at="2027-03-03T14:00:00.000000Z"),
    "another tenant": lambda body: body.update(tenant="beta"),
    "another actor": lambda body: body.update(actor="usr-eve"),
    "another key": lambda body: body["data"]["signature"].update(key_id=SERVICE.id),
    "a signature that is none": lambda body: body["data"]["signature"].update(sig=b64(bytes(64))),
    "a signature that cannot be read": lambda body: body["data"].update(signature="yes"),
    "a nonce that is no text": lambda body: body["data"]["signature"].update(nonce=7),
    "no intent": lambda body: body["data"].pop("intent"),
}


def test_a_signed_action_that_nobody_changed_holds() -> None:
    assert signed_action(lambda _body: None) == set()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_is_changed_of_a_signed_action_is_found(change: Callable[[dict[str, Any]], Any]) -> None:
    assert signed_action(change) == {(5, "request")}


def test_inputs_that_were_too_large_to_keep_are_known_by_their_digest() -> None:
    digest: list[str] = []

    def cut(body: dict[str, Any]) -> None:
        digest.append(body["data"]["intent"]["digest"])
        body["data"]["intent"]["inputs"] = {"sha256_of_large_inputs": digest[0]}

    assert signed_action(cut) == set()


def test_a_request_that_is_recorded_twice_is_found() -> None:
    log = ByHand.founded()
    log.key_added(OTHERS[0], "actor", HOLDER)
    log.action(ACTOR, OTHERS[0], nonce=7)
    log.action(ACTOR, OTHERS[0], nonce=7)
    assert found(log) == {(6, "request")}
    assert verified(log).request_signatures == 2


def test_a_kept_checkpoint_of_a_log_key_in_other_hands_is_said_to_be_one() -> None:
    """Whoever stole the key has signed another history; so may the operator have, and have the key revoked afterwards."""
    log, other = ByHand.founded(), ByHand.founded()
    for one in (log, other):
        one.append("budgets.budget_closed", {"by": str(id(one))})
    log.key_rotated(LOG, OTHERS[0], "log")
    log.key_revoked(LOG, since=4)
    for kept, told in ((log.checkpoint(LOG, 4), []), (other.checkpoint(LOG), ["the log key was in other hands since position 4"])):
        verifier = Verifier(Trust(root_keys=(ROOT.id,)), [kept])
        verifier.add(log.entries)
        problems = verifier.finish(log.checkpoint(OTHERS[0])).problems
        assert [problem.check for problem in problems] == ["history"] * len(told)
        assert all(words in problem.found for words, problem in zip(told, problems, strict=True))
