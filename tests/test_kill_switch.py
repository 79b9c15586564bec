"""The kill switch: one event stops an agent and all who act for it, at one position, and the ledger itself shows that it did."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import uvloop

from api.audit import Aftermath
from commands.agents import Delegate, RegisterAgent, ResumeAgent, RevokeDelegation, StopAgent
from commands.approvals import ApproveRequest
from commands.budgets import OpenBudget, ReserveFunds
from commands.outcome import Outcome
from commands.path import Ask, CommandPath
from commands.sight import Onlooker
from domain.actions import ActionAllowed, ActionBlocked, ActionParked, Intent
from domain.agents import AgentDelegated, AgentResumed, AgentStopped, DelegationRevoked
from domain.approvals import ApprovalVoided
from domain.budgets import FundsReleased
from domain.kernel import Asker, Event, Recorded
from domain.ledger import Append, Conflict, StreamWrite
from domain.values import ActorKind, Role, uuid7
from infra.keystore import FileKeystore
from projections.agents import PROJECTION
from streams.agents import REACTIONS
from tests.given import AT
from tests.support.kernel import ADM, APP, Process, ask, everything, outcomes, policies, processes, unequal
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

AD2: Final = Asker("usr-ad2", "acme", frozenset({Role.ADMIN}))
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
BUDGETS: Final = ("lake", "sea", "pond", "alp")
"""A reservation on the last of them is parked: it is in CHF."""
IN_FLIGHT: Final = 200


def agent(agent_id: str) -> Asker:
    return Asker(agent_id, "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")


async def allowed(path: CommandPath, command: Any, by: Asker = ADM, **circumstances: Any) -> Outcome:
    outcome = await path.handle(ask(command, by, **circumstances))
    assert outcome.outcome == "allowed", (outcome.code, outcome.message)
    return outcome


async def open_budgets(path: CommandPath) -> None:
    for budget_id in BUDGETS:
        currency = "CHF" if budget_id == "alp" else "EUR"
        await allowed(path, OpenBudget(budget_id=budget_id, label="B", currency=currency, limit_minor=1_000_000, thresholds_percent=()))


async def family(path: CommandPath, name: str) -> list[Asker]:
    """An agent, one who acts for it, one who acts for that one; and a fourth who has nothing to do with them."""
    ids = [f"agt-{name}-{role}" for role in ("boss", "helper", "hand", "other")]
    for agent_id in ids:
        await allowed(path, RegisterAgent(agent_id=agent_id, label="A", purpose="P", model="m", owner="usr-ana"))
    await allowed(path, Delegate(agent_id=ids[1], delegated_by=ids[0]))
    await allowed(path, Delegate(agent_id=ids[2], delegated_by=ids[1]))
    return [agent(agent_id) for agent_id in ids]


# -- what the proof makes of a history


def history(*told: tuple[str, Event], after: int = 0) -> list[Recorded[Any]]:
    """Events that somebody recorded, one position after another."""
    return [
        Recorded(position, "acme", f"x:{position}", 1, uuid4(), AT, actor, uuid4(), None, event)
        for position, (actor, event) in enumerate(told, after + 1)
    ]


INTENT: Final = Intent(
    command="budgets.reserve_funds",
    digest="0" * 64,
    stream="budget:lake",
    seen_version=1,
    roles=(Role.AGENT,),
    kind=ActorKind.AGENT,
    inputs={},
)
DONE: Final = ActionAllowed(intent=INTENT, policy_version="p1", outputs=())
REFUSED: Final = ActionBlocked(intent=INTENT, policy_version="p1", code="agent_stopped", message="Stopped.")
PARKED: Final = ActionParked(intent=INTENT, policy_version="p1", approval_id="a1", approver_roles=(Role.APPROVER,))
STOP: Final = AgentStopped(agent_id="agt-a", reason="Runs wild", stopped_by="usr-adm")


def acts_for(agent_id: str, delegated_by: str) -> tuple[str, Event]:
    return "usr-adm", AgentDelegated(agent_id=agent_id, delegated_by=delegated_by)


def freed(agent_id: str, delegated_by: str) -> tuple[str, Event]:
    return "usr-adm", DelegationRevoked(agent_id=agent_id, delegated_by=delegated_by)


CHAIN: Final = (acts_for("agt-b", "agt-a"), acts_for("agt-c", "agt-b"), acts_for("agt-x", "agt-y"))


def aftermath(before: Sequence[tuple[str, Event]], *after: tuple[str, Event]) -> Aftermath:
    earlier = history(*before)
    (stop,) = history(("usr-adm", STOP), after=len(earlier))
    found = Aftermath(stop, earlier)
    for recorded in history(*after, after=stop.position):
        found.see(recorded)
    return found


def test_a_stop_that_held_has_refusals_after_it_and_nothing_else() -> None:
    found = aftermath(CHAIN, ("agt-a", REFUSED), ("agt-c", REFUSED), ("agt-x", DONE), ("usr-ana", DONE))
    assert found.everybody == ["agt-a", "agt-b", "agt-c"]
    assert (found.allowed, found.blocked, found.acted) == (0, 2, [])


@pytest.mark.parametrize("actor", ["agt-a", "agt-b", "agt-c"])
@pytest.mark.parametrize("event", [DONE, PARKED, AgentDelegated(agent_id="agt-z", delegated_by="agt-a")])
def test_whatever_a_stopped_agent_or_its_delegate_did_contradicts_the_stop(actor: str, event: Event) -> None:
    found = aftermath(CHAIN, ("usr-ana", DONE), (actor, event))
    assert [recorded.actor for recorded in found.acted] == [actor]
    assert found.allowed == isinstance(event, ActionAllowed)


def test_who_becomes_a_delegate_after_the_stop_is_stopped_from_then_on() -> None:
    found = aftermath(CHAIN, ("agt-x", DONE), acts_for("agt-x", "agt-c"), ("agt-x", DONE))
    assert [recorded.position for recorded in found.acted] == [7]
    assert "agt-x" not in found.everybody
    assert [recorded.event.event_name for recorded in found.delegations] == ["agents.agent_delegated"]


def test_who_was_set_free_by_name_may_act_and_the_proof_tells_of_it() -> None:
    found = aftermath(CHAIN, ("agt-c", REFUSED), freed("agt-b", "agt-a"), ("agt-c", DONE), ("agt-a", REFUSED))
    assert (found.acted, found.blocked) == ([], 2)
    assert [recorded.event.event_name for recorded in found.delegations] == ["agents.delegation_revoked"]


def test_a_stop_ends_where_the_agent_is_resumed() -> None:
    found = aftermath(CHAIN, ("usr-ad2", AgentResumed(agent_id="agt-a", reason="Mended")), ("agt-a", DONE))
    assert found.acted == []
    assert found.resumed is not None
    assert found.resumed.position == 5


def test_another_tenants_agent_of_the_same_name_is_another_agent() -> None:
    (stop,) = history(("usr-adm", STOP))
    found = Aftermath(stop, [])
    for recorded in history(("agt-a", DONE), after=1):
        found.see(replace(recorded, tenant="globex"))
    assert found.acted == []


# -- two processes race against the stop


async def storm(both: Sequence[Process], agents: Sequence[Asker], chance: random.Random) -> list[Any]:
    """Commands of all agents, all in flight at once over both processes, while a third party stops the first of them."""

    async def one(number: int) -> Outcome:
        await asyncio.sleep(chance.uniform(0.0, 0.15))
        command = ReserveFunds(budget_id=BUDGETS[number // len(agents) % len(BUDGETS)], amount_minor=1)
        return await both[number % 2].path.handle(ask(command, agents[number % len(agents)]))

    async def stop() -> Outcome:
        await asyncio.sleep(chance.uniform(0.02, 0.12))
        return await allowed(both[chance.randrange(2)].path, StopAgent(agent_id=agents[0].actor, reason="Runs wild"), AD2)

    return await outcomes(stop(), *(one(number) for number in range(IN_FLIGHT)))


def the_stop(events: Iterable[Recorded[Any]], agent_id: str) -> Recorded[AgentStopped]:
    (stop,) = [recorded for recorded in events if isinstance(recorded.event, AgentStopped) and recorded.event.agent_id == agent_id]
    return stop


def scanned(events: Sequence[Recorded[Any]], agent_id: str) -> Aftermath:
    found = Aftermath(the_stop(events, agent_id), events)
    for recorded in events:
        found.see(recorded)
    return found


async def test_nothing_of_a_stopped_agent_or_its_delegates_is_allowed_whatever_is_in_flight(database_url: str, tmp_path: Path) -> None:
    keystore = FileKeystore.open(tmp_path / "keys")
    chance = random.Random(20260303)
    before = after = others_after = 0
    async with policies(tmp_path / "policies") as engine, processes(database_url, keystore, engine, 2) as both:
        await open_budgets(both[0].path)
        for turn in range(5):
            agents = await family(both[turn % 2].path, f"r{turn}")
            stopped, *answers = await storm(both, agents, chance)
            assert isinstance(stopped, Outcome), "a stop does not lose to the storm"
            # One that lost too many races says so; nothing of it was written.
            assert [answer for answer in answers if isinstance(answer, BaseException) and not isinstance(answer, Conflict)] == []
            events = await everything(both[0].ledger)
            found = scanned(events, agents[0].actor)
            assert set(found.everybody) == {one.actor for one in agents[:3]}
            assert found.acted == [], "something was allowed or parked after the stop"
            stop = the_stop(events, agents[0].actor)
            mine = [recorded for recorded in events if recorded.actor in found.everybody and isinstance(recorded.event, ActionAllowed)]
            assert len(mine) + found.blocked > IN_FLIGHT // 2
            before += len(mine)
            after += found.blocked
            others_after += sum(
                isinstance(one.event, ActionAllowed) and one.actor == agents[3].actor and one.position > stop.position for one in events
            )
    assert before, "the stop came before all of them: that is no race"
    assert after, "the stop came after all of them: that is no race"
    assert others_after, "who has nothing to do with it goes on"


async def test_without_the_check_the_scan_finds_what_went_through(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above checks: with the command path's look at the agents taken out, it finds what should not be there."""

    async def careless(*_: Any) -> None:
        return None

    monkeypatch.setattr(Onlooker, "_stopped", careless)
    async with (
        policies(tmp_path / "policies") as engine,
        processes(database_url, FileKeystore.open(tmp_path / "keys"), engine, 2) as both,
    ):
        await open_budgets(both[0].path)
        agents = await family(both[0].path, "c")
        await storm(both, agents, random.Random(1))
        assert scanned(await everything(both[0].ledger), agents[0].actor).acted


