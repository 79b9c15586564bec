"""Grants: who may give which role where, until when, and what is refused."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from commands.grants import DECIDER as GRANTS
from commands.grants import ExtendGrant, GrantRole, RevokeGrant
from domain.access import Actor, Registration
from domain.agents import Agent
from domain.catalog import Dataset, Jurisdiction, PiiLevel, Profile
from domain.duties import Duties, DutyRule
from domain.grants import GrantExtended, GrantRevoked, RoleGranted
from domain.groups import Group
from domain.kernel import Asker
from domain.projects import Project
from domain.values import ActorKind, Role
from tests.given import ADMIN, APPROVER, AT, Given, given

DAY = timedelta(days=1)
UNTIL = AT + 30 * DAY
ON_RISK = GrantRole(grant_id="g1", role=Role.ANALYST, about="domain:risk", actor_id="usr-ben", until=UNTIL, reason="The audit")
GRANTED = RoleGranted(grant_id="g1", role=Role.ANALYST, about="domain:risk", actor_id="usr-ben", until=UNTIL, reason="The audit")
ORDERS = Dataset("crm.orders", Profile(name="Orders", domain="crm", pii_level=PiiLevel.LOW, jurisdiction=Jurisdiction.EU))
BEN = Actor("usr-ben", ActorKind.PERSON, frozenset({Role.VIEWER}))


def registered(actor: Actor = BEN, /, **others: Any) -> dict[str, Any]:
    return {f"actor:{actor.actor_id}": Registration(actor), "duties:rules": Duties(), **others}


def granting(_asker: Asker = ADMIN, /, **others: Any) -> Given:
    return given(GRANTS).by(_asker).beside(**registered(BEN, **others))


def test_an_administrator_grants_a_role_on_a_domain() -> None:
    granting().when(ON_RISK).then(GRANTED)


def test_a_grant_may_be_on_a_stream_or_a_project_that_is_there() -> None:
    on_orders = ON_RISK.model_copy(update={"about": "dataset:crm.orders"})
    granting(**{"dataset:crm.orders": ORDERS}).when(on_orders).then(GRANTED.model_copy(update={"about": "dataset:crm.orders"}))
    on_project = ON_RISK.model_copy(update={"about": "project:p"})
    granting(**{"project:p": Project("P", "usr-ann")}).when(on_project).then(GRANTED.model_copy(update={"about": "project:p"}))


@pytest.mark.parametrize(
    ("scope", "state"),
    [
        ("dataset:crm.orders", None),
        ("agent:agt-bot", Agent()),
        ("project:p", Project()),
        ("project:p", Project("P", "usr-ann", archived=True)),
    ],
)
def test_nothing_is_granted_on_what_is_not_there(scope: str, state: object) -> None:
    granting(**{scope: state}).when(ON_RISK.model_copy(update={"about": scope})).refused("scope_not_found", field="about")


@pytest.mark.parametrize("scope", ["risk", "domain:", "table:crm.orders", "domain:a b", "dataset:crm.orders\n"])
def test_a_scope_is_a_domain_a_project_or_a_resource(scope: str) -> None:
    with pytest.raises(ValidationError):
        GrantRole.model_validate({**ON_RISK.model_dump(), "about": scope})


def test_nobody_grants_to_themselves_what_they_own_or_a_group_they_are_in() -> None:
    to_self = ON_RISK.model_copy(update={"actor_id": "usr-adm"})
    own = Actor("usr-adm", ActorKind.PERSON, frozenset({Role.ADMIN}))
    given(GRANTS).by(ADMIN).beside(**registered(own)).when(to_self).refused("own_grant")
    bot = Actor("agt-bot", ActorKind.AGENT, frozenset({Role.AGENT}), owner="usr-adm")
    to_bot = ON_RISK.model_copy(update={"actor_id": "agt-bot", "role": Role.VIEWER})
    given(GRANTS).by(ADMIN).beside(**registered(bot)).when(to_bot).refused("own_grant")
    group = Group(created=True).members.set("usr-adm", None)
    to_group = ON_RISK.model_copy(update={"actor_id": None, "group_id": "grp-risk"})
    granting(**{"group:grp-risk": Group(created=True, members=group)}).when(to_group).refused("own_grant")


def test_a_group_that_is_there_is_granted_a_role() -> None:
    to_group = ON_RISK.model_copy(update={"actor_id": None, "group_id": "grp-risk"})
    granting(**{"group:grp-risk": Group(created=True)}).when(to_group).then(
        GRANTED.model_copy(update={"actor_id": None, "group_id": "grp-risk"})
    )
    for group in (Group(), Group(created=True, removed=True)):
        granting(**{"group:grp-risk": group}).when(to_group).refused("grantee_cannot_act")


def test_a_role_is_of_the_grantees_kind() -> None:
    bot = Actor("agt-bot", ActorKind.AGENT, frozenset({Role.AGENT}), owner="usr-ann")
    to_bot = ON_RISK.model_copy(update={"actor_id": "agt-bot"})
    given(GRANTS).by(ADMIN).beside(**registered(bot)).when(to_bot).refused("role_not_for_kind", field="role")


@pytest.mark.parametrize("to", [{"actor_id": None}, {"group_id": "grp-risk"}])
def test_a_grant_is_for_an_actor_or_for_a_group(to: dict[str, str | None]) -> None:
    granting(**{"group:None": Group()}).when(ON_RISK.model_copy(update=to)).refused("one_grantee", field="actor_id")


def test_who_was_suspended_or_never_registered_is_granted_nothing() -> None:
    gone = Actor("usr-ben", ActorKind.PERSON, frozenset({Role.VIEWER}), suspended=True)
    given(GRANTS).by(ADMIN).beside(**registered(gone)).when(ON_RISK).refused("grantee_cannot_act")
    nobody = {"actor:usr-ben": Registration(), "duties:rules": Duties()}
    given(GRANTS).by(ADMIN).beside(**nobody).when(ON_RISK).refused("grantee_cannot_act")


def test_an_approver_gives_only_what_they_hold() -> None:
    granting(APPROVER).when(ON_RISK).refused("grant_exceeds_granter", field="role", roles=[Role.APPROVER])
    as_approver = ON_RISK.model_copy(update={"role": Role.APPROVER})
    granting(APPROVER).when(as_approver).then(GRANTED.model_copy(update={"role": Role.APPROVER}))
    to_see = ON_RISK.model_copy(update={"role": Role.VIEWER})
    granting(APPROVER).when(to_see).then(GRANTED.model_copy(update={"role": Role.VIEWER}))


def test_whose_roles_reach_some_domains_grants_on_no_project() -> None:
    bounded = Asker("usr-adm", "acme", frozenset({Role.ADMIN}), domains=frozenset({"risk"}))
    on_project = ON_RISK.model_copy(update={"about": "project:p"})
    granting(bounded, **{"project:p": Project("P", "usr-ann")}).when(on_project).refused("project_beyond_reach", domains=["risk"])
    granting(bounded).when(ON_RISK).then(GRANTED)


@pytest.mark.parametrize("until", [AT, AT - DAY, AT + timedelta(days=365, seconds=1)])
def test_a_grant_ends_in_the_future_and_within_a_year(until: object) -> None:
    granting().when(ON_RISK.model_copy(update={"until": until})).refused("grant_period", field="until")


def test_roles_that_are_kept_apart_are_not_granted_together() -> None:
    rule = DutyRule(rule_id="four-eyes", reason="Nobody checks themselves.", roles_apart=(Role.ANALYST, Role.VIEWER))
    granting(**{"duties:rules": Duties({"four-eyes": rule})}).when(ON_RISK).refused("duties_conflict", rule="four-eyes")


def test_a_grant_is_extended_and_revoked_by_somebody_else_than_has_it() -> None:
    known = given(GRANTS, GRANTED).by(ADMIN).beside(**registered())
    known.when(ExtendGrant(grant_id="g1", until=UNTIL + DAY)).then(GrantExtended(grant_id="g1", until=UNTIL + DAY))
    known.when(ExtendGrant(grant_id="g1", until=UNTIL)).then()
    known.when(ExtendGrant(grant_id="g1", until=UNTIL - DAY)).refused("grant_not_extended", field="until")
    known.when(RevokeGrant(grant_id="g1", reason="Done")).then(GrantRevoked(grant_id="g1", reason="Done"))
    known.when(ON_RISK).refused("grant_exists", field="grant_id")
    itself = Asker("usr-ben", "acme", frozenset({Role.ADMIN}))
    known.by(itself).when(ExtendGrant(grant_id="g1", until=UNTIL + DAY)).refused("own_grant")
    given(GRANTS, GRANTED, GrantRevoked(grant_id="g1")).by(ADMIN).when(RevokeGrant(grant_id="g1")).refused("grant_not_found")
