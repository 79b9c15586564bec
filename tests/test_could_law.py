"""The law of "who could see this then": at the position of every ask that was made, it says what became of that ask."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from commands.access import ChangeRoles, ReinstateActor, SuspendActor
from commands.agents import Delegate, RegisterAgent, ResumeAgent, RevokeDelegation, StopAgent
from commands.catalog import (
    AgreeFreshness,
    DeprecateDataset,
    DescribeDataset,
    RecordContract,
    RecordLineage,
    RecordRefresh,
    ReinstateDataset,
)
from domain.catalog import Jurisdiction, PiiLevel, Upstream
from domain.kernel import Asker
from domain.policies import Rule, Scope
from domain.values import Role
from tests.given import AT
from tests.support.kernel import ADM, ANA, APP, BEN
from tests.support.then import AUD, BOT, HELPER, Then, then

pytestmark = pytest.mark.anyio

AD2: Final = Asker("usr-ad2", "acme", frozenset({Role.ADMIN}))
AGENTS: Final = (BOT, HELPER)
DATASETS: Final = ("orders", "clicks", "people")
SCOPES: Final = (
    Scope(actions=("agents.request_action",), pii_levels=("low",)),
    Scope(actions=("agents.request_action",), jurisdictions=("UK",)),
    Scope(actions=("catalog.record_usage",), pii_levels=("high",)),
    Scope(actor_kinds=("agent",), jurisdictions=("EU",)),
)
RULES: Final = (
    Rule(outcome="block", reason="Not now."),
    Rule(outcome="require_approval", reason="Four eyes.", approver_roles=(Role.APPROVER,)),
)


@dataclass(frozen=True)
class Asked:
    """An ask that was made, how it ended, and the position before everything it wrote."""

    actor_id: str
    dataset_id: str
    before: int
    outcome: str
    code: str | None
    said: list[Any]
    approval_id: str | None = None


@dataclass
class World:
    """A bank in which anything may change between two asks."""

    bank: Then
    chance: random.Random
    asked: list[Asked] = field(default_factory=list)
    parked: list[tuple[Asker, dict[str, Any], str]] = field(default_factory=list)
    """Calls that wait: who made them, how, and the approval they wait for."""
    stopped: set[str] = field(default_factory=set)
    suspended: bool = False
    rules: int = 0

    async def call(self, by: Asker, body: dict[str, Any], approval_id: str | None = None) -> None:
        """A tool call over REST, and what became of it."""
        headers = {} if approval_id is None else {"aureus_approval": approval_id}
        answer = await self.bank.post(f"/v1/agents/{by.actor}/actions", body, by, **headers)
        self.keep(by.actor, body["datasets"][0], answer.json(), 3 if approval_id else 2, approval_id)
        if answer.status_code == 202:
            self.parked.append((by, body, answer.json()["approval_id"]))

    def keep(self, actor_id: str, dataset_id: str, body: Any, writes: int, approval_id: str | None = None) -> None:
        error = body.get("error")
        if error is None:
            before = body["position"] - writes
            self.asked.append(Asked(actor_id, dataset_id, before, body["outcome"], None, body["policy_results"], approval_id))
        elif "position" in error["details"]:
            before = error["details"]["position"] - 1
            self.asked.append(Asked(actor_id, dataset_id, before, "blocked", error["code"], [], approval_id))
        else:
            assert error["code"] == "unauthenticated", error
            self.asked.append(Asked(actor_id, dataset_id, self.bank.services.ledger.head.size, "blocked", "actor_suspended", []))

    # What may happen

    async def an_agent_asks(self) -> None:
        body = {"request_id": f"r{len(self.asked)}", "tool": "read", "datasets": [self.chance.choice(DATASETS)], "purpose": "Report"}
        await self.call(self.chance.choice(AGENTS), body)

    async def it_asks_again_with_an_approval(self) -> None:
        if self.parked:
            await self.call(*self.parked.pop(self.chance.randrange(len(self.parked))))

    async def an_approver_agrees(self) -> None:
        if self.parked:
            answer = await self.bank.post(f"/v1/approvals/{self.chance.choice(self.parked)[2]}/approve", {}, self.chance.choice((APP, ADM)))
            assert answer.status_code in (200, 403, 409), answer.text

    async def a_person_reads(self) -> None:
        dataset_id = self.chance.choice(DATASETS)
        answer = await self.bank.post(f"/v1/datasets/{dataset_id}/usage", {"used_by": BEN.actor}, BEN)
        self.keep(BEN.actor, dataset_id, answer.json(), 2)

    async def a_dataset_is_classified_anew(self) -> None:
        """In steps: to move personal data from one jurisdiction to another would take two approvers."""
        level, under = self.chance.choice(list(PiiLevel)), self.chance.choice((Jurisdiction.EU, Jurisdiction.UK, Jurisdiction.US))
        await self.on_dataset(
            lambda one: DescribeDataset(dataset_id=one, pii_level=PiiLevel.NONE),
            lambda one: DescribeDataset(dataset_id=one, jurisdiction=under),
            lambda one: DescribeDataset(dataset_id=one, pii_level=level),
        )

    async def a_dataset_changes_otherwise(self) -> None:
        upstream = Upstream(dataset_id=f"raw{self.chance.randrange(9)}")
        changes: list[Callable[[str], Any]] = [
            lambda one: DeprecateDataset(dataset_id=one, reason="Old"),
            lambda one: RecordContract(dataset_id=one, contract={"status": self.chance.choice(["active", "deprecated"])}),
            lambda one: AgreeFreshness(dataset_id=one, freshness_sla="PT1H"),
            lambda one: RecordRefresh(dataset_id=one, refreshed_at=AT),
            lambda one: RecordLineage(dataset_id=one, upstream=upstream),
        ]
        await self.on_dataset(self.chance.choice(changes))

    async def on_dataset(self, *changes: Callable[[str], Any]) -> None:
        dataset_id = self.chance.choice(DATASETS)
        for change in (lambda one: ReinstateDataset(dataset_id=one), *changes):
            await self.bank.done(change(dataset_id), ADM)

    async def roles_change(self) -> None:
        await self.bank.done(ChangeRoles(actor_id=BEN.actor, granted_roles=(self.chance.choice([Role.ANALYST, Role.VIEWER]),)))

    async def somebody_is_suspended_or_reinstated(self) -> None:
        command = ReinstateActor(actor_id=BEN.actor) if self.suspended else SuspendActor(actor_id=BEN.actor)
        position = await self.bank.done(command)
        self.suspended = not self.suspended
        await self.bank.services.wait_for(position)
        self.bank.services.authenticator.forget()

    async def an_agent_is_stopped_or_resumed(self) -> None:
        agent_id = self.chance.choice(AGENTS).actor
        if agent_id in self.stopped:
            await self.bank.done(ResumeAgent(agent_id=agent_id, reason="Mended"), AD2)
        else:
            await self.bank.done(StopAgent(agent_id=agent_id, reason="Wild"))
        self.stopped ^= {agent_id}

    async def a_delegation_is_given_and_taken(self) -> None:
        given = {"agent_id": HELPER.actor, "delegated_by": BOT.actor}
        (row,) = (await self.bank.get("/v1/agents", ADM, q=HELPER.actor, at_least=self.bank.services.ledger.head.size)).json()["items"]
        await self.bank.done(RevokeDelegation(**given) if row["delegated_by"] else Delegate(**given), AD2)

    async def the_policies_change(self) -> None:
        self.rules += 1
        policy_id = f"rule{self.rules}"
        version = await self.bank.put_in_force(policy_id, self.chance.choice(SCOPES), rule=self.chance.choice(RULES))
        for _ in range(3):
            await self.an_agent_asks()
        await self.a_person_reads()
        await self.bank.roll_policies_back(policy_id, version)


def happenings(world: World) -> list[Callable[[], Awaitable[None]]]:
    asks = [world.an_agent_asks] * 5 + [world.an_approver_agrees] * 4 + [world.it_asks_again_with_an_approval] * 3 + [world.a_person_reads]
    changes = [world.a_dataset_is_classified_anew] * 3 + [world.a_dataset_changes_otherwise] * 2 + [world.a_delegation_is_given_and_taken]
    rare = [world.an_agent_is_stopped_or_resumed, world.somebody_is_suspended_or_reinstated, world.roles_change, world.the_policies_change]
    return [*asks, *changes, *rare]


async def lived(bank: Then, seed: int, steps: int) -> World:
    await bank.know(ADM, AD2, ANA, APP, AUD, BEN, *AGENTS)
    for agent in AGENTS:
        await bank.done(RegisterAgent(agent_id=agent.actor, label="A", purpose="P", model="m", owner=ANA.actor))
    for dataset_id in DATASETS:
        body = {"dataset_id": dataset_id, "name": dataset_id, "domain": "sales", "pii_level": "none", "jurisdiction": "EU"}
        assert (await bank.post("/v1/datasets", body, ANA)).status_code == 201
    world = World(bank, random.Random(seed))
    for _ in range(steps):
        await world.chance.choice(happenings(world))()
    await bank.services.wait_for(bank.services.ledger.head.size)
    return world


def require_same(asked: Asked, told: Any) -> None:
    """What could have been done then is what became of it."""
    if asked.approval_id is not None:
        found = {one["approval_id"]: one for one in told["approvals"]}.get(asked.approval_id)
        if asked.outcome == "allowed":
            # The policies may have asked for nothing any more: then the approval was not used.
            assert told["verdict"] == "allowed" or (told["verdict"] == "approved" and found is not None and found["covers"])
        elif told["verdict"] == "needs_approval" and found is not None:
            assert (asked.outcome, found["covers"]) == ("blocked", False)
        else:
            assert told["verdict"] in ("blocked", "approved", "needs_approval")
            assert not (found and found["covers"])
        return
    expected = {"allowed": {"allowed"}, "requires_approval": {"needs_approval", "approved"}, "blocked": {"blocked"}}
    assert told["verdict"] in expected[asked.outcome]
    assert told["code"] == asked.code
    if asked.outcome != "blocked":
        assert [{name: said[name] for name in ("policy", "outcome", "reason")} for said in told["policies"]] == asked.said


async def hold_the_law(dsn: str, home: Path, seed: int, steps: int) -> None:
    async with then(dsn, home) as bank:
        world = await lived(bank, seed, steps)
        outcomes = {asked.outcome for asked in world.asked}
        assert outcomes == {"allowed", "requires_approval", "blocked"}, f"seed {seed} tells too little: {outcomes}"
        for index, asked in enumerate(world.asked):
            if index % 2:
                (told,) = (await bank.could(f"could/{asked.actor_id}", dataset=asked.dataset_id, as_of=asked.before))["items"]
            else:
                seen = (await bank.could(f"could-see/{asked.dataset_id}", as_of=asked.before))["items"]
                told = next(item for item in seen if item["actor_id"] == asked.actor_id)
            require_same(asked, told)


@pytest.mark.slow
async def test_what_could_be_done_is_what_became_of_it(database_url: str, tmp_path: Path) -> None:
    await hold_the_law(database_url, tmp_path, 6, 30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
async def test_so_it_is_through_long_histories(database_url: str, tmp_path: Path, seed: int) -> None:
    await hold_the_law(database_url, tmp_path, seed, 100)


async def test_a_verdict_that_is_wrong_is_found() -> None:
    """The comparison itself can fail."""
    asked = Asked("agt-bot", "orders", 1, "allowed", None, [])
    told: dict[str, Any] = {"verdict": "allowed", "code": None, "policies": [], "approvals": []}
    require_same(asked, told)
    for wrong in (replace(asked, outcome="blocked"), replace(asked, said=[{"policy": "p"}]), replace(asked, outcome="requires_approval")):
        with pytest.raises(AssertionError):
            require_same(wrong, told)
