"""The one command path: what it writes for each outcome, what it remembers, and what it never does twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import psycopg
import pytest

from api.services import deciders
from commands.access import RegisterActor
from commands.approvals import ApproveRequest
from commands.budgets import DECIDER, FundBudget, OpenBudget, ReserveFunds
from commands.outcome import Outcome
from commands.path import CommandPath, KeyReused, VersionMismatch
from domain.actions import ActionAllowed, ActionBlocked, ActionParked
from domain.approvals import ApprovalRequested, ApprovalUsed
from domain.budgets import BudgetEvent, BudgetOpened, FundsReserved
from domain.kernel import Event, Recorded
from domain.ledger import Append, LedgerUnavailable
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from infra.ledger import Ledger
from infra.opening import open_ledger, open_memory_ledger
from infra.policy import DEFAULT_BUNDLE, PolicyEngine
from infra.policy_bundle import Bundle
from infra.postgres_store import PostgresStore
from infra.sealing import Batch
from infra.vault import Vault
from tests.support.kernel import ADM, ANA, APP, BEN, ask, everything, outcomes, policies, verification

pytestmark = pytest.mark.anyio

LAKE = OpenBudget(budget_id="lake", label="Lake", currency="EUR", limit_minor=100)
FRANCS = OpenBudget(budget_id="alp", label="Alp", currency="CHF", limit_minor=100)
IN_FRANCS = ReserveFunds(budget_id="alp", amount_minor=60)


@pytest.fixture(scope="module")
async def shipped() -> AsyncIterator[PolicyEngine]:
    engine = PolicyEngine(Bundle.read(DEFAULT_BUNDLE), timeout_s=5)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
async def stand_in(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PolicyEngine]:
    async with policies(tmp_path_factory.mktemp("policies")) as engine:
        yield engine


@pytest.fixture
async def ledger(keystore: FileKeystore) -> AsyncIterator[Ledger]:
    opened = await open_memory_ledger(keystore)
    yield opened
    await opened.close()


@pytest.fixture
def path(ledger: Ledger, shipped: PolicyEngine) -> CommandPath:
    return CommandPath(ledger, shipped, deciders())


@pytest.fixture
def strict(ledger: Ledger, stand_in: PolicyEngine) -> CommandPath:
    return CommandPath(ledger, stand_in, deciders())


async def since(ledger: Ledger, position: int) -> list[Recorded[Any]]:
    return [recorded for recorded in await everything(ledger) if recorded.position > position]


async def only_action(ledger: Ledger, position: int) -> Event:
    """The one event written since: the action's own."""
    (recorded,) = await since(ledger, position)
    event: Event = recorded.event
    return event


async def test_what_is_allowed_is_written_with_its_action_in_one_commit(ledger: Ledger, path: CommandPath) -> None:
    size = ledger.head.size
    asked = ask(LAKE, ADM, reason="the lake needs money")
    outcome = await path.handle(asked)
    opened, action = await since(ledger, size)
    assert (outcome.outcome, outcome.stream, outcome.version, outcome.position) == ("allowed", "budget:lake", 1, action.position)
    assert outcome.events[0]["position"] == opened.position
    assert isinstance(opened.event, BudgetOpened)
    assert isinstance(action.event, ActionAllowed)
    assert action.stream == f"action:{asked.action_id}"
    assert (action.event.intent.seen_version, action.event.intent.reason) == (0, "the lake needs money")
    assert [(output.stream, output.version) for output in action.event.outputs] == [("budget:lake", 1)]
    assert opened.at == action.at
    assert {opened.correlation, action.correlation, opened.causation} == {asked.action_id}
    assert await ledger.store.note(opened.position) is None, "a checkpoint between them would be a commit of half an action"


async def test_a_missing_role_is_blocked_and_nothing_else_is_written(ledger: Ledger, path: CommandPath) -> None:
    size = ledger.head.size
    outcome = await path.handle(ask(LAKE, ANA))
    assert (outcome.outcome, outcome.code, outcome.denied) == ("blocked", "role_missing", True)
    assert outcome.facts["roles_needed"] == ["admin", "approver"]
    action = await only_action(ledger, size)
    assert isinstance(action, ActionBlocked)
    assert action.code == "role_missing"