async def test_a_delegation_given_while_its_agent_is_stopped_binds_at_once(database_url: str, tmp_path: Path) -> None:
    async with (
        policies(tmp_path / "policies") as engine,
        processes(database_url, FileKeystore.open(tmp_path / "keys"), engine, 2) as (here, there),
    ):
        await open_budgets(here.path)
        boss, helper, hand, other = await family(here.path, "d")
        reserve = ReserveFunds(budget_id="lake", amount_minor=1)
        await allowed(there.path, reserve, other)
        await allowed(here.path, StopAgent(agent_id=boss.actor, reason="Runs wild"), AD2)
        await allowed(here.path, Delegate(agent_id=other.actor, delegated_by=hand.actor))
        for one in (boss, helper, hand, other):
            refused = await there.path.handle(ask(reserve, one))
            assert (refused.code, refused.facts["agent"]) == ("agent_stopped", boss.actor)
        freeing = RevokeDelegation(agent_id=helper.actor, delegated_by=boss.actor)
        assert (await there.path.handle(ask(freeing, boss))).code == "agent_stopped", "a stopped agent sets nobody free"
        assert (await there.path.handle(ask(freeing, AD2))).code == "resumed_by_stopper"
        await allowed(there.path, freeing, ADM)
        await allowed(here.path, reserve, other)
        assert (await here.path.handle(ask(reserve, boss))).code == "agent_stopped"
        assert (await here.path.handle(ask(ResumeAgent(agent_id=boss.actor, reason="Mended"), AD2))).code == "resumed_by_stopper"
        await allowed(there.path, ResumeAgent(agent_id=boss.actor, reason="Mended"), ADM)
        await allowed(here.path, reserve, boss)
        assert scanned(await everything(here.ledger), boss.actor).acted == []


