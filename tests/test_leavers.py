"""At one event: whoever leaves, or is told what to be by others at the same time, is what the ledger says in every process at once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from commands.access import ChangeOwner, OffboardActor, RegisterActor
from commands.approvals import ApproveRequest
from commands.budgets import FundBudget, OpenBudget, ReserveFunds
from commands.groups import AddMember, CreateGroup, MapRoles, NestGroup
from commands.outcome import Outcome
from commands.path import CommandPath
from domain.groups import NESTING
from domain.kernel import Asker, Command
from domain.values import ActorKind, Role
from infra.keystore import FileKeystore
from tests.support.kernel import ADM, ANA, APP, Process, ask, outcomes, policies, processes
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio

BEN: Final = Asker("usr-ben", "acme", frozenset({Role.ADMIN}))
BEN_ANALYST: Final = Asker("usr-ben", "acme", frozenset({Role.ANALYST, Role.ADMIN}))
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")


async def done(path: CommandPath, command: Command, by: Asker = ADM, **circumstances: Any) -> Outcome:
    outcome = await path.handle(ask(command, by, **circumstances))
    assert outcome.outcome == "allowed", (outcome.code, outcome.message)
    return outcome


async def refusal(path: CommandPath, command: Command, by: Asker, **circumstances: Any) -> str | None:
    return (await path.handle(ask(command, by, **circumstances))).code


async def register(path: CommandPath, *askers: Asker) -> None:
    for one in askers:
        await done(path, RegisterActor(actor_id=one.actor, kind=one.kind, granted_roles=tuple(one.roles), owner=one.owner))


@asynccontextmanager
async def two_processes(dsn: str, home: Path) -> AsyncIterator[list[Process]]:
    async with policies(home / "policies") as engine, processes(dsn, FileKeystore.open(home / "keys"), engine, 2) as opened:
        yield opened


async def test_of_two_groups_put_into_each_other_at_once_one_is(tmp_path: Path, database_url: str) -> None:
    async with two_processes(database_url, tmp_path) as (one, two):
        names = [f"grp-{ring}-{place}" for ring in "abcd" for place in range(3)]
        for name in names:
            await done(one.path, CreateGroup(group_id=name, label=name))
        asked = []
        for ring in range(4):
            first, second, third = names[3 * ring : 3 * ring + 3]
            edges = ((first, second), (second, third), (third, first))
            asked += [
                process.path.handle(ask(NestGroup(group_id=outer, nested_id=inner), ADM))
                for (outer, inner), process in zip(edges, (one, two, one) if ring % 2 else (two, one, two), strict=True)
            ]
        answered = await outcomes(*asked)
        refused = [outcome.code for outcome in answered if outcome.outcome != "allowed"]
        assert refused == ["group_ring"] * 4, "of every ring, whichever came last"
        assert len(await one.ledger.read_stream("acme", NESTING)) == 8


async def test_two_administrators_who_send_each_other_away_do_not_both_go(tmp_path: Path, database_url: str) -> None:
    async with two_processes(database_url, tmp_path) as (one, two):
        await register(one.path, ADM, BEN)
        gone, kept = await outcomes(
            one.path.handle(ask(OffboardActor(actor_id="usr-ben"), ADM)), two.path.handle(ask(OffboardActor(actor_id="usr-adm"), BEN))
        )
        assert sorted([gone.code or "", kept.code or ""]) == ["", "actor_offboarded"]


async def test_a_leaver_stops_at_that_very_event_in_every_process(tmp_path: Path, database_url: str) -> None:
    """No read model runs here: what stops whoever left is the ledger alone."""
    async with two_processes(database_url, tmp_path) as (one, two):
        await register(one.path, ADM, ANA, APP, BOT, BEN)
        budget = OpenBudget(budget_id="lake", label="Lake", currency="CHF", limit_minor=1_000)
        await done(two.path, budget)
        reserve = ReserveFunds(budget_id="lake", amount_minor=10)
        parked = await two.path.handle(ask(reserve, BEN_ANALYST))
        assert (parked.outcome, parked.approval is not None) == ("requires_approval", True)
        approval = parked.action_id
        await done(two.path, ApproveRequest(approval_id=approval), APP)
        assert await refusal(two.path, reserve, BOT) is None, "the agent may ask, and has to wait for an approval"

        await done(one.path, OffboardActor(actor_id="usr-app"))
        assert await refusal(two.path, reserve, BEN_ANALYST, approval_id=approval) == "approver_has_left"
        await done(one.path, OffboardActor(actor_id="usr-ana"))
        assert await refusal(two.path, FundBudget(budget_id="lake", amount_minor=1), ANA) == "actor_offboarded"
        assert await refusal(two.path, reserve, BOT) == "actor_offboarded", "nobody answers for it"
        await done(one.path, ChangeOwner(actor_id="agt-bot", owner="usr-ben"))
        assert await refusal(two.path, reserve, replace(BOT, owner="usr-ben")) is None


# -- over HTTP


@pytest.fixture
async def aureus(tmp_path: Path, database_url: str) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path) as one:
        yield one


async def key_of(aureus: Aureus, actor: str, by: Asker, **more: Any) -> str:
    issued = await aureus.post("/v1/api-keys", {"actor_id": actor, "label": "test", **more}, by)
    assert issued.status_code == 201, issued.text
    await aureus.services.wait_for(issued.json()["position"])
    return str(issued.json()["api_key"])


async def by_key(aureus: Aureus, key: str, path: str = "/v1/auth/me", body: Any = None) -> httpx.Response:
    headers = {"X-API-Key": key}
    return await (aureus.http.get(path, headers=headers) if body is None else aureus.http.post(path, headers=headers, json=body))


async def test_a_leavers_token_key_and_agents_end_within_a_second(aureus: Aureus) -> None:
    await aureus.know(ADM, ANA, BOT)
    of_ana, of_bot = await key_of(aureus, "usr-ana", ANA), await key_of(aureus, "agt-bot", ANA)
    for answer in (await aureus.get("/v1/auth/me", ANA), await by_key(aureus, of_ana), await by_key(aureus, of_bot)):
        assert answer.status_code == 200
    began = time.perf_counter()
    left = await aureus.post("/v1/actors/usr-ana/offboard", {}, ADM)
    assert left.json()["events"][0]["data"] == {"actor_id": "usr-ana", "revoked_keys": [of_ana.split("_")[2]]}
    waiting = {"token", "key", "agent"}
    while waiting:
        assert time.perf_counter() - began < 2, f"still let in: {waiting}"
        asked = {"token": aureus.get("/v1/auth/me", ANA), "key": by_key(aureus, of_ana), "agent": by_key(aureus, of_bot)}
        waiting = {name for name, asking in asked.items() if (await asking).status_code != 401}
        await asyncio.sleep(0.02)
    assert time.perf_counter() - began < 1.5, "trusted for a second at most, and then it is seen"
    row = (await aureus.get("/v1/actors/usr-ana", ADM)).json()
    assert (row["status"], row["roles"]) == ("offboarded", ["analyst"])
    back = await aureus.post("/v1/actors/usr-ana/reinstate", {}, ADM)
    assert (back.status_code, back.json()["error"]["code"]) == (409, "actor_offboarded")
    owned = await aureus.post("/v1/actors/agt-bot/owner", {"owner": "usr-adm"}, ADM)
    await aureus.services.wait_for(owned.json()["position"])
    assert (await by_key(aureus, of_bot)).json()["owner"] == "usr-adm"


async def test_a_group_within_a_group_lets_its_members_do_more_and_no_agent(aureus: Aureus) -> None:
    await aureus.know(ADM, ANA, BOT)
    path = aureus.services.path
    for command in (
        CreateGroup(group_id="grp-top", label="Top"),
        CreateGroup(group_id="grp-risk", label="Risk"),
        NestGroup(group_id="grp-top", nested_id="grp-risk"),
        MapRoles(group_id="grp-top", mapped_roles=(Role.APPROVER, Role.AUDITOR)),
        AddMember(group_id="grp-risk", actor_id="usr-ana"),
    ):
        await done(path, command)
    last = await done(path, AddMember(group_id="grp-risk", actor_id="agt-bot"))
    await aureus.services.wait_for(last.position)
    assert (await aureus.get("/v1/auth/me", ANA)).json()["roles"] == ["analyst", "approver", "auditor"]
    assert (await by_key(aureus, await key_of(aureus, "agt-bot", ANA))).json()["roles"] == ["agent"]
    members = await aureus.get("/v1/memberships", ADM, groups="grp-risk")
    assert [row["actor_id"] for row in members.json()["items"]] == ["agt-bot", "usr-ana"]
    top = (await aureus.get("/v1/groups/grp-top", ADM)).json()
    assert (top["roles"], top["inside"], top["members"]) == (["approver", "auditor"], ["grp-risk"], 0)


async def test_a_key_is_good_for_its_scopes_and_its_rotation_for_the_same(aureus: Aureus) -> None:
    await aureus.know(ADM, ANA)
    opening = {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 5}
    writes = await key_of(aureus, "usr-adm", ADM, scopes=["budgets.open_budget"])
    reads = await key_of(aureus, "usr-adm", ADM, scopes=["read"])

    def refused(answer: httpx.Response, scopes: list[str]) -> None:
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (403, "scope_missing"), answer.text
        assert (error["details"]["field"], error["details"]["scopes"]) == ("scopes", scopes)
        assert {"rule", "remedy"} <= error["details"].keys()

    assert (await by_key(aureus, writes, "/v1/budgets", opening)).status_code == 201
    refused(await by_key(aureus, writes, "/v1/budgets/lake/fund", {"amount_minor": 1}), ["budgets.open_budget"])
    refused(await by_key(aureus, writes, "/v1/budgets"), ["budgets.open_budget"])
    refused(await by_key(aureus, writes, "/v1/budgets/lake"), ["budgets.open_budget"])
    refused(await by_key(aureus, writes, "/v1/api-keys", {"actor_id": "usr-adm", "label": "more"}), ["budgets.open_budget"])
    refused(await by_key(aureus, reads, "/v1/budgets", {**opening, "budget_id": "sea"}), ["read"])
    assert (await by_key(aureus, reads, "/v1/budgets")).status_code == 200
    assert (await by_key(aureus, writes)).json()["actor"] == "usr-adm", "whom it stands for, every key may ask"

    key_id = reads.split("_")[2]
    rotated = await aureus.post(f"/v1/api-keys/{key_id}/rotate", {"actor_id": "usr-adm", "overlap_hours": 0}, ADM)
    await aureus.services.wait_for(rotated.json()["position"])
    aureus.services.authenticator.forget()
    assert (rotated.status_code, rotated.json()["scopes"]) == (201, ["read"])
    assert (await by_key(aureus, reads)).status_code == 401, "without an overlap it ends at once"
    assert (await by_key(aureus, rotated.json()["api_key"], "/v1/budgets")).status_code == 200
    use = (await aureus.get(f"/v1/api-keys/{rotated.json()['key_id']}/use", ADM)).json()
    assert use["last_used_at"] is not None
    unknown = await aureus.post("/v1/api-keys", {"actor_id": "usr-adm", "label": "x", "scopes": ["bugdets"]}, ADM)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "scope_unknown")
    assert (await aureus.get(f"/v1/api-keys/{key_id}/use", ANA)).status_code == 404, "another person's keys are not seen"


async def test_what_is_carried_out_later_is_in_the_roles_that_groups_give_and_for_nobody_who_left(aureus: Aureus) -> None:
    """What waits for an approval is asked again on behalf of whoever wanted it, as they may act by then."""
    cem = Asker("usr-cem", "acme", frozenset({Role.VIEWER}))
    await aureus.know(ADM, APP, cem)
    path = aureus.services.path
    await done(path, OpenBudget(budget_id="lake", label="Lake", currency="CHF", limit_minor=1_000))
    for command in (CreateGroup(group_id="grp-a", label="A"), MapRoles(group_id="grp-a", mapped_roles=(Role.ANALYST,))):
        await done(path, command)
    joined = await done(path, AddMember(group_id="grp-a", actor_id="usr-cem"))
    await aureus.services.wait_for(joined.position)

    async def carried_out(status: str) -> dict[str, Any]:
        reserve = {"amount_minor": 10}
        parked = await aureus.post("/v1/budgets/lake/reserve", reserve, cem, Aureus_When_Approved="carry-out")
        assert parked.status_code == 202, parked.text
        if status == "voided":
            await done(path, OffboardActor(actor_id="usr-cem"))
        await done(path, ApproveRequest(approval_id=parked.json()["approval_id"]), APP)
        row: dict[str, Any] = {}
        for _ in range(500):
            row = (await aureus.get(f"/v1/approvals/{parked.json()['approval_id']}", ADM)).json()
            if row.get("status") == status:
                return row
            await asyncio.sleep(0.02)
        raise AssertionError(f"it is not {status}: {row}")

    await carried_out("used")
    assert "requester_cannot_act" in str(await carried_out("voided"))
