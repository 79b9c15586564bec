"""Subjects decide: who may be erased, what a hold prevents, and that nobody but Aureus says what it destroyed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from pydantic import ValidationError

from commands.subjects import (
    HOLD_REGISTER,
    HOLDS,
    RETENTION,
    SUBJECTS,
    AttachArtifact,
    BeginErasure,
    CancelErasure,
    CertifyErasure,
    DescribeSubject,
    DetachArtifact,
    EraseSubject,
    LiftRetentionRule,
    PlaceHold,
    ReleaseHold,
    ReopenSubject,
    SetRetentionRule,
)
from domain.access import Actor, Registration
from domain.catalog import Jurisdiction
from domain.evidence import Artifact, ArtifactRegistered
from domain.kernel import Asker, Refused
from domain.subjects import (
    ERASER,
    ArtifactAttached,
    ArtifactDetached,
    ErasureBegun,
    ErasureCancelled,
    ErasureOrdered,
    Hold,
    HoldPlaced,
    HoldReleased,
    Holds,
    Order,
    RetentionRuleLifted,
    RetentionRuleSet,
    Subject,
    SubjectDescribed,
    SubjectErased,
    SubjectReopened,
    evolve,
)
from domain.values import ActorKind, Role
from tests.given import ADMIN, AGENT, AT, Given, given

ITSELF = Asker(ERASER, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
LEGAL = Asker("usr-leg", "acme", frozenset({Role.AUDITOR}))
SHA = "a" * 64
DESCRIBED = SubjectDescribed(subject_id="s", kind="customer", jurisdiction=Jurisdiction.EU)
ATTACHED = ArtifactAttached(subject_id="s", sha256=SHA, purpose="governance")
ORDERED = ErasureOrdered(subject_id="s", ground="objection")
BEGUN = ErasureBegun(subject_id="s", ordered_position=7)
DONE: dict[str, Any] = {"subject_id": "s", "ordered_position": 7, "until": 9, "purposes": ("governance",), "fields": 3, "keys": 1}
ERASED = SubjectErased(**DONE, everything=True, ground="objection")
MARKETING = ErasureOrdered(subject_id="s", purposes=("marketing",), ground="objection")
PARTLY = SubjectErased(**{**DONE, "purposes": ("marketing",)}, everything=False, ground="objection")
NOBODY = Holds()


def subject(*history: Any, holds: Holds = NOBODY, registered: bool = False) -> Given:
    """A subject with this history, beside these holds; `registered`: there is an actor of that id."""
    actor = Registration(Actor("s", ActorKind.PERSON, frozenset()) if registered else None)
    stored = ArtifactRegistered(sha256=SHA, size_bytes=1, media_type="text/plain", name="n", kind="file")
    others = {HOLDS: holds, "actor:s": actor, f"artifact:{SHA}": Artifact(stored), f"artifact:{'b' * 64}": Artifact()}
    return given(SUBJECTS, *history).by(ADMIN).beside(**others)


def held(on: frozenset[str] | None, **fields: Any) -> Holds:
    hold = Hold(on, "3 Cg 17/26k", fields.pop("until", None))
    return Holds(placed=Holds().placed.set("h", hold), used=frozenset({"h"}))


# -- describing, attaching


def test_what_is_said_twice_is_said_once() -> None:
    subject().when(DescribeSubject(subject_id="s", kind="customer", jurisdiction=Jurisdiction.EU)).then(DESCRIBED)
    subject(DESCRIBED).when(DescribeSubject(subject_id="s", kind="customer", jurisdiction=Jurisdiction.EU)).then()
    subject().when(AttachArtifact(subject_id="s", sha256=SHA)).then(ATTACHED)
    subject(ATTACHED).when(AttachArtifact(subject_id="s", sha256=SHA)).then()
    subject(ATTACHED).when(DetachArtifact(subject_id="s", sha256=SHA)).then(ArtifactDetached(subject_id="s", sha256=SHA))


def test_only_stored_artifacts_are_attached_and_only_attached_ones_detached() -> None:
    subject().when(AttachArtifact(subject_id="s", sha256="b" * 64)).refused("artifact_not_found", field="sha256")
    subject().when(DetachArtifact(subject_id="s", sha256=SHA)).refused("artifact_not_attached", field="sha256")
    subject(ATTACHED, ORDERED, BEGUN).when(DetachArtifact(subject_id="s", sha256=SHA)).refused("erasure_begun")
    subject(ATTACHED, ORDERED).when(DetachArtifact(subject_id="s", sha256=SHA)).then(ArtifactDetached(subject_id="s", sha256=SHA))


@pytest.mark.parametrize(
    ("history", "purpose"),
    [
        ((DESCRIBED, ORDERED, BEGUN), "governance"),
        ((DESCRIBED, ORDERED, BEGUN, ERASED), "other"),
        ((MARKETING, BEGUN, PARTLY), "marketing"),
    ],
)
def test_nothing_is_attached_to_somebody_who_is_or_was_erased(history: tuple[Any, ...], purpose: str) -> None:
    subject(*history).when(AttachArtifact(subject_id="s", sha256=SHA, purpose=purpose)).refused("subject_erased", field="subject_id")


def test_what_is_kept_for_another_purpose_is_attached_all_the_same() -> None:
    subject(MARKETING, BEGUN, PARTLY).when(AttachArtifact(subject_id="s", sha256=SHA)).then(ATTACHED)


# -- ordering, holding


def test_whoever_is_known_in_any_way_is_erased() -> None:
    command = EraseSubject(subject_id="s", ground="objection")
    assert command.relies_on() == (HOLDS, "actor:s")
    for there in (subject(DESCRIBED), subject(ATTACHED), subject(registered=True), subject(MARKETING, BEGUN, PARTLY)):
        there.when(command).then(ORDERED)
    subject().when(command).refused("subject_not_found", field="subject_id")


def test_nobody_is_erased_twice() -> None:
    erase, marketing = (
        EraseSubject(subject_id="s", ground="objection"),
        EraseSubject(subject_id="s", purposes=("marketing",), ground="other"),
    )
    subject(DESCRIBED, ORDERED).when(erase).refused("erasure_ordered_already", field="subject_id")
    for again in (erase, marketing):
        subject(DESCRIBED, ORDERED, BEGUN, ERASED).when(again).refused("subject_erased", field="subject_id")
    subject(MARKETING, BEGUN, PARTLY).when(marketing).refused("subject_erased")
    subject(MARKETING, BEGUN, PARTLY).when(erase).then(ORDERED)
    reopened = SubjectReopened(subject_id="s", reason="Back")
    subject(DESCRIBED, ORDERED, BEGUN, ERASED, reopened).when(erase).then(ORDERED)


@pytest.mark.parametrize("on", [frozenset({"s", "t"}), None])
def test_a_hold_prevents_the_order_and_its_beginning_and_is_named(on: frozenset[str] | None) -> None:
    then = subject(DESCRIBED, holds=held(on)).when(EraseSubject(subject_id="s", ground="objection"))
    then.refused("subject_under_hold", holds=["h"])
    assert then.refusal is not None
    assert "3 Cg 17/26k" in then.refusal.message
    assert "aureus holds show" in then.refusal.facts["remedy"]
    begin = BeginErasure(subject_id="s", ordered_position=7)
    subject(DESCRIBED, ORDERED, holds=held(on)).by(ITSELF).when(begin).refused("subject_under_hold", holds=["h"])


def test_a_hold_on_others_or_over_prevents_nothing() -> None:
    for holds in (held(frozenset({"t"})), held(None, until=AT), held(frozenset({"s"}), until=AT - timedelta(days=1))):
        subject(DESCRIBED, holds=holds).when(EraseSubject(subject_id="s", ground="objection")).then(ORDERED)
    soon = held(None, until=AT + timedelta(seconds=1))
    subject(DESCRIBED, holds=soon).when(EraseSubject(subject_id="s", ground="objection")).refused("subject_under_hold")


def test_an_order_is_taken_back_until_it_is_begun() -> None:
    cancel = CancelErasure(subject_id="s", reason="She stays")
    subject(DESCRIBED, ORDERED, holds=held(None)).when(cancel).then(ErasureCancelled(subject_id="s", reason="She stays"))
    subject(DESCRIBED).when(cancel).refused("erasure_not_ordered")
    subject(DESCRIBED, ORDERED, BEGUN).when(cancel).refused("erasure_begun")


# -- what Aureus itself says


def test_only_aureus_itself_begins_and_certifies() -> None:
    for command in (BeginErasure(subject_id="s", ordered_position=7), CertifyErasure(**DONE)):
        subject(DESCRIBED, ORDERED).when(command).refused("only_aureus_itself")


def test_what_is_certified_was_begun_and_ordered() -> None:
    certify = CertifyErasure(**DONE)
    subject(DESCRIBED).by(ITSELF).when(certify).refused("erasure_not_ordered")
    subject(DESCRIBED, ORDERED).by(ITSELF).when(certify).refused("erasure_not_begun")
    subject(DESCRIBED, ORDERED).by(ITSELF).when(BeginErasure(subject_id="s", ordered_position=7)).then(BEGUN)
    subject(DESCRIBED, ORDERED, BEGUN).by(ITSELF).when(BeginErasure(subject_id="s", ordered_position=7)).refused("erasure_begun")
    subject(DESCRIBED, ORDERED, BEGUN).by(ITSELF).when(certify).then(ERASED)
    subject(DESCRIBED, ORDERED, BEGUN, ERASED).by(ITSELF).when(certify).refused("erasure_not_ordered")


def test_a_certificate_names_the_purposes_that_were_ordered_though_nothing_was_kept_for_them() -> None:
    nothing = CertifyErasure(**{**DONE, "purposes": (), "fields": 0, "keys": 0})
    expected = SubjectErased(**{**DONE, "purposes": ("marketing",), "fields": 0, "keys": 0}, everything=False, ground="objection")
    subject(MARKETING, BEGUN).by(ITSELF).when(nothing).then(expected)


def test_whoever_was_erased_is_reopened() -> None:
    reopen = ReopenSubject(subject_id="s", reason="Back")
    subject(DESCRIBED, ORDERED, BEGUN, ERASED).when(reopen).then(SubjectReopened(subject_id="s", reason="Back"))
    for history in ((DESCRIBED,), (MARKETING, BEGUN, PARTLY, ORDERED)):
        subject(*history).when(reopen).refused("subject_not_erased")


def test_policies_see_the_ground_and_the_law_and_not_whom() -> None:
    state = evolve(evolve(Subject(), DESCRIBED), ATTACHED)
    assert SUBJECTS.facts(state, EraseSubject(subject_id="s", ground="retention", purposes=("marketing",))) == {
        "ground": "retention",
        "everything": False,
        "kind": "customer",
        "jurisdiction": "EU",
        "artifacts": True,
    }
    assert SUBJECTS.facts(state, DetachArtifact(subject_id="s", sha256=SHA)) == {}


# -- holds


def hold(**fields: Any) -> PlaceHold:
    return PlaceHold(**{"hold_id": "h", "subject_ids": ("s",), "matter": "3 Cg 17/26k", "reason": "Claim", **fields})


def register(*history: Any, **subjects: Subject) -> Given:
    return given(HOLD_REGISTER, *history).by(LEGAL).beside(**{"subject:s": Subject(), **subjects})


PLACED = HoldPlaced(hold_id="h", subject_ids=("s",), everybody=False, matter="3 Cg 17/26k", reason="Claim")


def test_a_hold_is_placed_and_released() -> None:
    assert hold(subject_ids=("s", "t", "s")).relies_on() == ("subject:s", "subject:t")
    register().when(hold()).then(PLACED)
    register(PLACED).when(ReleaseHold(hold_id="h", reason="Settled")).then(HoldReleased(hold_id="h", reason="Settled"))
    register().when(ReleaseHold(hold_id="h", reason="Settled")).refused("hold_not_found", field="hold_id")
    for history in ((PLACED,), (PLACED, HoldReleased(hold_id="h", reason="Settled"))):
        register(*history).when(hold()).refused("hold_exists", field="hold_id")


def test_a_hold_is_on_somebody_and_for_a_time_to_come() -> None:
    register().when(hold(subject_ids=())).refused("hold_on_nobody", field="subject_ids")
    register().when(hold(everybody=True)).refused("hold_on_nobody", field="subject_ids")
    register().when(hold(until=AT)).refused("hold_over_already", field="until")
    register().when(hold(subject_ids=(), everybody=True)).then(PLACED.model_copy(update={"subject_ids": (), "everybody": True}))


def test_a_hold_is_a_persons_word() -> None:
    for stranger in (AGENT, ITSELF):
        register().by(stranger).when(hold()).refused("hold_needs_person")
        register(PLACED).by(stranger).when(ReleaseHold(hold_id="h", reason="x")).refused("hold_needs_person")


def test_a_hold_that_comes_too_late_does_not_look_as_if_it_kept_something() -> None:
    for late in (Subject(order=Order((), "objection", begun=True)), Subject(erased_whole=True)):
        register(**{"subject:s": late}).when(hold()).refused("nothing_left_to_hold", subject_id="s")
    for in_time in (Subject(order=Order((), "objection")), Subject(erased=frozenset({"marketing"}))):
        register(**{"subject:s": in_time}).when(hold()).then(PLACED)


# -- retention


def test_a_retention_rule_is_set_once_and_lifted() -> None:
    rule: dict[str, Any] = {"jurisdiction": Jurisdiction.EU, "purpose": "marketing"}
    set_ = RetentionRuleSet(**rule, keep="P30D")
    given(RETENTION).when(SetRetentionRule(**rule, keep="P30D")).then(set_)
    given(RETENTION, set_).when(SetRetentionRule(**rule, keep="P30D")).then()
    given(RETENTION, set_).when(SetRetentionRule(**rule, keep="P31D")).then(RetentionRuleSet(**rule, keep="P31D"))
    given(RETENTION, set_).when(LiftRetentionRule(**rule)).then(RetentionRuleLifted(**rule))
    given(RETENTION).when(LiftRetentionRule(**rule)).refused("retention_rule_not_found", field="purpose")


@pytest.mark.parametrize("nothing", ["P0D", "PT0S", "P0DT0H0M0S"])
def test_what_is_kept_for_no_time_is_refused(nothing: str) -> None:
    given(RETENTION).when(SetRetentionRule(jurisdiction=Jurisdiction.EU, purpose="marketing", keep=nothing)).refused(
        "duration_is_zero", field="keep"
    )


@pytest.mark.parametrize(("field", "value"), [("jurisdiction", "MARS"), ("keep", "a year"), ("keep", "P1Y"), ("purpose", "Everything!")])
def test_an_unknown_law_and_what_is_no_duration_are_refused_by_their_names(field: str, value: str) -> None:
    fields: dict[str, Any] = {"jurisdiction": "EU", "purpose": "marketing", "keep": "P30D", field: value}
    with pytest.raises(ValidationError) as refused:
        SetRetentionRule(**fields)
    assert refused.value.errors()[0]["loc"] == (field,)


# -- the law: whatever is asked in whatever order, nothing is destroyed that was held when it began

COMMANDS = st.lists(st.sampled_from(["hold", "release", "order", "cancel", "begin", "certify", "reopen"]), max_size=25)


@for_all(COMMANDS)
def test_no_erasure_begins_under_a_hold_and_none_is_certified_that_was_not_begun(asked: list[str]) -> None:
    state, holds, number, begun = evolve(Subject(), DESCRIBED), Holds(), 0, 0
    for name in asked:
        number += name == "hold"
        asking: dict[str, tuple[Any, Any, Asker]] = {
            "hold": (hold(hold_id=f"h{number}"), HOLD_REGISTER, LEGAL),
            "release": (ReleaseHold(hold_id=f"h{number}", reason="x"), HOLD_REGISTER, LEGAL),
            "order": (EraseSubject(subject_id="s", ground="other"), SUBJECTS, ADMIN),
            "cancel": (CancelErasure(subject_id="s", reason="x"), SUBJECTS, ADMIN),
            "begin": (BeginErasure(subject_id="s", ordered_position=7), SUBJECTS, ITSELF),
            "certify": (CertifyErasure(**DONE), SUBJECTS, ITSELF),
            "reopen": (ReopenSubject(subject_id="s", reason="x"), SUBJECTS, ADMIN),
        }
        command, decider, by = asking[name]
        others: dict[str, Any] = {HOLDS: holds, "subject:s": state, "actor:s": Registration()}
        was = (state, holds)
        then = _decided(given(decider).by(by).beside(**others), decider, holds if decider is HOLD_REGISTER else state, command)
        if decider is HOLD_REGISTER:
            holds = HOLD_REGISTER.replay(then, holds)
        else:
            state = SUBJECTS.replay(then, state)
        for event in then:
            if isinstance(event, ErasureBegun):
                assert not was[1].on("s", AT)
                begun += 1
            if isinstance(event, HoldPlaced):
                assert was[0].order is None or not was[0].order.begun
            if isinstance(event, SubjectErased):
                begun -= 1
                assert begun == 0
    assert begun in (0, 1)


def _decided(asking: Given, decider: Any, state: Any, command: Any) -> list[Any]:
    try:
        return list(decider.decide(state, command, asking.asked))
    except Refused:
        return []