# -- what they hold and wait for


async def proof(aureus: Aureus, agent_id: str, **parameters: Any) -> dict[str, Any]:
    answer = await aureus.get(f"/v1/audit/stopped/{agent_id}", AUD, **parameters)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def proved(aureus: Aureus, agent_id: str) -> dict[str, Any]:
    """The proof, once the reactions have cleared up behind the stop."""
    told: dict[str, Any] = {}
    for _ in range(400):
        told = await proof(aureus, agent_id)
        if told["proved"]:
            break
        await asyncio.sleep(0.05)
    assert told["contradictions"] == []
    return told


async def prepared(path: CommandPath, each: int) -> tuple[list[Asker], list[str]]:
    """Agents that hold so many reservations between them, and the ids of as many approvals they wait for; every other one is given."""
    await open_budgets(path)
    agents = await family(path, "k")
    waiting = []
    for number in range(each):
        await allowed(path, ReserveFunds(budget_id="lake", amount_minor=1), agents[number % 3])
        parked = await path.handle(ask(ReserveFunds(budget_id="alp", amount_minor=1), agents[number % 3]))
        assert parked.approval is not None
        waiting.append(parked.approval["approval_id"])
        if number % 2:
            await allowed(path, ApproveRequest(approval_id=waiting[-1]), APP)
    return agents, waiting


