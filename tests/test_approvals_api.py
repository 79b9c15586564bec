"""Approvals over HTTP: what an approver sees before deciding, who decides for whom, and what time does to what waits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.kernel import Asker
from domain.values import ActorKind, Role
from streams.approvals import come_due
from streams.reactions import asker
from streams.reactor import Rows
from tests.support.kernel import ADM, ANA, APP, BEN, ask
from tests.support.running import Aureus, running
from tests.test_approvals_path import HELD

pytestmark = pytest.mark.anyio
BOT = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=ANA.actor)


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path / "home", HELD) as opened:
        await opened.know(ADM, ANA, BEN, APP, BOT)
        yield opened


async def sent(aureus: Aureus, path: str, body: dict[str, Any], by: Asker, **headers: str) -> dict[str, Any]:
    """The answer to a command, once the read models have seen it."""
    answer = await aureus.post(path, body, by, **headers)
    assert answer.is_success, answer.text
    told: dict[str, Any] = answer.json()
    await aureus.services.wait_for(told["position"])
    return told


async def read(aureus: Aureus, path: str, by: Asker = APP, **parameters: Any) -> dict[str, Any]:
    answer = await aureus.get(path, by, **parameters)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["code"])


async def people_parked(aureus: Aureus, by: Asker = ANA) -> str:
    """A classification as highly personal that waits for somebody: of a dataset which others are made from."""
    profile = {"domain": "crm", "pii_level": "none", "jurisdiction": "EU"}
    for dataset_id, upstreams in (("people", []), ("leads", ["people"]), ("board", ["leads"])):
        known = [{"dataset_id": upstream} for upstream in upstreams]
        await sent(aureus, "/v1/datasets", {"dataset_id": dataset_id, "name": dataset_id, "upstreams": known, **profile}, ADM)
    told = await sent(aureus, "/v1/datasets/people/describe", {"pii_level": "high"}, by)
    assert told["outcome"] == "requires_approval"
    return str(told["approval_id"])


async def test_an_approver_sees_the_request_its_evidence_and_its_blast_radius(aureus: Aureus) -> None:
    approval_id = await people_parked(aureus)
    before = (await read(aureus, f"/v1/approvals/{approval_id}/dossier"))["blast_radius"]
    assert [(node["dataset_id"], node["distance"]) for node in before["downstream"]] == [("leads", 1), ("board", 2)]
    assert (before["approvals"], before["requester_reservations"]) == ([], [])
    assert [row["actor_id"] for row in before["requester_agents"]] == ["agt-bot"]

    position = (await read(aureus, "/v1/approvals"))["position"]
    other = await sent(aureus, "/v1/datasets/people/describe", {"pii_level": "high", "jurisdiction": "US"}, BEN)
    await sent(aureus, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 100}, ADM)
    held = await sent(aureus, "/v1/budgets/lake/reserve", {"amount_minor": 40}, ANA)
    dossier = await read(aureus, f"/v1/approvals/{approval_id}/dossier")
    assert (dossier["requester"], dossier["status"], dossier["risk_level"]) == ("usr-ana", "pending", "medium")
    assert (dossier["stream"], dossier["seen_version"]) == ("dataset:people", 1)
    assert dossier["policy_results"] == [{"policy": "held", "outcome": "require_approval", "reason": "It takes somebody else."}]
    assert (dossier["pack"]["id"], dossier["evidence"]) == (approval_id, f"/v1/evidence/{approval_id}")
    assert dossier["pack"]["policyChecks"] == dossier["policy_results"]
    around = dossier["blast_radius"]
    assert [row["approval_id"] for row in around["approvals"]] == [other["approval_id"]]
    assert [row["reservation_id"] for row in around["requester_reservations"]] == [held["events"][0]["data"]["reservation_id"]]
    assert (await read(aureus, f"/v1/approvals/{approval_id}/dossier", as_of=position))["blast_radius"] == before


async def test_a_budget_is_touched_with_all_that_is_reserved_in_its_tree(aureus: Aureus) -> None:
    await sent(aureus, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 100}, ADM)
    await sent(aureus, "/v1/budgets/lake/reserve", {"amount_minor": 40}, BEN)
    by_hand = {
        "approval_id": "a1",
        "description": "Close the lake",
        "command": "budgets.close_budget",
        "inputs": {"budget_id": "lake"},
        "stream": "budget:lake",
        "seen_version": 2,
    }
    await sent(aureus, "/v1/approvals", by_hand, ANA)
    dossier = await read(aureus, "/v1/approvals/a1/dossier")
    assert [(row["reserved_by"], row["amount_minor"]) for row in dossier["blast_radius"]["reservations"]] == [("usr-ben", 40)]
    assert dossier["blast_radius"]["downstream"] == []
    assert (dossier["policy_results"], dossier["pack"]["eventType"]) == ([], "approvals.request_approval")


async def test_what_is_created_has_nothing_made_from_it_yet(aureus: Aureus) -> None:
    body = {"dataset_id": "new", "name": "new", "domain": "crm", "pii_level": "high", "jurisdiction": "EU"}
    told = await sent(aureus, "/v1/datasets", body, ANA)
    dossier = await read(aureus, f"/v1/approvals/{told['approval_id']}/dossier")
    assert (dossier["type"], dossier["seen_version"], dossier["blast_radius"]["downstream"]) == ("dataset_onboard", 0, [])
    assert refused(await aureus.get("/v1/approvals/nobody/dossier", APP), 404) == "approval_not_found"
    assert refused(await aureus.get(f"/v1/approvals/{told['approval_id']}/dossier", APP, as_of=3), 404) == "approval_not_found"


async def test_authority_is_delegated_used_and_taken_back(aureus: Aureus) -> None:
    approval_id = await people_parked(aureus)
    week = (datetime.now(UTC) + timedelta(days=7)).isoformat()
    assert refused(await aureus.post("/v1/delegations", {"delegate": "usr-nobody", "ends_at": week}, APP), 409) == "delegate_cannot_act"
    told = await sent(aureus, "/v1/delegations", {"delegate": "usr-ben", "ends_at": week, "comment": "On holiday"}, APP)
    delegation_id = told["events"][0]["data"]["delegation_id"]
    listed = await read(aureus, "/v1/delegations", delegate="usr-ben", status="standing")
    assert [(row["delegator"], row["comment"]) for row in listed["items"]] == [("usr-app", "On holiday")]

    agreed = await sent(aureus, f"/v1/approvals/{approval_id}/approve", {"on_behalf_of": "usr-app", "comment": "Checked"}, BEN)
    row = await read(aureus, f"/v1/approvals/{approval_id}")
    assert row["status"] == "approved"
    assert [(one["approver"], one["on_behalf_of"], one["comment"]) for one in row["decisions"]] == [("usr-ben", "usr-app", "Checked")]
    assert [event["type"] for event in agreed["events"]] == ["approvals.approver_agreed", "approvals.approval_granted"]

    await sent(aureus, f"/v1/delegations/{delegation_id}/revoke", {"comment": "Back early"}, APP)
    row = await read(aureus, f"/v1/delegations/{delegation_id}")
    assert (row["status"], row["revoked_by"], row["revocation_comment"]) == ("revoked", "usr-app", "Back early")
    used = await sent(aureus, "/v1/datasets/people/describe", {"pii_level": "high"}, ANA, Aureus_Approval=approval_id)
    assert used["outcome"] == "allowed", "what was decided by it stays decided"


async def test_what_waits_is_escalated_when_due_and_expired_in_the_end(aureus: Aureus) -> None:
    approval_id = await people_parked(aureus)
    reads, path = Rows(aureus.services.reads), aureus.services.path

    async def swept(later: timedelta) -> list[str]:
        """What comes due by then, carried out as the reactor does."""
        moment = datetime.now(UTC) + later
        done = []
        for tenant, cause, command in await come_due(reads, moment):
            assert cause == approval_id
            outcome = await path.handle(replace(ask(command, asker(tenant)), at=moment))
            assert outcome.outcome == "allowed", outcome
            await aureus.services.wait_for(outcome.position)
            done.append(command.command_name)
        return done

    assert await swept(timedelta(hours=1)) == []
    assert await swept(timedelta(hours=13)) == ["approvals.escalate_request"]
    row = await read(aureus, f"/v1/approvals/{approval_id}")
    assert (row["status"], row["escalated_to"]) == ("pending", ["admin"])
    assert await swept(timedelta(hours=14)) == []
    assert await swept(timedelta(hours=25)) == ["approvals.expire_request"]
    assert (await read(aureus, f"/v1/approvals/{approval_id}"))["status"] == "expired"
    assert await swept(timedelta(hours=26)) == []
