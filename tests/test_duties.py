"""The separation of duties: what a rule may say, and that whoever breaks it is refused, whatever way they came to what they hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from api.services import deciders
from commands.access import RegisterActor
from commands.budgets import CloseBudget, FundBudget, OpenBudget
from commands.duties import DECIDER, DefineRule, RemoveRule
from commands.path import CommandPath
from domain.duties import Duties, DutyRule, RuleDefined, RuleRemoved, require_apart
from domain.kernel import Asker, Holding, Refused
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger
from infra.policy import PolicyEngine
from tests.given import ADMIN, AT, given
from tests.support.kernel import ADM, ask, outcomes, policies

APART: Final = DutyRule(rule_id="four-eyes", reason="Nobody approves what they ask for.", roles_apart=(Role.APPROVER, Role.ANALYST))
ONE_HAND: Final = DutyRule(
    rule_id="open-fund", reason="Whoever opens a budget does not fill it.", commands_apart=("budgets.open_budget", "budgets.fund_budget")
)


def defining(rule: DutyRule) -> DefineRule:
    return DefineRule(**rule.model_dump())


def test_a_rule_is_defined_redefined_and_removed() -> None:
    given(DECIDER).by(ADMIN).when(defining(APART)).then(RuleDefined(rule=APART))
    given(DECIDER, RuleDefined(rule=APART)).by(ADMIN).when(defining(APART)).then()
    wider = APART.model_copy(update={"roles_apart": (*APART.roles_apart, Role.AUDITOR)})
    given(DECIDER, RuleDefined(rule=APART)).by(ADMIN).when(defining(wider)).then(RuleDefined(rule=wider))
    given(DECIDER, RuleDefined(rule=APART)).by(ADMIN).when(RemoveRule(rule_id="four-eyes")).then(RuleRemoved(rule_id="four-eyes"))


@pytest.mark.parametrize(
    ("more", "code", "field"),
    [
        ({}, "rule_of_one_kind", "roles_apart"),
        ({"roles_apart": (Role.ADMIN, Role.VIEWER), "commands_apart": ("a.b", "a.c")}, "rule_of_one_kind", "roles_apart"),
        ({"roles_apart": (Role.VIEWER,)}, "rule_needs_two", "roles_apart"),
        ({"commands_apart": ("a.b", "a.b")}, "rule_needs_two", "commands_apart"),
    ],
)
def test_a_rule_keeps_two_or_more_of_one_kind_apart(more: dict[str, Any], code: str, field: str) -> None:
    given(DECIDER).by(ADMIN).when(DefineRule(rule_id="r", reason="So.", **more)).refused(code, field=field)


def test_nobody_defines_a_rule_that_would_hold_themselves_up() -> None:
    until = Holding(Role.APPROVER, "g-1", domains=frozenset({"sales"}), until=AT + timedelta(days=1))
    both = replace(ADMIN, roles=frozenset({Role.ADMIN, Role.ANALYST}), holdings=(until,))
    given(DECIDER).by(both).when(defining(APART)).refused("own_conflict", field="roles_apart")
    ended = replace(both, holdings=(replace(until, until=AT),))
    given(DECIDER).by(ended).when(defining(APART)).then(RuleDefined(rule=APART))


def test_what_is_not_there_is_not_removed() -> None:
    given(DECIDER).by(ADMIN).when(RemoveRule(rule_id="four-eyes")).refused("rule_not_found", field="rule_id")


def test_policies_see_whether_a_rule_is_loosened() -> None:
    there = Duties({APART.rule_id: APART})
    fewer = APART.model_copy(update={"roles_apart": (Role.APPROVER, Role.ADMIN)})
    assert DECIDER.facts(there, RemoveRule(rule_id="four-eyes")) == {"loosens": True}
    assert DECIDER.facts(there, defining(fewer)) == {"loosens": True}
    assert DECIDER.facts(there, defining(APART)) == {"loosens": False}
    assert DECIDER.facts(DECIDER.initial, defining(APART)) == {"loosens": False}


@examples(st.sets(st.sampled_from(Role)), st.lists(st.sets(st.sampled_from(Role), min_size=2), max_size=4))
def test_roles_break_exactly_the_rules_of_which_they_hold_two(held: set[Role], rules: list[set[Role]]) -> None:
    named = {str(number): DutyRule(rule_id=f"r{number}", reason="So.", roles_apart=tuple(roles)) for number, roles in enumerate(rules)}
    broken = {rule.rule_id for rule, _ in Duties(named).broken_by(held)}
    assert broken == {rule.rule_id for rule in named.values() if len(held & set(rule.roles_apart)) >= 2}


# -- at use


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies")) as opened:
        yield opened


@pytest.fixture
async def ledger(database_url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(database_url, FileKeystore.open(tmp_path / "keys"))
    yield opened
    await opened.close()


@pytest.fixture
def path(ledger: Ledger, engine: PolicyEngine) -> CommandPath:
    return CommandPath(ledger, engine, deciders())


BOT: Final = Asker("svc-bot", "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE, owner=ADM.actor)
EVE: Final = Asker("usr-eve", "acme", frozenset({Role.ADMIN}))
LAKE: Final = OpenBudget(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)


@pytest.mark.anyio
async def test_who_holds_roles_that_are_kept_apart_asks_for_nothing_whatever_way_they_came(path: CommandPath) -> None:
    assert (await path.handle(ask(defining(APART), ADM))).outcome == "allowed"
    now = ask(LAKE).at
    by_grant = Holding(Role.APPROVER, "g-1", streams=frozenset({"dataset:d"}), until=now + timedelta(days=1))
    own = Asker("usr-eve", "acme", frozenset({Role.ADMIN, Role.ANALYST, Role.APPROVER}))
    granted = Asker("usr-eve", "acme", frozenset({Role.ADMIN, Role.ANALYST}), holdings=(by_grant,))
    for both in (own, granted):
        outcome = await path.handle(ask(LAKE, both))
        assert (outcome.code, outcome.denied, outcome.facts["rule"]) == ("duties_conflict", True, "four-eyes")
        assert outcome.facts["roles"] == ["analyst", "approver"]
    ended = replace(granted, holdings=(replace(by_grant, until=now),))
    assert (await path.handle(ask(LAKE, ended))).outcome == "allowed"


@pytest.mark.anyio
async def test_the_same_hand_does_not_both_and_a_service_is_its_owners_hand(path: CommandPath) -> None:
    assert (await path.handle(ask(defining(ONE_HAND), EVE))).outcome == "allowed"
    registered = await path.handle(ask(RegisterActor(actor_id=BOT.actor, kind=BOT.kind, granted_roles=(Role.ADMIN,), owner=ADM.actor), EVE))
    assert registered.outcome == "allowed"
    assert (await path.handle(ask(LAKE, BOT))).outcome == "allowed"
    fund = FundBudget(budget_id="lake", amount_minor=1)
    for hand in (BOT, ADM):
        outcome = await path.handle(ask(fund, hand))
        assert (outcome.code, outcome.facts["hand"], outcome.facts["commands"]) == (
            "duties_conflict",
            ADM.actor,
            ["budgets.open_budget", "budgets.fund_budget"],
        )
    assert (await path.handle(ask(fund, EVE))).outcome == "allowed"
    assert (await path.handle(ask(fund, EVE))).outcome == "allowed", "the same command again is no other duty"
    assert (await path.handle(ask(CloseBudget(budget_id="lake"), ADM))).outcome == "allowed", "no rule is about it"


@pytest.mark.anyio
async def test_a_command_decided_while_the_first_is_still_being_written_is_held_to_it(path: CommandPath) -> None:
    assert (await path.handle(ask(defining(ONE_HAND), EVE))).outcome == "allowed"
    opened, funded = await outcomes(path.handle(ask(LAKE, ADM)), path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM)))
    assert (opened.outcome, funded.code) == ("allowed", "duties_conflict")


@pytest.mark.anyio
async def test_a_rule_that_another_process_defined_binds_at_once(ledger: Ledger, engine: PolicyEngine, path: CommandPath) -> None:
    assert (await path.handle(ask(LAKE, ADM))).outcome == "allowed"
    other = CommandPath(ledger, engine, deciders())
    assert (await other.handle(ask(defining(ONE_HAND), EVE))).outcome == "allowed"
    assert (await path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM))).code == "duties_conflict"


def test_a_role_that_would_break_a_rule_is_refused_before_it_is_given() -> None:
    with pytest.raises(Refused, match="four-eyes") as refused:
        require_apart(Duties({APART.rule_id: APART}), "usr-eve", {Role.ANALYST, Role.APPROVER})
    assert (refused.value.code, refused.value.facts["rule"]) == ("duties_conflict", "four-eyes")