async def test_stopping_an_agent_gives_back_what_it_holds_and_voids_what_it_waits_for(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(AUD)
        path = aureus.services.path
        agents, waiting = await prepared(path, 4)
        boss, helper, hand, other = agents
        await allowed(path, ReserveFunds(budget_id="lake", amount_minor=1), other)
        await allowed(path, StopAgent(agent_id=boss.actor, reason="Runs wild"), AUD)
        again = await allowed(path, StopAgent(agent_id=boss.actor, reason="Once more"), APP)
        refused = await path.handle(ask(ReserveFunds(budget_id="alp", amount_minor=1), helper, approval_id=waiting[1]))
        assert (again.events, refused.code) == ((), "agent_stopped")

        told = await proved(aureus, boss.actor)
        events = await everything(aureus.services.ledger)
        stop = the_stop(events, boss.actor)
        row = (await aureus.get(f"/v1/agents/{boss.actor}", AUD)).json()
        for said in (told["stop"], row["stop"]):
            assert (said["position"], said["event_id"], said["leaf"]) == (stop.position, str(stop.id), stop.leaf.hex())
        assert (told["stop"]["by"], row["status"], told["delegates"]) == (AUD.actor, "stopped", sorted([helper.actor, hand.actor]))
        assert (told["actions_before"], told["blocked_after"], told["allowed_after"]) == (8, 1, 0)
        assert (told["reservations_held"], told["approvals_live"], told["contradictions"]) == (0, 0, [])
        assert told["checkpoint"].splitlines()[1] == str(told["checkpoint_size"])
        assert {one.event.approval_id for one in events if isinstance(one.event, ApprovalVoided)} == set(waiting)
        held = (await aureus.get("/v1/reservations", AUD, status="reserved")).json()["items"]
        assert [one["reserved_by"] for one in held] == [other.actor], "what others hold stays theirs"


async def test_what_was_voided_stays_void_when_the_agent_is_resumed(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(AUD)
        path = aureus.services.path
        agents, waiting = await prepared(path, 2)
        await allowed(path, StopAgent(agent_id=agents[0].actor, reason="Runs wild"), AUD)
        await proved(aureus, agents[0].actor)
        await allowed(path, ResumeAgent(agent_id=agents[0].actor, reason="Mended"), ADM)
        late = await path.handle(ask(ReserveFunds(budget_id="alp", amount_minor=1), agents[1], approval_id=waiting[1]))
        assert late.code == "approval_voided"
        kept = await allowed(path, ReserveFunds(budget_id="lake", amount_minor=1), agents[0])
        told = await proof(aureus, agents[0].actor)
        assert (told["proved"], told["resumed"]["by"], told["until"]) == (True, ADM.actor, told["resumed"]["position"])
        assert told["until"] < kept.position
        assert await unequal(database_url, [PROJECTION]) == [], "what is read of agents is what the ledger says of them"


async def test_the_proof_says_what_is_still_held(database_url: str, tmp_path: Path) -> None:
    """As of the stop itself nothing has been cleared yet: the proof is not given, and names what is in its way."""
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(AUD)
        agents, waiting = await prepared(aureus.services.path, 2)
        stopped = await allowed(aureus.services.path, StopAgent(agent_id=agents[0].actor, reason="Runs wild"), AUD)
        told = await proof(aureus, agents[0].actor, as_of=stopped.position)
        assert (told["proved"], told["reservations_held"], told["approvals_live"]) == (False, 2, 2)
        assert {one["id"] for one in told["contradictions"] if one["what"] == "approval_live"} == set(waiting)
        early = await aureus.get(f"/v1/audit/stopped/{agents[0].actor}", AUD, as_of=stopped.events[0]["position"] - 1)
        assert (early.status_code, early.json()["error"]["code"]) == (404, "stop_not_found")
        never = await aureus.get(f"/v1/audit/stopped/{agents[1].actor}", AUD)
        assert (never.status_code, never.json()["error"]["code"]) == (404, "stop_not_found")


async def test_the_proof_fails_when_something_was_written_past_the_command_path(database_url: str, tmp_path: Path) -> None:
    """Whoever holds the keys can sign an action into the ledger without asking the command path: the proof sees it."""
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(AUD)
        agents, _ = await prepared(aureus.services.path, 1)
        await allowed(aureus.services.path, StopAgent(agent_id=agents[0].actor, reason="Runs wild"), AUD)
        await proved(aureus, agents[0].actor)
        forged = Append("acme", agents[2].actor, (StreamWrite(f"action:{uuid7()}", 0, (DONE,)),), uuid7())
        receipt = await aureus.services.ledger.append(forged)
        told = await proof(aureus, agents[0].actor)
        assert (told["proved"], told["allowed_after"]) == (False, 1)
        found = [(one["what"], one["position"], one["by"]) for one in told["contradictions"]]
        assert found == [("acted_after_stop", receipt.first_position, agents[2].actor)]


# -- the power goes in the middle of it


def killed_while_clearing(dsn: str, home: Path, after_commands: int) -> None:
    """A server of its own that clears up behind the stop, and ends by SIGKILL after so many commands of that."""
    pid = os.fork()
    if pid != 0:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        return
    handle, asked = CommandPath.handle, count(1)

    async def handle_until(self: CommandPath, ask: Ask) -> Outcome:
        outcome = await handle(self, ask)
        if str(ask.idempotency_key).startswith(REACTIONS[0].name) and next(asked) == after_commands:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    async def serve() -> None:
        async with running(dsn, home):
            await asyncio.sleep(60)

    CommandPath.handle = handle_until  # type: ignore[method-assign]
    try:
        uvloop.run(serve())
    finally:
        os._exit(1)


def test_clearing_up_goes_on_where_a_kill_cut_it_off(database_url: str, tmp_path: Path) -> None:
    each = 6

    async def stop() -> str:
        async with running(database_url, tmp_path, reacting=False) as aureus:
            agents, _ = await prepared(aureus.services.path, each)
            await allowed(aureus.services.path, StopAgent(agent_id=agents[0].actor, reason="Runs wild"), AUD)
            return agents[0].actor

    async def cleared() -> list[int]:
        async with running(database_url, tmp_path) as aureus:
            await aureus.know(AUD)
            await proved(aureus, agent_id)
            events = await everything(aureus.services.ledger)
            return [sum(isinstance(one.event, kind) for one in events) for kind in (ApprovalVoided, FundsReleased)]

    agent_id = uvloop.run(stop())
    for after_commands in (3, 2, 4):
        killed_while_clearing(database_url, tmp_path, after_commands)
    assert uvloop.run(cleared()) == [each, each], "each is voided and released once, whoever was killed how often"