async def test_a_refusal_of_the_domain_is_recorded_as_blocked(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    size = ledger.head.size
    outcome = await path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=101)))
    assert (outcome.outcome, outcome.code, outcome.denied, outcome.version) == ("blocked", "budget_exceeded", False, 1)
    action = await only_action(ledger, size)
    assert isinstance(action, ActionBlocked)
    assert (action.code, action.intent.seen_version, action.facts["available_minor"]) == ("budget_exceeded", 1, 100)


async def test_what_a_policy_blocks_is_recorded_with_the_policy_and_its_version(ledger: Ledger, strict: CommandPath) -> None:
    size = ledger.head.size
    outcome = await strict.handle(ask(LAKE.model_copy(update={"currency": "ZZZ"}), ADM))
    assert (outcome.outcome, outcome.code, outcome.denied) == ("blocked", "policy_blocked", True)
    action = await only_action(ledger, size)
    assert isinstance(action, ActionBlocked)
    assert [(result.policy, result.outcome) for result in action.policy_results] == [("no_z", "block")]
    assert action.policy_version == await strict.policy_version("acme")


async def test_if_match_of_another_version_names_both_and_writes_nothing(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    size = ledger.head.size
    with pytest.raises(VersionMismatch) as mismatch:
        await path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM, if_match=7))
    assert (mismatch.value.stream, mismatch.value.expected, mismatch.value.actual) == ("budget:lake", 7, 1)
    assert ledger.head.size == size
    assert (await path.handle(ask(FundBudget(budget_id="lake", amount_minor=1), ADM, if_match=1))).version == 2


async def test_a_repeated_idempotency_key_gives_the_first_answer_and_writes_nothing(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    reserve = ReserveFunds(budget_id="lake", amount_minor=10)
    first = await path.handle(ask(reserve, idempotency_key="k1"))
    size = ledger.head.size
    assert await path.handle(ask(reserve, idempotency_key="k1")) == first
    assert ledger.head.size == size
    with pytest.raises(KeyReused):
        await path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=11), idempotency_key="k1"))
    assert ledger.head.size == size


async def test_a_blocked_answer_is_remembered_too(ledger: Ledger, path: CommandPath) -> None:
    first = await path.handle(ask(LAKE, ANA, idempotency_key="k1"))
    size = ledger.head.size
    assert first.outcome == "blocked"
    assert await path.handle(ask(LAKE, ANA, idempotency_key="k1")) == first
    assert ledger.head.size == size


