"""Dead letters: what a reaction cannot do is put on record, whole; nobody is held up by it, and it can be replayed or discarded."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from api.services import deciders, projections
from commands.access import RegisterActor
from commands.approvals import ApproveRequest
from commands.budgets import FundBudget, OpenBudget, ReserveFunds
from commands.catalog import RecordOwnerContact
from commands.path import CommandPath
from commands.reactions import ReplayDeadLetter
from domain.actions import ActionAllowed, ActionBlocked
from domain.budgets import BudgetFunded, BudgetOpened, FundsReserved
from domain.catalog import OwnerContactRecorded
from domain.kernel import Command, Recorded
from domain.notifications import NotificationSent
from domain.reactions import DeadLetterRecorded, DeadLetterReplayed, DeadLetterReplayFailed
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.policy import PolicyEngine
from infra.read_models import create_read_models
from streams.approvals import SAGAS as CARRIED_OUT
from streams.notifications import REACTIONS as NOTIFYING
from streams.reactions import ACTOR, Due, Reaction, ReadRows, Sweep
from tests.support.kernel import ADM, APP, Process, ask, policies, processes
from tests.support.reacting import Tenant, eventually, ledger_of, of, reacting

pytestmark = pytest.mark.anyio

NUMBERS: Final = count(1)
MUTE: Final = """package aureus

import rego.v1

