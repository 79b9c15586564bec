"""Reach on the command path: roles hold where they reach, grants where and as long as they say, and leavers no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.services import deciders
from commands.access import OffboardActor, RegisterActor, ReinstateActor, SuspendActor
from commands.approvals import ApproveRequest
from commands.catalog import DescribeDataset, RegisterDataset, TagDataset
from commands.outcome import Outcome
from commands.path import CommandPath
from commands.pipelines import DeployVersion, RegisterPipeline
from commands.reach import roles_in
from domain.actions import ActionAllowed
from domain.catalog import Environment, Jurisdiction, PiiLevel
from domain.kernel import Asker, Command, Holding
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_memory_ledger
from infra.policy import DEFAULT_BUNDLE, PolicyEngine
from infra.policy_bundle import Bundle
from infra.reach import NoReach, reach_of
from tests.support.kernel import ADM, ANA, APP, ask

pytestmark = pytest.mark.anyio
AT = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOUNDED = Asker("usr-bob", "acme", frozenset({Role.ANALYST}), domains=frozenset({"crm"}))
PLACE: dict[str, Any] = {"pii_level": PiiLevel.NONE, "jurisdiction": Jurisdiction.EU, "environment": Environment.STAGING}


def granted(role: Role = Role.ANALYST, until: datetime = AT + HOUR, **where: frozenset[str]) -> Asker:
    """A viewer with one grant."""
    return Asker("usr-val", "acme", frozenset({Role.VIEWER}), holdings=(Holding(role, "g1", until=until, **where),))


@pytest.fixture(scope="module")
async def shipped() -> AsyncIterator[PolicyEngine]:
    engine = PolicyEngine(Bundle.read(DEFAULT_BUNDLE), timeout_s=5)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
async def ledger(keystore: FileKeystore) -> AsyncIterator[Ledger]:
    opened = await open_memory_ledger(keystore)
    yield opened
    await opened.close()


@pytest.fixture
async def path(ledger: Ledger, shipped: PolicyEngine) -> CommandPath:
    """With a dataset in each of two domains."""
    made = CommandPath(ledger, shipped, deciders())
    for dataset_id, domain in (("orders", "crm"), ("pay", "hr")):
        await said(made, RegisterDataset(dataset_id=dataset_id, name=dataset_id, domain=domain, **PLACE), ANA)
    return made


async def said(path: CommandPath, command: Command, by: Asker, **circumstances: Any) -> Outcome:
    outcome = await asked(path, command, by, **circumstances)
    assert outcome.outcome == "allowed", (outcome.code, outcome.message)
    return outcome


async def asked(path: CommandPath, command: Command, by: Asker, at: datetime = AT, **circumstances: Any) -> Outcome:
    return await path.handle(replace(ask(command, by, **circumstances), at=at))


TAG = TagDataset(dataset_id="orders", tags=("gold",))
TAG_PAY = TagDataset(dataset_id="pay", tags=("gold",))


async def test_a_bounded_role_holds_in_its_domains_alone(path: CommandPath) -> None:
    await said(path, TAG, BOUNDED)
    refused = await asked(path, TAG_PAY, BOUNDED)
    assert refused.code == "outside_reach"
    assert refused.facts["domains"] == ["hr"]
    assert refused.denied
    assert {"rule", "remedy", "roles_needed"} <= refused.facts.keys()


async def test_to_move_a_dataset_takes_a_role_in_both_domains(path: CommandPath) -> None:
    away = DescribeDataset(dataset_id="orders", domain="hr")
    assert (await asked(path, away, BOUNDED)).facts["domains"] == ["crm", "hr"]
    both = replace(BOUNDED, domains=frozenset({"crm", "hr"}))
    await said(path, away, both)
    assert (await asked(path, TAG, BOUNDED)).code == "outside_reach"


async def test_what_is_registered_belongs_to_the_domain_it_names(path: CommandPath) -> None:
    new = RegisterDataset(dataset_id="new", name="new", domain="hr", **PLACE)
    assert (await asked(path, new, BOUNDED)).code == "outside_reach"
    await said(path, new.model_copy(update={"domain": "crm"}), BOUNDED)
    unsaid = RegisterDataset(dataset_id="unsaid", name="unsaid", **PLACE)
    assert (await asked(path, unsaid, BOUNDED)).facts["domains"] == ["unassigned"]
    pipeline = RegisterPipeline(pipeline_id="p", label="P", domain="hr", environment=Environment.STAGING, owner="usr-ana")
    assert (await asked(path, pipeline, replace(BOUNDED, roles=frozenset({Role.ADMIN})))).code == "outside_reach"


async def test_a_role_that_is_held_nowhere_is_missing_as_ever(path: CommandPath) -> None:
    refused = await asked(path, TAG, replace(BOUNDED, roles=frozenset({Role.VIEWER})))
    assert refused.code == "role_missing"
    assert refused.facts.keys() == {"roles_needed", "remedy"}


async def test_a_grant_opens_its_scope_until_its_end(path: CommandPath, ledger: Ledger) -> None:
    for holder in (granted(streams=frozenset({"dataset:orders"})), granted(domains=frozenset({"crm"}))):
        outcome = await said(path, TAG.model_copy(update={"tags": (holder.holdings[0].source, "x")}), holder)
        action = (await ledger.read_stream("acme", f"action:{outcome.action_id}"))[0].event
        assert isinstance(action, ActionAllowed)
        assert action.intent.roles == tuple(sorted(holder.roles | {Role.ANALYST}))
        assert (await asked(path, TAG_PAY, holder)).code == "outside_reach"
        assert (await asked(path, TAG, holder, at=AT + HOUR)).code == "role_missing"


async def test_a_grant_opens_no_change_of_production(path: CommandPath) -> None:
    holder = granted(domains=frozenset({"crm"}))
    live = RegisterDataset(dataset_id="live", name="live", domain="crm", **{**PLACE, "environment": Environment.PRODUCTION})
    refused = await asked(path, live, holder)
    assert refused.code == "policy_blocked"
    assert "reach" in (refused.message or "")
    await said(path, live, BOUNDED)


async def test_policies_hear_of_reach_only_where_there_is_some_to_hear_of(path: CommandPath, ledger: Ledger) -> None:
    found = []
    for by in (ANA, BOUNDED, granted(domains=frozenset({"crm"}))):
        outcome = await said(path, TAG.model_copy(update={"tags": (by.actor,)}), by)
        action = (await ledger.read_stream("acme", f"action:{outcome.action_id}"))[0].event
        assert isinstance(action, ActionAllowed)
        found.append((action.question or {})["actor"])
    assert found == [
        {"kind": "person", "roles": ["analyst"]},
        {"kind": "person", "roles": ["analyst"], "bounded": True},
        {"kind": "person", "roles": ["analyst", "viewer"], "by_grant": True},
    ]


async def test_whoever_is_bounded_changes_nothing_for_the_whole_tenant(path: CommandPath) -> None:
    admin = replace(ADM, domains=frozenset({"crm"}))
    refused = await asked(path, RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=(Role.ADMIN,)), admin)
    assert refused.code == "policy_blocked"


async def parked(path: CommandPath) -> tuple[Command, str]:
    pipeline = RegisterPipeline(pipeline_id="p", label="P", domain="hr", environment=Environment.PRODUCTION, owner="usr-ana")
    await said(path, pipeline, ADM)
    retire = DescribeDataset(dataset_id="pay", pii_level=PiiLevel.HIGH)
    outcome = await asked(path, retire, ANA)
    assert outcome.outcome == "requires_approval", outcome
    assert outcome.approval is not None
    return retire, outcome.approval["approval_id"]


async def test_an_approver_decides_on_what_is_within_reach(path: CommandPath) -> None:
    _, approval_id = await parked(path)
    approve = ApproveRequest(approval_id=approval_id)
    refused = await asked(path, approve, replace(APP, domains=frozenset({"crm"})))
    assert refused.code == "outside_reach"
    assert refused.facts["domains"] == ["hr"]
    holder = granted(Role.APPROVER, domains=frozenset({"hr"}))
    await said(path, approve, holder)


async def test_nobody_who_was_suspended_or_has_left_is_heard_nor_what_they_own(path: CommandPath) -> None:
    for actor, kind, owner in (("usr-ana", "person", None), ("svc-job", "service", "usr-ana")):
        register = RegisterActor(actor_id=actor, kind=ActorKind(kind), granted_roles=(Role.ANALYST,), owner=owner)
        await said(path, register, ADM)
    job = Asker("svc-job", "acme", frozenset({Role.ANALYST}), ActorKind.SERVICE, owner="usr-ana")
    await said(path, TAG, job)
    await said(path, SuspendActor(actor_id="usr-ana"), ADM)
    for by in (ANA, job):
        refused = await asked(path, TAG_PAY, by)
        assert (refused.code, refused.facts["actor"], refused.denied) == ("actor_suspended", "usr-ana", True)
    await said(path, ReinstateActor(actor_id="usr-ana"), ADM)
    await said(path, TAG_PAY, job)
    await said(path, OffboardActor(actor_id="usr-ana"), ADM)
    assert (await asked(path, TAG, ANA)).code == "actor_offboarded"
    assert (await asked(path, TAG, job)).code == "actor_offboarded"


async def test_a_leaver_is_refused_at_once_in_another_process_too(path: CommandPath, ledger: Ledger, shipped: PolicyEngine) -> None:
    other = CommandPath(ledger, shipped, deciders())
    await said(path, RegisterActor(actor_id="usr-ana", kind=ActorKind.PERSON, granted_roles=(Role.ANALYST,)), ADM)
    await said(other, TAG, ANA)
    await said(path, OffboardActor(actor_id="usr-ana"), ADM)
    assert (await asked(other, TAG_PAY, ANA)).code == "actor_offboarded"


async def test_the_word_of_an_approver_who_has_left_does_not_count(path: CommandPath) -> None:
    await said(path, RegisterActor(actor_id=APP.actor, kind=ActorKind.PERSON, granted_roles=(Role.APPROVER,)), ADM)
    retire, approval_id = await parked(path)
    for approver in (APP, replace(APP, actor="usr-two")):
        await said(path, ApproveRequest(approval_id=approval_id), approver)
    await said(path, OffboardActor(actor_id=APP.actor), ADM)
    refused = await asked(path, retire, ANA, approval_id=approval_id)
    assert refused.code == "approver_has_left", refused
    assert refused.facts["agreed"] == ["usr-two"]


async def test_a_deployment_reaches_the_domain_of_its_pipeline(path: CommandPath) -> None:
    pipeline = RegisterPipeline(pipeline_id="p", label="P", domain="hr", environment=Environment.STAGING, owner="usr-ana")
    await said(path, pipeline, ADM)
    deploy = DeployVersion.model_validate(
        {"pipeline_id": "p", "models": [{"name": "m", "sql": "SELECT 1"}], "unit_tests": {"count": 1}, "dq_checks": {"count": 1}}
    )
    assert (await asked(path, deploy, BOUNDED)).code == "outside_reach"


DOMAINS = st.sampled_from(["crm", "hr", "risk"])
STREAMS = st.sampled_from(["dataset:a", "dataset:b", "budget:lake"])
MOMENTS = st.sampled_from([AT - HOUR, AT, AT + HOUR])
ROLES = st.sampled_from(Role)
HOLDINGS = st.builds(
    Holding,
    ROLES,
    st.just("g"),
    st.frozensets(DOMAINS, max_size=2),
    st.frozensets(STREAMS, max_size=2),
    st.none() | MOMENTS,
)
ASKERS = st.builds(
    Asker,
    st.just("usr-x"),
    st.just("acme"),
    st.frozensets(ROLES),
    domains=st.none() | st.frozensets(DOMAINS),
    holdings=st.lists(HOLDINGS, max_size=3).map(tuple),
)


@given(ASKERS, STREAMS, st.frozensets(DOMAINS, max_size=2), MOMENTS)
def test_a_role_is_held_where_it_reaches_or_was_granted_and_nowhere_else(
    by: Asker, stream: str, domains: frozenset[str], at: datetime
) -> None:
    def held_in(domain: str | None) -> set[Role]:
        own = set(by.roles) if by.domains is None or domain is None or domain in by.domains else set()
        for holding in by.holdings:
            in_time = holding.until is None or at < holding.until
            if in_time and (stream in holding.streams or domain in holding.domains):
                own.add(holding.role)
        return own

    expected = set.intersection(*(held_in(domain) for domain in domains)) if domains else held_in(None)
    assert roles_in(by, [(stream, domains)], at) == expected


@given(ASKERS, st.frozensets(ROLES, min_size=1), STREAMS, DOMAINS, MOMENTS)
def test_what_is_read_is_where_one_of_the_roles_is_held(by: Asker, roles: frozenset[Role], stream: str, domain: str, at: datetime) -> None:
    held = not roles_in(by, [(stream, frozenset({domain}))], at).isdisjoint(roles)
    try:
        reach = reach_of(by, roles, at)
    except NoReach:
        assert not held
        return
    assert held == (reach is None or domain in reach.domains or stream in reach.streams)