async def test_many_that_race_for_one_key_get_one_answer(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    size = ledger.head.size
    reserve = ReserveFunds(budget_id="lake", amount_minor=10)
    answers = await asyncio.gather(*(path.handle(ask(reserve, idempotency_key="k1")) for _ in range(10)))
    assert {answer.action_id for answer in answers} == {answers[0].action_id}
    assert [type(recorded.event) for recorded in await since(ledger, size)] == [FundsReserved, ActionAllowed]


async def test_one_key_with_two_bodies_at_once_serves_one_and_refuses_the_other(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    commands = [ReserveFunds(budget_id="lake", amount_minor=amount) for amount in (10, 11)]
    answers = await outcomes(*(path.handle(ask(command, idempotency_key="k1")) for command in commands))
    assert sorted(type(answer).__name__ for answer in answers) == ["KeyReused", "Outcome"]


async def parked(strict: CommandPath) -> str:
    """The id of the approval that reserving francs waits for."""
    await strict.handle(ask(FRANCS, ADM))
    outcome = await strict.handle(ask(IN_FRANCS, ANA))
    assert outcome.outcome == "requires_approval"
    assert outcome.approval is not None
    return str(outcome.approval["approval_id"])


async def test_what_needs_an_approval_is_parked_with_its_request_in_one_commit(ledger: Ledger, strict: CommandPath) -> None:
    approval_id = await parked(strict)
    events = [recorded.event for recorded in await since(ledger, 5)]
    assert [type(event) for event in events] == [ApprovalRequested, ActionParked]
    assert isinstance(events[1], ActionParked)
    assert (events[1].approval_id, events[1].intent.digest) == (approval_id, IN_FRANCS.digest())


async def test_the_approved_action_is_carried_out_once_and_never_again(ledger: Ledger, strict: CommandPath) -> None:
    approval_id = await parked(strict)
    early = await strict.handle(ask(IN_FRANCS, ANA, approval_id=approval_id))
    assert (early.outcome, early.code) == ("blocked", "approval_not_granted")
    await strict.handle(ask(ApproveRequest(approval_id=approval_id), APP))
    size = ledger.head.size
    twice = await asyncio.gather(*(strict.handle(ask(IN_FRANCS, ANA, approval_id=approval_id)) for _ in range(2)))
    assert sorted((outcome.outcome, outcome.code) for outcome in twice) == [("allowed", None), ("blocked", "approval_used")]
    written = [recorded.event for recorded in await since(ledger, size)]
    assert sum(isinstance(event, FundsReserved) for event in written) == 1
    assert sum(isinstance(event, ApprovalUsed) for event in written) == 1
    assert [event.approval_id for event in written if isinstance(event, ActionAllowed)] == [approval_id]


async def test_an_approval_covers_neither_another_content_nor_another_requester(ledger: Ledger, strict: CommandPath) -> None:
    approval_id = await parked(strict)
    await strict.handle(ask(ApproveRequest(approval_id=approval_id), APP))
    other = await strict.handle(ask(IN_FRANCS.model_copy(update={"amount_minor": 61}), ANA, approval_id=approval_id))
    assert (other.outcome, other.code) == ("blocked", "approval_is_for_another_action")
    stranger = await strict.handle(ask(IN_FRANCS, BEN, approval_id=approval_id))
    assert (stranger.outcome, stranger.code) == ("blocked", "not_the_requester")
    assert not any(isinstance(recorded.event, FundsReserved) for recorded in await everything(ledger))
    assert (await strict.handle(ask(IN_FRANCS, ANA, approval_id=approval_id))).outcome == "allowed"


async def test_a_refusal_is_bound_to_the_version_it_saw(
    ledger: Ledger, path: CommandPath, shipped: PolicyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Funds come in while a refusal for want of them is on its way: it is decided again, not recorded as it was."""
    await path.handle(ask(LAKE, ADM))
    enqueue = ledger.enqueue
    overtaken: list[asyncio.Future[Outcome]] = []
    other = CommandPath(ledger, shipped, deciders())

    def overtaking(append: Append) -> asyncio.Future[Any]:
        if not overtaken and any(isinstance(event, ActionBlocked) for write in append.writes for event in write.events):
            overtaken.append(asyncio.ensure_future(other.handle(ask(FundBudget(budget_id="lake", amount_minor=100), ADM))))

            async def afterwards() -> Any:
                await overtaken[0]
                return await enqueue(append)

            return asyncio.ensure_future(afterwards())
        return enqueue(append)

    monkeypatch.setattr(ledger, "enqueue", overtaking)
    outcome = await path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=150)))
    assert overtaken
    assert outcome.outcome == "allowed"
    assert not any(isinstance(recorded.event, ActionBlocked) for recorded in await everything(ledger))


async def test_many_at_once_never_reserve_more_than_there_is_at_any_level(ledger: Ledger, path: CommandPath) -> None:
    for budget_id, limit_minor in (("lake", 100), ("lake.a", 70), ("lake.b", 70)):
        await path.handle(ask(OpenBudget(budget_id=budget_id, label="L", currency="EUR", limit_minor=limit_minor), ADM))
    asked = [ReserveFunds(budget_id=f"lake.{'ab'[index % 2]}", amount_minor=1 + index % 9) for index in range(80)]
    answers = await asyncio.gather(*(path.handle(ask(command)) for command in asked))
    granted = [command.amount_minor for command, answer in zip(asked, answers, strict=True) if answer.outcome == "allowed"]
    assert {answer.code for answer in answers if answer.outcome == "blocked"} == {"budget_exceeded"}
    assert 92 <= sum(granted) <= 100
    tree = DECIDER.replay(cast(BudgetEvent, recorded.event) for recorded in await ledger.read_stream("acme", "budget:lake"))
    assert all(0 <= budget.available_minor <= budget.limit_minor for budget in tree.budgets.values())
    assert (await verification(ledger)).problems == []


async def test_states_are_forgotten_when_their_append_fails(ledger: Ledger, path: CommandPath, monkeypatch: pytest.MonkeyPatch) -> None:
    await path.handle(ask(LAKE, ADM))

    async def full(_batch: Batch) -> None:
        raise LedgerUnavailable("disk_full", "The disk is full.", "Free some.")

    reserve = ReserveFunds(budget_id="lake", amount_minor=60)
    with monkeypatch.context() as failing:
        failing.setattr(ledger.store, "commit", full)
        # The second is decided upon what the first hoped to write: it must not outlive it.
        failed = await outcomes(path.handle(ask(reserve)), path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=40))))
    assert [type(outcome) for outcome in failed] == [LedgerUnavailable, LedgerUnavailable]
    assert [recorded.version for recorded in await ledger.read_stream("acme", "budget:lake")] == [1]
    outcome = await path.handle(ask(ReserveFunds(budget_id="lake", amount_minor=100)))
    assert (outcome.outcome, outcome.events[0]["version"]) == ("allowed", 2)


async def test_a_large_input_is_kept_once_and_bound_by_its_digest(ledger: Ledger, path: CommandPath) -> None:
    asked = ask(RegisterActor(actor_id="usr-new", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name="Ä" * 200), ADM)
    await path.handle(asked)
    action = (await everything(ledger))[-1].event
    assert isinstance(action, ActionAllowed)
    assert action.intent.inputs == {"actor_id": "usr-new", "kind": "person", "granted_roles": ["viewer"]}


async def test_personal_fields_are_in_no_byte_but_the_vaults(database_url: str, keystore: FileKeystore, shipped: PolicyEngine) -> None:
    name = "Zebedee Quillfeather"
    ledger = await open_ledger(database_url, keystore)
    path = CommandPath(ledger, shipped, deciders())
    register = RegisterActor(actor_id="usr-zq", kind=ActorKind.PERSON, granted_roles=(Role.VIEWER,), display_name=name)
    outcome = await path.handle(ask(register, ADM, idempotency_key="k1"))
    assert name not in str(outcome)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        for table in ("ledger.events", "ledger.requests", "ledger.checkpoints", "vault.disclosures", "vault.keys"):
            async with connection.cursor().copy(f"COPY {table} TO STDOUT (FORMAT binary)".encode()) as copy:
                stored = b"".join([bytes(block) async for block in copy])
            assert stored
            assert b"Zebedee" not in stored, table
            assert b"Quillfeather" not in stored, table
    store = ledger.store
    assert isinstance(store, PostgresStore)
    position = outcome.events[0]["position"]
    assert await store.vault.open(store.pool, "acme", position) == {"display_name": name}
    assert await Vault(keystore.key_encryption_keys()).open(store.pool, "acme", position) == {"display_name": name}
    assert await store.vault.open(store.pool, "other", position) == {}
    await ledger.close()


async def test_a_command_asked_twice_without_a_key_is_two_actions(ledger: Ledger, path: CommandPath) -> None:
    await path.handle(ask(LAKE, ADM))
    reserve = ReserveFunds(budget_id="lake", amount_minor=10)
    first, second = await asyncio.gather(path.handle(ask(reserve)), path.handle(ask(reserve)))
    assert first.action_id != second.action_id
    assert {first.version, second.version} == {2, 3}
