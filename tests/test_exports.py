"""Exports decide: what may be asked for, what a recipient is shown, and that nobody but Aureus says what was written."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from immutables import Map

from commands.exports import (
    EXPORTS,
    INDEX,
    OVERSEERS,
    PROFILES,
    CancelExport,
    CommitIndex,
    DefineProfile,
    FailExport,
    RecordDownload,
    RequestExport,
    SealExport,
    WithdrawPack,
)
from domain.access import Actor, Registration
from domain.agents import Agent
from domain.catalog import Jurisdiction
from domain.exports import (
    BUILDER,
    BUILT_IN,
    Export,
    ExportCancelled,
    ExportFailed,
    ExportRequested,
    ExportSealed,
    IndexCommitted,
    KnownProfile,
    PackDownloaded,
    PackWithdrawn,
    Profile,
    ProfileDefined,
    Selection,
)
from domain.kernel import Asker, Refused
from domain.policies import PolicySet
from domain.values import ActorKind, Role
from tests.given import ADMIN, AT, Given, given

ITSELF = Asker(BUILDER, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
SHA, OTHER = "a" * 64, "b" * 64
REGULATOR = BUILT_IN[0]
SEAL: dict[str, Any] = {
    "export_id": "e",
    "sha256": SHA,
    "size_bytes": 100,
    "manifest_sha256": OTHER,
    "after": 0,
    "until": 9,
    "checkpoint_size": 9,
    "entries": 6,
    "keys": 3,
    "withheld_entries": 0,
}
REQUESTED = ExportRequested(
    export_id="e", recipient="BaFin", recipient_kind="regulator", everything=True, selection=Selection(), profile=REGULATOR
)
SEALED = ExportSealed(**SEAL)


def asked(**fields: Any) -> RequestExport:
    return RequestExport(export_id="e", recipient="BaFin", **fields)


def known(*history: Any) -> Given:
    """A tenant that has one of each: a dataset, an agent, an actor, a policy and a profile."""
    here: dict[str, Any] = {
        "dataset:customers": object(),
        "dataset:nowhere": None,
        "agent:agt-bot": Agent(registered=True),
        "agent:agt-none": Agent(),
        "actor:agt-bot": Registration(),
        "actor:agt-none": Registration(),
        "actor:usr-ana": Registration(Actor("usr-ana", ActorKind.PERSON, frozenset())),
        "actor:usr-none": Registration(),
        "policyset:active": PolicySet(versions=Map({"pii": ()})),
        "exportprofile:onsite": KnownProfile(Profile(name="onsite", disclose=("governance",))),
        "exportprofile:unheard": KnownProfile(),
    }
    return given(EXPORTS, *history).by(ADMIN).beside(**here)


# -- withdrawing


def test_a_sealed_pack_is_withdrawn_once_and_by_aureus_itself() -> None:
    fields: dict[str, Any] = {"export_id": "e", "sha256": SHA, "subject_id": "cus-1", "ordered_position": 7}
    withdraw, withdrawn = WithdrawPack(**fields), PackWithdrawn(**fields)
    known(REQUESTED, SEALED).when(withdraw).refused("only_aureus_itself")
    known(REQUESTED, SEALED).by(ITSELF).when(withdraw).then(withdrawn)
    for history in ((REQUESTED,), (REQUESTED, SEALED, withdrawn)):
        known(*history).by(ITSELF).when(withdraw).refused("export_not_sealed", field="export_id")
    download = RecordDownload(export_id="e", sha256=SHA, downloaded_by="usr-ana", first_byte=0, last_byte=9)
    known(REQUESTED, SEALED, withdrawn).by(ITSELF).when(download).refused("export_not_sealed")


# -- asking


def test_an_export_is_requested_with_the_profile_as_it_reads_now() -> None:
    selection = Selection(datasets=("customers",), agents=("agt-bot",), actors=("usr-ana",), policies=("pii",))
    known().when(asked(selection=selection, profile="onsite", views=("pdf",), artifacts=True)).then(
        ExportRequested(
            export_id="e",
            recipient="BaFin",
            recipient_kind="regulator",
            everything=False,
            selection=selection,
            profile=Profile(name="onsite", disclose=("governance",)),
            views=("pdf",),
            artifacts=True,
        )
    )


@pytest.mark.parametrize(
    ("selection", "code", "field"),
    [
        (Selection(datasets=("customers", "nowhere")), "dataset_not_found", "selection.datasets"),
        (Selection(agents=("agt-none",)), "agent_not_found", "selection.agents"),
        (Selection(actors=("usr-none",)), "actor_not_found", "selection.actors"),
        (Selection(policies=("unheard",)), "policy_not_found", "selection.policies"),
        (Selection(starts_at=AT, ends_at=AT), "period_is_empty", "selection.ends_at"),
        (Selection(starts_at=AT, ends_at=AT - timedelta(days=1)), "period_is_empty", "selection.ends_at"),
        (Selection(starts_at=AT + timedelta(seconds=1)), "period_not_begun", "selection.starts_at"),
    ],
)
def test_what_is_not_there_or_not_yet_is_not_exported(selection: Selection, code: str, field: str) -> None:
    then = known().when(asked(selection=selection))
    then.refused(code, field=field)
    assert then.refusal is not None
    assert then.refusal.facts["remedy"]


def test_everything_is_not_selected_and_an_id_is_used_once() -> None:
    known().when(asked(everything=True, selection=Selection(datasets=("customers",)))).refused(
        "everything_is_not_selected", field="selection"
    )
    known(REQUESTED).when(asked(everything=True)).refused("export_exists", field="export_id", status="requested")
    known().when(asked(everything=True, profile="unheard")).refused("profile_not_found", field="profile")
    known().when(asked(everything=True, selection=Selection(starts_at=AT))).then(replace_selection(Selection(starts_at=AT)))


def replace_selection(selection: Selection) -> ExportRequested:
    return REQUESTED.model_copy(update={"selection": selection})


def test_a_decision_relies_on_all_that_is_named() -> None:
    command = asked(
        selection=Selection(datasets=("customers",), agents=("agt-bot",), actors=("agt-bot",), policies=("pii",)), profile="onsite"
    )
    assert command.relies_on() == (
        "dataset:customers",
        "agent:agt-bot",
        "actor:agt-bot",
        "policyset:active",
        "exportprofile:onsite",
    )
    assert asked(everything=True).relies_on() == ()


def test_policies_see_what_kind_of_export_it_is_and_of_nobody() -> None:
    facts = EXPORTS.facts(Export(), asked(selection=Selection(datasets=("customers",), jurisdictions=(Jurisdiction.EU,))))
    assert facts == {
        "scope": "selection",
        "jurisdictions": ["EU"],
        "profile": "regulator",
        "may_disclose": False,
        "recipient_kind": "regulator",
        "subjects": 1,
        "artifacts": False,
    }
    for profile in ("internal-audit", "onsite"):
        assert EXPORTS.facts(Export(), asked(everything=True, profile=profile))["may_disclose"]
    assert EXPORTS.facts(Export(), CancelExport(export_id="e")) == {}


def test_auditors_and_administrators_ask() -> None:
    assert {Role.AUDITOR, Role.ADMIN} == OVERSEERS == RequestExport.roles == CancelExport.roles == DefineProfile.roles


# -- how it ends


def test_aureus_seals_or_fails_what_was_requested() -> None:
    known(REQUESTED).by(ITSELF).when(SealExport(**SEAL)).then(SEALED)
    known(REQUESTED).by(ITSELF).when(FailExport(export_id="e", code="disk_refused", reason="Full.")).then(
        ExportFailed(export_id="e", code="disk_refused", reason="Full.")
    )
    known(REQUESTED).when(CancelExport(export_id="e", comment="Not now")).then(ExportCancelled(export_id="e", comment="Not now"))


@pytest.mark.parametrize(
    "command",
    [
        SealExport(**SEAL),
        FailExport(export_id="e", code="x", reason="x"),
        RecordDownload(export_id="e", sha256=SHA, downloaded_by="usr-ana", first_byte=0, last_byte=1),
    ],
)
def test_nobody_else_says_what_was_written_or_handed_out(command: Any) -> None:
    known(REQUESTED, SEALED).when(command).refused("only_aureus_itself")


@pytest.mark.parametrize("ending", [SEALED, ExportFailed(export_id="e", code="x", reason="x"), ExportCancelled(export_id="e")])
def test_what_has_ended_does_not_end_again(ending: Any) -> None:
    ended = known(REQUESTED, ending).by(ITSELF)
    status = ended.decider.replay(ended.history).status
    for command in (SealExport(**SEAL), FailExport(export_id="e", code="x", reason="x"), CancelExport(export_id="e")):
        ended.when(command).refused(f"export_{status}")
    known().by(ITSELF).when(CancelExport(export_id="e")).refused("export_not_found")


def test_a_download_is_of_the_bytes_that_were_sealed() -> None:
    fields: dict[str, Any] = {"export_id": "e", "sha256": SHA, "downloaded_by": "usr-ana", "first_byte": 10, "last_byte": 99}
    known(REQUESTED, SEALED).by(ITSELF).when(RecordDownload(**fields)).then(PackDownloaded(**fields))
    for wrong in ({"sha256": OTHER}, {"last_byte": 100}, {"first_byte": 50, "last_byte": 49}):
        known(REQUESTED, SEALED).by(ITSELF).when(RecordDownload(**{**fields, **wrong})).refused("pack_is_another")
    known(REQUESTED).by(ITSELF).when(RecordDownload(**fields)).refused("export_not_sealed")


# -- profiles and the index


def test_a_profile_is_defined_and_redefined_but_not_a_built_in_one() -> None:
    define = DefineProfile(profile="onsite", disclose=("governance",), withhold_types=("access.actor_registered",))
    defined = ProfileDefined(profile=Profile(name="onsite", disclose=("governance",), withhold_types=("access.actor_registered",)))
    given(PROFILES).when(define).then(defined)
    given(PROFILES, defined).when(define).then()
    given(PROFILES).when(DefineProfile(profile="regulator")).refused("profile_is_built_in", field="profile")


@pytest.mark.parametrize(
    ("event_type", "code"),
    [
        ("access.actor_vanished", "event_type_not_found"),
        ("keys.key_added", "proof_withheld"),
        ("exports.index_committed", "proof_withheld"),
    ],
)
def test_a_profile_withholds_only_what_there_is_and_never_the_proof(event_type: str, code: str) -> None:
    given(PROFILES).when(DefineProfile(profile="onsite", withhold_types=(event_type,))).refused(code, field="withhold_types")


def index(size: int, tenant: str = "acme") -> CommitIndex:
    return CommitIndex(tenant=tenant, size=size, topics=3, root=SHA, rules=1, keys_version=3, keys_leaf=OTHER)


def committed(size: int) -> IndexCommitted:
    return IndexCommitted(size=size, topics=3, root=SHA, rules=1, keys_version=3, keys_leaf=OTHER)


def test_the_index_goes_forward_and_is_committed_by_aureus() -> None:
    given(INDEX, committed(7)).by(ITSELF).when(index(8)).then(committed(8))
    for size in (6, 7):
        given(INDEX, committed(7)).by(ITSELF).when(index(size)).refused("index_committed_already", committed=7)
    given(INDEX).by(ITSELF).when(index(8, "other")).refused("index_committed_already")
    given(INDEX).by(ADMIN).when(index(8)).refused("only_aureus_itself")


class OneEnd(RuleBasedStateMachine):
    """Whatever is asked of an export in whatever order: it ends once, and only what was sealed is handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Any] = []

    def ask(self, command: Any, by: Asker = ITSELF) -> None:
        state = EXPORTS.replay(self.history)
        try:
            self.history += EXPORTS.decide(state, command, replace(known().asked, by=by))
        except Refused:
            return

    @rule()
    def request(self) -> None:
        self.ask(asked(everything=True), ADMIN)

    @rule(by=st.sampled_from([ADMIN, ITSELF]), sha=st.sampled_from([SHA, OTHER]))
    def seal(self, by: Asker, sha: str) -> None:
        self.ask(SealExport(**{**SEAL, "sha256": sha}), by)

    @rule(by=st.sampled_from([ADMIN, ITSELF]))
    def fail(self, by: Asker) -> None:
        self.ask(FailExport(export_id="e", code="x", reason="x"), by)

    @rule()
    def cancel(self) -> None:
        self.ask(CancelExport(export_id="e"), ADMIN)

    @precondition(lambda self: self.history)
    @rule(sha=st.sampled_from([SHA, OTHER]), last=st.integers(0, 120))
    def download(self, sha: str, last: int) -> None:
        self.ask(RecordDownload(export_id="e", sha256=sha, downloaded_by="usr-ana", first_byte=0, last_byte=last))

    @invariant()
    def it_ended_once_and_only_the_sealed_pack_left(self) -> None:
        ends = [event for event in self.history if isinstance(event, ExportSealed | ExportFailed | ExportCancelled)]
        assert len(ends) <= 1
        sealed = ends[0] if ends and isinstance(ends[0], ExportSealed) else None
        for number, event in enumerate(self.history):
            if isinstance(event, PackDownloaded):
                assert sealed is not None
                assert sealed in self.history[:number]
                assert event.sha256 == sealed.sha256
                assert event.last_byte < sealed.size_bytes


TestOneEnd = OneEnd.TestCase
TestOneEnd.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)