verdict := {"outcome": "block", "results": [{"policy": "mute", "outcome": "block", "reason": "Not this."}]} if {
	input.action in {"reactions.record_dead_letter", "notifications.notify"}
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
"""Policies that forbid even to put on record what could not be done."""
UNTOLD: Final = MUTE.replace('"reactions.record_dead_letter", ', "")


def opening(budget_id: str, currency: str = "EUR") -> OpenBudget:
    return OpenBudget(budget_id=budget_id, label="B", currency=currency, limit_minor=1_000, thresholds_percent=())


async def welcome(recorded: Recorded[BudgetOpened], _reads: ReadRows) -> list[Command]:
    return [FundBudget(budget_id=recorded.event.budget_id, amount_minor=10)]


WELCOME: Final = Reaction("welcome", (BudgetOpened,), welcome)


def presenting(budget_id: str, *fine: str) -> Reaction:
    """Gives this budget a present whenever a lake is opened."""

    async def react(recorded: Recorded[BudgetOpened], _reads: ReadRows) -> list[Command]:
        lake = recorded.event.budget_id.startswith("lake")
        return [FundBudget(budget_id=budget_id, amount_minor=1)] if lake else []

    return Reaction("presenting", (BudgetOpened,), react, frozenset(fine))


@pytest.fixture(scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies")) as opened:
        yield opened


@pytest.fixture(scope="module")
async def ledger(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Ledger]:
    async with ledger_of(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture
def at(shared_database_url: str, ledger: Ledger, engine: PolicyEngine) -> Tenant:
    return Tenant(f"bank-{next(NUMBERS)}", shared_database_url, ledger, CommandPath(ledger, engine, deciders()))


def letters(events: list[Recorded[Any]]) -> list[DeadLetterRecorded]:
    return [recorded.event for recorded in of(DeadLetterRecorded, events)]


async def test_a_poison_event_is_left_and_no_other_reaction_waits_for_it(at: Tenant) -> None:
    broken = True

    async def poisoned(recorded: Recorded[BudgetOpened], _reads: ReadRows) -> list[Command]:
        if broken and recorded.event.budget_id != "lake-3":
            raise KeyError("a bug")
        return [FundBudget(budget_id=recorded.event.budget_id, amount_minor=7)]

    async with at.reacting(Reaction("poisoned", (BudgetOpened,), poisoned), WELCOME):
        for number in range(1, 4):
            await at.do(opening(f"lake-{number}"))
        events = await at.eventually(lambda events: len(of(BudgetFunded, events)) == 4)
        assert [(one.event.budget_id, one.event.amount_minor) for one in of(BudgetFunded, events)] == [
            ("lake-1", 10),
            ("lake-2", 10),
            ("lake-3", 7),
            ("lake-3", 10),
        ]
        first, second = letters(events)
        assert (first.reaction, first.code, first.command, first.message) == ("poisoned", "reaction_failed", None, "KeyError('a bug')")
        assert (first.attempts, second.attempts) == (5, 1), "what keeps failing is tried once per event, so that others need not wait"
        assert first.cause is not None
        assert first.cause.stream == "budget:lake-1"

        await at.do(ReplayDeadLetter(letter_id=first.letter_id), APP)
        await at.eventually(lambda events: bool(of(DeadLetterReplayFailed, events)))
        broken = False
        await at.do(ReplayDeadLetter(letter_id=first.letter_id), APP)
        events = await at.eventually(lambda events: bool(of(DeadLetterReplayed, events)))
    assert (of(BudgetFunded, events)[-1].event.budget_id, of(BudgetFunded, events)[-1].event.amount_minor) == ("lake-1", 7)


async def test_what_is_refused_is_left_with_all_it_takes_to_ask_again(at: Tenant) -> None:
    async with at.reacting(presenting("nowhere")):
        await at.do(opening("lake"))
        events = await at.eventually(lambda events: bool(letters(events)))
        (letter,) = letters(events)
        assert (letter.command, letter.inputs) == ("budgets.fund_budget", {"budget_id": "nowhere", "amount_minor": 1})
        assert (letter.code, letter.attempts) == ("budget_not_found", 1), "a refusal is not asked for again by itself"
        await at.do(opening("nowhere"))
        await at.do(ReplayDeadLetter(letter_id=letter.letter_id))
        events = await at.eventually(lambda events: bool(of(DeadLetterReplayed, events)))
    (given,) = of(BudgetFunded, events)
    (replayed,) = of(DeadLetterReplayed, events)
    (action,) = [one for one in events if one.stream == f"action:{replayed.event.action_ids[0]}"]
    assert (given.actor, action.position) == (ACTOR, given.position + 1), "asked by the platform, through the one path"
    # What it had come to was not written down any more.
    async with at.reacting(presenting("nowhere"), since=events[0].position - 1):
        await at.do(opening("lake-2"))
        events = await at.eventually(lambda events: len(of(BudgetFunded, events)) == 2)
    assert len(letters(events)) == 1, "the same refusal is the same letter, however often it is come by"


async def test_a_refusal_that_is_fine_leaves_nothing(at: Tenant) -> None:
    async with at.reacting(presenting("nowhere", "budget_not_found"), WELCOME):
        await at.do(opening("lake"))
        events = await at.eventually(lambda events: bool(of(BudgetFunded, events)))
    assert [one.event.code for one in of(ActionBlocked, events)] == ["budget_not_found"]
    assert letters(events) == []


async def test_what_holds_personal_data_is_not_kept_but_worked_out_again(at: Tenant) -> None:
    async def react(_recorded: Recorded[BudgetOpened], _reads: ReadRows) -> list[Command]:
        return [RecordOwnerContact(dataset_id="crm", owner_id="ext-a", contact_name="Ada Lovelace")]

    async with at.reacting(Reaction("personal", (BudgetOpened,), react)):
        await at.do(opening("lake"))
        events = await at.eventually(lambda events: bool(letters(events)))
        (letter,) = letters(events)
        assert (letter.command, letter.inputs) == ("catalog.record_owner_contact", None)
        await at.do(ReplayDeadLetter(letter_id=letter.letter_id))
        events = await at.eventually(lambda events: bool(of(DeadLetterReplayFailed, events)))
    assert of(DeadLetterReplayFailed, events)[0].event.code == letter.code, "asked again, and refused as it was before"
    assert of(OwnerContactRecorded, events) == []
    assert b"Lovelace" not in b"".join(one.body for one in await at.ledger.entries(0, 10_000))


async def test_a_sweep_that_fails_or_is_refused_holds_nobody_up_either(at: Tenant) -> None:
    rounds = 0

    async def refused(_reads: ReadRows, _now: datetime) -> list[Due]:
        nonlocal rounds
        rounds += 1
        return [(at.name, "k", FundBudget(budget_id="nowhere", amount_minor=1))]

    async def broken(_reads: ReadRows, _now: datetime) -> list[Due]:
        raise KeyError("a bug")

    sweeps = (Sweep("broken", 0.0, broken), Sweep("refused", 0.0, refused))
    async with at.reacting(WELCOME, sweeps=sweeps):
        await at.do(opening("lake"))
        events = await at.eventually(lambda events: bool(letters(events) and of(BudgetFunded, events)))
        before, so_far = len(events), rounds
        while rounds < so_far + 4:
            await at.do(FundBudget(budget_id="lake", amount_minor=1))
            before += 2
        (letter,) = letters(events := await at.events())
    assert (letter.reaction, letter.cause, letter.code) == ("refused", None, "budget_not_found")
    assert len(events) == before, "found again and again, it is on record once"


async def test_what_has_to_wait_for_an_approval_is_carried_out_when_it_is_granted(at: Tenant) -> None:
    async def react(recorded: Recorded[BudgetOpened], _reads: ReadRows) -> list[Command]:
        return [ReserveFunds(budget_id=recorded.event.budget_id, amount_minor=5)]

    async with at.reacting(Reaction("reserving", (BudgetOpened,), react), sagas=CARRIED_OUT):
        await at.do(opening("alp", "CHF"))
        events = await at.eventually(lambda events: any(one.event.event_name == "approvals.approval_requested" for one in events))
        (wanted,) = [one for one in events if one.event.event_name == "approvals.approval_requested"]
        await at.do(ApproveRequest(approval_id=wanted.event.approval_id), APP)
        events = await at.eventually(lambda events: bool(of(FundsReserved, events)))
    assert (of(FundsReserved, events)[0].actor, letters(events)) == (ACTOR, [])


async def test_a_letter_that_may_not_be_recorded_leaves_no_other(at: Tenant, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with policies(tmp_path / "mute", MUTE) as mute:
        at = replace(at, path=CommandPath(at.ledger, mute, deciders()))
        with caplog.at_level(logging.ERROR, "aureus.reactions"):
            async with at.reacting(presenting("nowhere"), WELCOME):
                await at.do(opening("lake"))
                events = await at.eventually(lambda events: bool(of(BudgetFunded, events)))
    refused = [one.event for one in of(ActionBlocked, events) if one.event.intent.command == "reactions.record_dead_letter"]
    assert [one.intent.inputs["inputs"] for one in refused] == [{"budget_id": "nowhere", "amount_minor": 1}], "its refusal holds it all"
    assert "is not recorded (policy_blocked)" in caplog.text


@pytest.fixture
async def known(at: Tenant) -> None:
    """Two stewards and an analyst with an inbox."""
    for actor_id, role in (("usr-adm", Role.ADMIN), ("usr-app", Role.APPROVER), ("usr-ana", Role.ANALYST)):
        await at.do(RegisterActor(actor_id=actor_id, kind=ActorKind.PERSON, granted_roles=(role,)))


@pytest.mark.usefixtures("known")
async def test_stewards_are_told_once_an_hour_what_a_reaction_left(at: Tenant) -> None:
    async with at.reacting(presenting("nowhere"), *NOTIFYING):
        for number in (1, 2, 3):
            await at.do(opening(f"lake-{number}"))
        events = await at.eventually(lambda events: len(letters(events)) == 3 and len(of(NotificationSent, events)) >= 2)
    told = [one.event for one in of(NotificationSent, events)]
    assert sorted(one.recipient for one in told) == ["usr-adm", "usr-app"]
    assert {(one.kind, one.subject) for one in told} == {("dead_letter_left", "presenting left a dead letter (budget_not_found)")}


@pytest.mark.usefixtures("known")
async def test_a_letter_about_telling_of_letters_is_told_to_nobody(at: Tenant, tmp_path: Path) -> None:
    async with policies(tmp_path / "untold", UNTOLD) as untold:
        at = replace(at, path=CommandPath(at.ledger, untold, deciders()))
        async with at.reacting(presenting("nowhere"), *NOTIFYING, WELCOME):
            await at.do(opening("lake"))
            events = await at.eventually(lambda events: len(letters(events)) == 3)
            await at.do(opening("pond"))
            events = await at.eventually(lambda events: len(of(BudgetFunded, events)) == 2)
    reactions = [one.reaction for one in letters(events)]
    assert sorted(reactions) == ["dead_letter_notifies_stewards"] * 2 + ["presenting"], "one for each steward who was not told: and no more"


@pytest.mark.slow
async def test_two_reactors_at_once_leave_one_letter(database_url: str, tmp_path: Path, engine: PolicyEngine) -> None:
    keystore = FileKeystore.open(tmp_path / "keys")
    async with processes(database_url, keystore, engine, 2) as both:
        first, second = both
        await create_read_models(database_url, projections())
        async with reacting(database_url, first.ledger, first.path, presenting("nowhere")), _beside(database_url, second):
            for number in (1, 2):
                await second.path.handle(ask(opening(f"lake-{number}"), ADM))
            events = await eventually(first.ledger, lambda events: len(letters(events)) == 2)
    assert [one.event.intent.command for one in of(ActionAllowed, events)].count("reactions.record_dead_letter") == 2


def _beside(dsn: str, process: Process) -> Any:
    return reacting(dsn, process.ledger, process.path, presenting("nowhere"))
