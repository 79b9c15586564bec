"""Money that is spent stops the agents that spend it, where the budget says so; and whoever opened the budget is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any, Final

import pytest

from commands.agents import RegisterAgent, ResumeAgent
from commands.budgets import DECIDER, ChangeSettings, OpenBudget, ReserveFunds, RollBackSettings
from domain.budgets import BudgetOpened, BudgetSettings, FundsReserved, SettingsChanged, ThresholdReached
from domain.kernel import Asker
from domain.values import ActorKind, Role
from tests.given import ACTION_ID, APPROVER, given
from tests.support.kernel import ADM, APP, ask
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

UNSTOPPABLE: Final = """package aureus

import rego.v1

verdict := {"outcome": "block", "results": [{"policy": "spared", "outcome": "block", "reason": "Nobody knows it."}]} if {
	input.action == "agents.stop_agent"
	not input.facts.registered
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
"""Policies that let nobody stop an agent that is not registered."""
NUMBERS: Final = count(1)
OPENED: Final = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=1_000, thresholds_percent=(80,))


# -- decisions


def settings(pause: int | None) -> SettingsChanged:
    return SettingsChanged(budget_id="lake", settings=BudgetSettings(label="Lake", thresholds_percent=(80,), pause_agents_at_percent=pause))


def test_a_budget_says_at_which_share_agents_pause() -> None:
    opening = OpenBudget(budget_id="lake", label="Lake", currency="EUR", limit_minor=1_000, thresholds_percent=(80,))
    given(DECIDER).by(APPROVER).when(opening).then(OPENED)
    given(DECIDER).by(APPROVER).when(opening.model_copy(update={"pause_agents_at_percent": 50})).then(OPENED, settings(50))
    given(DECIDER, OPENED).by(APPROVER).when(ChangeSettings(budget_id="lake", pause_agents_at_percent=50)).then(settings(50))
    given(DECIDER, OPENED, settings(50)).by(APPROVER).when(ChangeSettings(budget_id="lake", pause_agents_at_percent=0)).then(settings(None))
    given(DECIDER, OPENED).by(APPROVER).when(ChangeSettings(budget_id="lake", pause_agents_at_percent=0)).then()
    back = given(DECIDER, OPENED, settings(50)).by(APPROVER).when(RollBackSettings(budget_id="lake", to_version=1))
    assert back.events[0].snapshot == BudgetSettings(label="Lake", thresholds_percent=(80,))  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0, 101])
def test_such_a_share_is_a_percentage(share: int) -> None:
    with pytest.raises(ValueError, match="pause_agents_at_percent"):
        OpenBudget(budget_id="lake", label="L", currency="EUR", limit_minor=1, pause_agents_at_percent=share)


@pytest.mark.parametrize(("amount", "reached"), [(499, ()), (500, (50,)), (800, (50, 80))])
def test_that_share_is_reached_though_no_threshold_names_it(amount: int, reached: tuple[int, ...]) -> None:
    reserved = FundsReserved(budget_id="lake", reservation_id=str(ACTION_ID), amount_minor=amount, path=("lake",))
    marks = [ThresholdReached(budget_id="lake", threshold_percent=percent, used_minor=amount, limit_minor=1_000) for percent in reached]
    given(DECIDER, OPENED, settings(50)).when(ReserveFunds(budget_id="lake", amount_minor=amount)).then(reserved, *marks)


# -- the story


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home"), UNSTOPPABLE) as started:
        await started.know(ADM, APP)
        yield started


async def agents(aureus: Aureus, *names: str) -> list[Asker]:
    found = []
    for name in names:
        await aureus.services.path.handle(ask(RegisterAgent(agent_id=name, label="A", purpose="P", model="m", owner="usr-ana"), ADM))
        found.append(spender(name))
    return found


def spender(name: str) -> Asker:
    return Asker(name, "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")


async def budgets(aureus: Aureus, *names: str, pause: int | None = 50) -> None:
    for name in names:
        command = OpenBudget(budget_id=name, label="B", currency="EUR", limit_minor=1_000, thresholds_percent=(80,))
        pausing = command.model_copy(update={"pause_agents_at_percent": pause if "." not in name else None})
        assert (await aureus.services.path.handle(ask(pausing, APP))).outcome == "allowed"


async def reserve(aureus: Aureus, by: Asker, budget_id: str, amount: int) -> None:
    outcome = await aureus.services.path.handle(ask(ReserveFunds(budget_id=budget_id, amount_minor=amount), by))
    assert outcome.outcome == "allowed", outcome


async def items(aureus: Aureus, path: str, number: int, **filters: Any) -> list[dict[str, Any]]:
    """So many rows, once they are there."""
    found: list[dict[str, Any]] = []
    for _ in range(400):
        found = (await aureus.get(path, ADM, **filters)).json()["items"]
        if len(found) == number:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{path} {filters}: {found}")


