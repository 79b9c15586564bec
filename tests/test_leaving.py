"""Actors who change and leave: owners, tiers, domains, offboarding, rotated keys, and whom identity providers know them as."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from commands.access import (
    DECIDER,
    IDENTITIES,
    BoundDomains,
    ChangeOwner,
    ChangeRoles,
    ChangeTier,
    IssueApiKey,
    LinkIdentity,
    OffboardActor,
    RegisterActor,
    ReinstateActor,
    RevokeApiKey,
    RotateApiKey,
    SuspendActor,
    UnlinkIdentity,
)
from commands.agents import AGENTS, StopAgent
from domain.access import (
    PROVISIONING,
    ActorOffboarded,
    ActorRegistered,
    ActorSuspended,
    ApiKeyIssued,
    ApiKeyRevoked,
    ApiKeyRotated,
    DomainsBounded,
    IdentityLinked,
    IdentityUnlinked,
    OwnerChanged,
    Registration,
    TierChanged,
)
from domain.agents import AgentRegistered
from domain.duties import RULES_STREAM, Duties, DutyRule
from domain.kernel import Asker
from domain.values import ActorKind, Role, Tier
from tests.given import ADMIN, ANALYST, AT, given
from tests.test_access import ADM, ANA, BOT, IN_A_MONTH, ISSUED, rows

SHA = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ISSUER = "https://login.bank.example"
BEN = ActorRegistered(actor_id="usr-ben", kind=ActorKind.PERSON, roles=(Role.ADMIN,))
GONE = ActorOffboarded(actor_id="usr-ana")
SCIM = Asker(PROVISIONING, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
CRM_ADMIN = replace(ADMIN, domains=frozenset({"crm"}))
ROTATE = RotateApiKey(actor_id="usr-ana", key_id="k2k2k2k2", replaces="k1k1k1k1", secret_sha256=SHA)


def state(*history: Any) -> Registration:
    return DECIDER.replay(history)


class TestOffboarding:
    def test_a_leaver_loses_everything_at_one_event(self) -> None:
        gone = ActorOffboarded(actor_id="usr-ana", revoked_keys=("k1k1k1k1",))
        given(DECIDER, ANA, ISSUED).by(ADMIN).when(OffboardActor(actor_id="usr-ana")).then(gone)
        left = state(ANA, ISSUED, gone).actor
        assert left is not None
        assert (left.suspended, left.offboarded, dict(left.keys), left.revoked_keys) == (True, True, {}, frozenset({"k1k1k1k1"}))

    def test_twice_changes_nothing(self) -> None:
        given(DECIDER, ANA, GONE).by(ADMIN).when(OffboardActor(actor_id="usr-ana")).then()

    def test_nobody_offboards_themselves(self) -> None:
        given(DECIDER, ADM).by(ADMIN).when(OffboardActor(actor_id="usr-adm")).refused("own_offboarding", field="actor_id")

    @pytest.mark.parametrize(
        "command",
        [
            ReinstateActor(actor_id="usr-ana"),
            SuspendActor(actor_id="usr-ana"),
            ChangeRoles(actor_id="usr-ana", granted_roles=(Role.VIEWER,)),
            ChangeTier(actor_id="usr-ana", tier=Tier.PREMIUM),
            BoundDomains(actor_id="usr-ana", domains=("crm",)),
            IssueApiKey(actor_id="usr-ana", key_id="k3k3k3k3", label="again", secret_sha256=SHA),
            ROTATE,
        ],
    )
    def test_it_is_for_good(self, command: Any) -> None:
        given(DECIDER, ANA, GONE).by(ADMIN).when(command).refused("actor_offboarded", field="actor_id")

    def test_an_id_is_not_given_again(self) -> None:
        again = RegisterActor(actor_id="usr-ana", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,))
        given(DECIDER, ANA, GONE).by(ADMIN).when(again).refused("actor_exists", field="actor_id", remedy="Choose another id.")

    def test_who_is_not_registered_cannot_leave(self) -> None:
        given(DECIDER).by(ADMIN).when(OffboardActor(actor_id="usr-ana")).refused("actor_not_found")

    def test_a_service_lets_an_administrator_go_only_when_another_one_remains(self) -> None:
        command = OffboardActor(actor_id="usr-adm", administrator="usr-ben")
        nobody = given(DECIDER, ADM).by(SCIM)
        nobody.when(OffboardActor(actor_id="usr-adm")).refused("last_administrator", field="administrator")
        no_administrators = (
            state(BEN, ActorSuspended(actor_id="usr-ben")),
            state(BEN, ActorOffboarded(actor_id="usr-ben")),
            state(BEN, DomainsBounded(actor_id="usr-ben", domains=("crm",))),
            state(ANA.model_copy(update={"actor_id": "usr-ben"})),
            state(ADM),
            Registration(),
        )
        for ben in no_administrators:
            nobody.beside(**{"actor:usr-ben": ben}).when(command).refused("last_administrator")
        nobody.beside(**{"actor:usr-ben": state(BEN)}).when(command).then(ActorOffboarded(actor_id="usr-adm"))
        given(DECIDER, ANA).by(SCIM).when(OffboardActor(actor_id="usr-ana")).then(GONE)


class TestOwners:
    CHANGE = ChangeOwner(actor_id="agt-bot", owner="usr-ben")

    def test_another_person_answers_for_an_agent(self) -> None:
        changed = OwnerChanged(actor_id="agt-bot", owner="usr-ben")
        given(DECIDER, BOT).by(ADMIN).beside(**{"actor:usr-ben": state(BEN)}).when(self.CHANGE).then(changed)
        given(DECIDER, BOT, changed).by(ADMIN).beside(**{"actor:usr-ben": state(BEN)}).when(self.CHANGE).then()

    def test_an_owner_is_a_person_who_is_here(self) -> None:
        agent = given(DECIDER, BOT).by(ADMIN)
        agent.beside(**{"actor:usr-ben": Registration()}).when(self.CHANGE).refused("owner_not_found", field="owner")
        for left in (ActorSuspended(actor_id="usr-ben"), ActorOffboarded(actor_id="usr-ben")):
            agent.beside(**{"actor:usr-ben": state(BEN, left)}).when(self.CHANGE).refused("owner_cannot_act", field="owner")

    def test_whoever_answers_for_an_agent_now_may_stop_it_and_whoever_did_may_not(self) -> None:
        known = AgentRegistered(agent_id="agt-bot", label="Bot", purpose="Finds stale tables", model="small-7b", owner="usr-ana")
        moved = {"actor:agt-bot": state(BOT, OwnerChanged(actor_id="agt-bot", owner="usr-ben"))}
        stop = given(AGENTS, known).beside(**moved)
        command = StopAgent(agent_id="agt-bot", reason="It runs wild")
        stop.by(ANALYST).when(command).refused("not_the_owner", owner="usr-ben")
        assert stop.by(replace(ANALYST, actor="usr-ben")).when(command).refusal is None

    def test_a_person_has_none(self) -> None:
        command = ChangeOwner(actor_id="usr-ana", owner="usr-ben")
        given(DECIDER, ANA).by(ADMIN).beside(**{"actor:usr-ben": state(BEN)}).when(command).refused("owner_not_allowed", field="owner")

    def test_who_has_left_answers_for_nothing_new(self) -> None:
        command = RegisterActor(actor_id="agt-new", kind=ActorKind.AGENT, granted_roles=(Role.AGENT,), owner="usr-ana")
        registering = given(DECIDER).by(ADMIN)
        registering.beside(**{"actor:usr-ana": state(ANA, GONE)}).when(command).refused("owner_cannot_act", field="owner")
        assert registering.beside(**{"actor:usr-ana": state(ANA)}).when(command).refusal is None


class TestReach:
    def test_tier_and_domains_change_and_the_same_again_changes_nothing(self) -> None:
        tier, bounded = TierChanged(actor_id="usr-ana", tier=Tier.PREMIUM), DomainsBounded(actor_id="usr-ana", domains=("crm", "sales"))
        given(DECIDER, ANA).by(ADMIN).when(ChangeTier(actor_id="usr-ana", tier=Tier.PREMIUM)).then(tier)
        given(DECIDER, ANA, tier).by(ADMIN).when(ChangeTier(actor_id="usr-ana", tier=Tier.PREMIUM)).then()
        command = BoundDomains(actor_id="usr-ana", domains=("sales", "crm", "sales"))
        given(DECIDER, ANA).by(ADMIN).when(command).then(bounded)
        given(DECIDER, ANA, bounded).by(ADMIN).when(command).then()
        lifted = DomainsBounded(actor_id="usr-ana", domains=None)
        given(DECIDER, ANA, bounded).by(ADMIN).when(BoundDomains(actor_id="usr-ana")).then(lifted)

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (ChangeTier(actor_id="usr-adm", tier=Tier.PREMIUM), "own_tier"),
            (BoundDomains(actor_id="usr-adm"), "own_domains"),
            (BoundDomains(actor_id="usr-adm", domains=("crm",)), "own_domains"),
        ],
    )
    def test_nobody_gives_themselves_more(self, command: Any, code: str) -> None:
        given(DECIDER, ADM).by(ADMIN).when(command).refused(code, field="actor_id")

    @pytest.mark.parametrize(
        "command",
        [
            ChangeRoles(actor_id="usr-ana", granted_roles=(Role.ADMIN,)),
            ChangeTier(actor_id="usr-ana", tier=Tier.PREMIUM),
            BoundDomains(actor_id="usr-ana"),
            ReinstateActor(actor_id="usr-ana"),
            ChangeOwner(actor_id="usr-ana", owner="usr-ben"),
        ],
    )
    def test_an_administrator_of_some_domains_gives_nothing_that_reaches_others(self, command: Any) -> None:
        given(DECIDER, ANA).by(CRM_ADMIN).when(command).refused("outside_domains", domains=["crm"])
        fresh = RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=(Role.ADMIN,))
        given(DECIDER).by(CRM_ADMIN).when(fresh).refused("outside_domains", field="actor_id")

    def test_roles_that_are_kept_apart_are_not_given_together(self) -> None:
        rule = DutyRule(rule_id="four_eyes", reason="Who asks does not agree.", roles_apart=(Role.ANALYST, Role.APPROVER))
        kept_apart, both = {RULES_STREAM: Duties({"four_eyes": rule})}, (Role.ANALYST, Role.APPROVER)
        changing = ChangeRoles(actor_id="usr-ana", granted_roles=both)
        given(DECIDER, ANA).by(ADMIN).beside(**kept_apart).when(changing).refused("duties_conflict", rule="four_eyes")
        fresh = RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=both)
        given(DECIDER).by(ADMIN).beside(**kept_apart).when(fresh).refused("duties_conflict")

    def test_and_takes_away_what_is_dangerous(self) -> None:
        given(DECIDER, ANA).by(CRM_ADMIN).when(SuspendActor(actor_id="usr-ana")).then(ActorSuspended(actor_id="usr-ana"))


class TestKeys:
    SCOPED = ISSUED.model_copy(update={"scopes": ("catalog", "read")})

    def test_scopes_are_kept_in_order(self) -> None:
        command = IssueApiKey(
            actor_id="usr-ana",
            key_id="k1k1k1k1",
            label="laptop",
            secret_sha256=ISSUED.secret_sha256,
            scopes=("read", "catalog"),
            expires_at=IN_A_MONTH,
        )
        given(DECIDER, ANA).by(ANALYST).when(command).then(self.SCOPED)

    def test_a_key_of_before_there_were_scopes_is_for_everything(self) -> None:
        old = {key: value for key, value in ISSUED.dump().items() if key != "scopes"}
        assert ApiKeyIssued.load(old, 1) == ISSUED

    @pytest.mark.parametrize("scope", ["", "Catalog", "catalog.", "catalog.tag.dataset", "*", "read write"])
    def test_a_scope_is_a_word_or_two(self, scope: str) -> None:
        with pytest.raises(ValueError, match="scopes"):
            IssueApiKey(actor_id="usr-ana", key_id="k1k1k1k1", label="laptop", secret_sha256=SHA, scopes=(scope,))

    @pytest.mark.parametrize("scopes", [None, ("catalog", "access"), ("budgets.open_budget",)])
    def test_a_key_makes_none_that_may_do_more(self, scopes: Any) -> None:
        by_key = replace(ANALYST, scopes=frozenset({"access.issue_api_key", "access.rotate_api_key", "catalog"}))
        command = IssueApiKey(actor_id="usr-ana", key_id="k2k2k2k2", label="more", secret_sha256=SHA, scopes=scopes)
        given(DECIDER, ANA).by(by_key).when(command).refused("scope_too_wide", field="scopes")
        narrower = command.model_copy(update={"scopes": ("catalog.tag_dataset",)})
        assert given(DECIDER, ANA).by(by_key).when(narrower).refusal is None
        given(DECIDER, ANA, ISSUED).by(by_key).when(ROTATE).refused("scope_too_wide")

    def test_rotated_the_new_one_is_for_the_same_and_the_old_one_ends_soon(self) -> None:
        rotated = ApiKeyRotated(
            actor_id="usr-ana",
            key_id="k2k2k2k2",
            replaces="k1k1k1k1",
            label="laptop",
            secret_sha256=SHA,
            expires_at=AT + timedelta(days=90),
            old_ends_at=AT + timedelta(days=1),
            scopes=("catalog", "read"),
        )
        given(DECIDER, ANA, self.SCOPED).by(ANALYST).when(ROTATE).then(rotated)
        folded = rows(ANA, self.SCOPED, rotated)
        old, new = folded["api_keys", "k1k1k1k1"], folded["api_keys", "k2k2k2k2"]
        assert (old["expires_at"], old["replaced_by"], old["status"]) == ("2026-03-04T14:00:00.000000Z", "k2k2k2k2", "active")
        assert (new["replaces"], new["scopes"], new["label"]) == ("k1k1k1k1", ["catalog", "read"], "laptop")

    def test_the_old_one_never_gets_longer(self) -> None:
        soon = ISSUED.model_copy(update={"expires_at": AT + timedelta(hours=2)})
        (rotated,) = given(DECIDER, ANA, soon).by(ANALYST).when(ROTATE.model_copy(update={"overlap_hours": 168})).events
        assert isinstance(rotated, ApiKeyRotated)
        assert rotated.old_ends_at == soon.expires_at

    @pytest.mark.parametrize("hours", [-1, 169])
    def test_an_overlap_is_at_most_a_week(self, hours: int) -> None:
        with pytest.raises(ValueError, match="overlap_hours"):
            RotateApiKey(actor_id="usr-ana", key_id="k2k2k2k2", replaces="k1k1k1k1", secret_sha256=SHA, overlap_hours=hours)

    def test_there_is_nothing_to_go_on_from(self) -> None:
        given(DECIDER, ANA).by(ANALYST).when(ROTATE).refused("api_key_not_found", field="replaces")
        revoked = ApiKeyRevoked(actor_id="usr-ana", key_id="k1k1k1k1")
        given(DECIDER, ANA, ISSUED, revoked).by(ANALYST).when(ROTATE).refused("api_key_ended", field="replaces")
        given(DECIDER, ANA, ISSUED).by(ANALYST).at(IN_A_MONTH).when(ROTATE).refused("api_key_ended")
        given(DECIDER, ANA, ISSUED).by(ADMIN).when(ROTATE).refused("api_key_of_another")
        given(DECIDER, ANA, ISSUED).by(ANALYST).when(ROTATE.model_copy(update={"key_id": "k1k1k1k1"})).refused("api_key_exists")

    def test_who_has_left_has_no_key_that_could_be_used(self) -> None:
        gone = ActorOffboarded(actor_id="usr-ana", revoked_keys=("k1k1k1k1",))
        assert rows(ANA, ISSUED, gone)["api_keys", "k1k1k1k1"]["status"] == "revoked"
        given(DECIDER, ANA, ISSUED, gone).by(ADMIN).when(RevokeApiKey(actor_id="usr-ana", key_id="k1k1k1k1")).then()


class TestIdentities:
    LINK = LinkIdentity(subject_sha256=SHA, issuer=ISSUER, actor_id="usr-ana")
    LINKED = IdentityLinked(subject_sha256=SHA, issuer=ISSUER, actor_id="usr-ana")

    @pytest.mark.parametrize("asker", [ADMIN, SCIM])
    def test_whom_a_provider_knows_is_one_actor_here(self, asker: Asker) -> None:
        given(IDENTITIES).by(asker).beside(**{"actor:usr-ana": state(ANA)}).when(self.LINK).then(self.LINKED)
        given(IDENTITIES, self.LINKED).by(asker).beside(**{"actor:usr-ana": state(ANA)}).when(self.LINK).then()

    def test_and_never_two(self) -> None:
        to_ben = self.LINK.model_copy(update={"actor_id": "usr-ben"})
        linked = given(IDENTITIES, self.LINKED).by(ADMIN).beside(**{"actor:usr-ben": state(BEN)})
        linked.when(to_ben).refused("identity_of_another", field="subject_sha256", actor_id="usr-ana")
        unlinked = IdentityUnlinked(subject_sha256=SHA, actor_id="usr-ana")
        given(IDENTITIES, self.LINKED).by(ADMIN).when(UnlinkIdentity(subject_sha256=SHA)).then(unlinked)
        again = given(IDENTITIES, self.LINKED, unlinked).by(ADMIN).beside(**{"actor:usr-ben": state(BEN)})
        again.when(to_ben).then(self.LINKED.model_copy(update={"actor_id": "usr-ben"}))

    def test_refusals(self) -> None:
        link = given(IDENTITIES).by(ADMIN)
        link.beside(**{"actor:usr-ana": Registration()}).when(self.LINK).refused("actor_not_found", field="actor_id")
        link.beside(**{"actor:usr-ana": state(ANA, GONE)}).when(self.LINK).refused("actor_offboarded")
        own = self.LINK.model_copy(update={"actor_id": "usr-adm"})
        link.beside(**{"actor:usr-adm": state(ADM)}).when(own).refused("own_identity")
        link.by(CRM_ADMIN).beside(**{"actor:usr-ana": state(ANA)}).when(self.LINK).refused("outside_domains")
        link.when(UnlinkIdentity(subject_sha256=SHA)).refused("identity_not_found", field="subject_sha256")