async def test_the_agents_on_a_spent_budget_are_stopped_and_its_opener_is_told(aureus: Aureus) -> None:
    number = next(NUMBERS)
    lake, far = f"lake-{number}", f"lake-{number}0"
    mine, below, elsewhere, idle = await agents(aureus, *(f"agt-{name}-{number}" for name in ("mine", "below", "elsewhere", "idle")))
    await budgets(aureus, lake, f"{lake}.ingest", far)
    await reserve(aureus, below, f"{lake}.ingest", 100)
    await reserve(aureus, elsewhere, far, 100)
    await reserve(aureus, mine, lake, 399)
    assert (await aureus.get("/v1/sagas", ADM, cause_stream=f"budget:{lake}")).json()["items"] == [], "not yet"
    await reserve(aureus, mine, lake, 1)

    (saga,) = await items(aureus, "/v1/sagas", 1, cause_stream=f"budget:{lake}", status="completed")
    assert [step["step"] for step in saga["steps"]] == ["stop_agents", "tell_opener"]
    stopped = await items(aureus, "/v1/agents", 2, status="stopped", q=f"-{number}")
    assert {row["agent_id"] for row in stopped} == {mine.actor, below.actor}
    figures = f"Budget {lake} has 5.00 EUR of 10.00 EUR promised or spent, 50 % or more"
    assert {row["stop"]["reason"] for row in stopped} == {f"{figures}: agents pause there."}
    (told,) = await items(aureus, "/v1/notifications", 1, recipient=APP.actor, kind="agents_paused", about=f"budget:{lake}")
    assert told["text"] == f"{figures}. Stopped: {below.actor}, {mine.actor}. Fund it, and have an administrator resume them."
    await items(aureus, "/v1/reservations", 0, root_id=lake, status="reserved")
    resumed = await aureus.services.path.handle(ask(ResumeAgent(agent_id=mine.actor, reason="Funded"), ADM))
    assert resumed.outcome == "allowed", "resumed as ever, by a person who did not stop it"
    assert elsewhere.actor != idle.actor


async def test_what_cannot_be_stopped_is_told_and_left_and_the_others_stay_stopped(aureus: Aureus) -> None:
    number = next(NUMBERS)
    lake = f"lake-{number}"
    (known,) = await agents(aureus, f"agt-known-{number}")
    stranger = spender(f"agt-stranger-{number}")
    await budgets(aureus, lake)
    await reserve(aureus, stranger, lake, 100)
    await reserve(aureus, known, lake, 600)
    (letter,) = await items(aureus, "/v1/dead-letters", 1, reaction="spent_budget_pauses_agents", cause_stream=f"budget:{lake}")
    assert (letter["command"], letter["inputs"]["agent_id"], letter["code"]) == ("agents.stop_agent", stranger.actor, "policy_blocked")
    (told,) = await items(aureus, "/v1/notifications", 1, recipient=APP.actor, kind="agents_paused", about=f"budget:{lake}")
    assert f"Stopped: {known.actor}. Could not be stopped: {stranger.actor}: Policy refuses agents.stop_agent" in told["text"]
    await items(aureus, "/v1/sagas", 1, cause_stream=f"budget:{lake}", status="completed")

    await agents(aureus, stranger.actor)  # what was in its way is mended
    where = f"/v1/dead-letters/{letter['letter_id']}"
    assert (await aureus.post(f"{where}/replay", {}, APP)).status_code == 200
    (letter,) = await items(aureus, "/v1/dead-letters", 1, cause_stream=f"budget:{lake}", status="replayed")
    assert (letter["resolved_by"], letter["attempts"]) == (APP.actor, 2)
    await items(aureus, "/v1/agents", 2, status="stopped", q=f"-{number}")
    late = await aureus.post(f"{where}/discard", {"reason": "Too late"}, ADM)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "dead_letter_replayed")


async def test_any_other_threshold_is_only_told(aureus: Aureus) -> None:
    number = next(NUMBERS)
    lake = f"lake-{number}"
    (mine,) = await agents(aureus, f"agt-mine-{number}")
    await budgets(aureus, lake, pause=None)
    await reserve(aureus, mine, lake, 800)
    (told,) = await items(aureus, "/v1/notifications", 1, recipient=APP.actor, kind="budget_threshold", about=f"budget:{lake}")
    assert told["text"] == f"Budget {lake} has 8.00 EUR of 10.00 EUR promised or spent, 80 % or more."
    assert (await aureus.get(f"/v1/agents/{mine.actor}", ADM)).json()["status"] == "active"
    assert (await aureus.get("/v1/sagas", ADM, cause_stream=f"budget:{lake}")).json()["items"] == []


async def test_viewers_read_them_and_only_stewards_decide(aureus: Aureus) -> None:
    viewer = Asker(f"usr-view-{next(NUMBERS)}", "acme", frozenset({Role.VIEWER}))
    await aureus.know(viewer)
    assert (await aureus.get("/v1/dead-letters", viewer)).status_code == (await aureus.get("/v1/sagas", viewer)).status_code == 200
    refused = await aureus.post("/v1/dead-letters/nothing/replay", {}, viewer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role_missing")
    missing = await aureus.post("/v1/dead-letters/nothing/discard", {"reason": "No"}, ADM)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "dead_letter_not_found")
