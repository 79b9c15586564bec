"""What was approved is carried out by itself, where its requester wanted that: on their behalf, once, as strictly as if they asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import httpx
import pytest

from api.signing import SignedRequests
from commands.access import ChangeRoles, SuspendActor
from commands.approvals import APPROVALS, CarryOutRequest, RequestApproval
from commands.budgets import FundBudget, OpenBudget
from domain.approvals import ApprovalRequested, ApprovalUsed, CarryOutRequested
from domain.kernel import Asker
from domain.values import ActorKind, Role
from tests.given import ANALYST, given
from tests.support.kernel import ADM, APP, ask, everything
from tests.support.keys import adding, new_key
from tests.support.running import Aureus, running
from tests.test_approvals import GRANTED, REQUESTED, agreed

pytestmark = pytest.mark.anyio

HELD: Final = """package aureus

import rego.v1

verdict := {
	"outcome": "require_approval",
	"results": [{"policy": "held", "outcome": "require_approval", "reason": "It takes somebody else."}],
	"approver_roles": ["approver"],
	"quorum": 1,
} if {
	input.action in {"budgets.reserve_funds", "catalog.record_owner_contact"}
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
NUMBERS: Final = count(1)
WHEN_APPROVED: Final = {"Aureus_When_Approved": "carry-out"}


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home"), HELD) as started:
        await started.know(ADM, APP)
        yield started


@dataclass(frozen=True)
class Case:
    """A requester of their own, with a budget of their own to reserve on."""

    aureus: Aureus
    by: Asker
    budget_id: str

    async def reserve(self, **headers: str) -> httpx.Response:
        return await self.aureus.post(f"/v1/budgets/{self.budget_id}/reserve", {"amount_minor": 60}, self.by, **headers)

    async def parked(self, **headers: str) -> str:
        answer = await self.reserve(**headers)
        assert answer.status_code == 202, answer.text
        approval_id: str = answer.json()["approval_id"]
        return approval_id

    async def post(self, approval_id: str, what: str, by: Asker, body: Any = None) -> httpx.Response:
        return await self.aureus.post(f"/v1/approvals/{approval_id}/{what}", body or {}, by)

    async def approve(self, approval_id: str) -> None:
        assert (await self.post(approval_id, "approve", APP)).status_code == 200

    async def row(self, path: str, **filters: Any) -> dict[str, Any]:
        """The one row of a list, waiting for it a while."""
        items = await self._items(path, filters, lambda items: len(items) == 1)
        return items[0]

    async def approval(self, approval_id: str, status: str) -> dict[str, Any]:
        """The approval, once it has come to this."""
        return await self.row("/v1/approvals", stream=f"budget:{self.budget_id}", status=status)

    async def _items(self, path: str, filters: dict[str, Any], fits: Callable[[Any], bool]) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for _ in range(400):
            items = (await self.aureus.get(path, ADM, **filters)).json()["items"]
            if fits(items):
                return items
            await asyncio.sleep(0.05)
        raise AssertionError(f"{path} {filters}: {items}")

    async def saga(self, approval_id: str, status: str) -> dict[str, Any]:
        return await self.row("/v1/sagas", cause_stream=f"approval:{approval_id}", status=status)


@pytest.fixture
async def case(aureus: Aureus) -> Case:
    number = next(NUMBERS)
    by = Asker(f"usr-req-{number}", "acme", frozenset({Role.ANALYST}))
    await aureus.know(by)
    budget_id = f"lake-{number}"
    await aureus.services.path.handle(ask(OpenBudget(budget_id=budget_id, label="B", currency="EUR", limit_minor=1_000), ADM))
    return Case(aureus, by, budget_id)


def refused(answer: httpx.Response, status: int, code: str, field: str | None = None) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert error["details"].get("field") == field
    assert error["details"]["remedy"]


# -- decisions


def test_only_the_requester_has_it_carried_out_and_only_while_it_may_be() -> None:
    wanted = CarryOutRequest(approval_id=REQUESTED.approval_id)
    approvals = given(APPROVALS, REQUESTED).by(ANALYST)
    approvals.when(wanted).then(CarryOutRequested(approval_id=REQUESTED.approval_id))
    given(APPROVALS, REQUESTED, agreed(), GRANTED).by(ANALYST).when(wanted).then(CarryOutRequested(approval_id=REQUESTED.approval_id))
    given(APPROVALS, REQUESTED, CarryOutRequested(approval_id=REQUESTED.approval_id)).by(ANALYST).when(wanted).then()
    given(APPROVALS, REQUESTED.model_copy(update={"carry_out": True})).by(ANALYST).when(wanted).then()
    approvals.by(APP).when(wanted).refused("not_the_requester")
    given(APPROVALS).by(ANALYST).when(wanted).refused("approval_not_found", field="approval_id")
    used = ApprovalUsed(approval_id=REQUESTED.approval_id, action_id="a1", action_digest=REQUESTED.action_digest)
    given(APPROVALS, REQUESTED, agreed(), GRANTED, used).by(ANALYST).when(wanted).refused("approval_used", field="approval_id")


# -- the story


async def test_what_was_parked_is_carried_out_when_it_is_approved(case: Case) -> None:
    answer = await case.reserve(**WHEN_APPROVED)
    assert (answer.status_code, answer.json()["carry_out"]) == (202, True)
    approval_id = answer.json()["approval_id"]
    await case.approve(approval_id)
    row = await case.approval(approval_id, "used")
    held = await case.row("/v1/reservations", budget_id=case.budget_id)
    assert (held["reserved_by"], held["amount_minor"], held["status"]) == (case.by.actor, 60, "reserved")
    action = next(one for one in await everything(case.aureus.services.ledger) if one.entity == row["used_by_action"])
    assert (action.actor, action.event.approval_id, action.event.intent.roles) == (case.by.actor, approval_id, (Role.ANALYST,))
    saga = await case.saga(approval_id, "completed")
    assert action.event.intent.reason == f"Saga approved_action_is_carried_out ({saga['saga_id']}), step carry_out."
    assert saga["deadline_at"] == row["expires_at"]
    again = await case.reserve(Aureus_Approval=approval_id)
    refused(again, 409, "approval_used", "approval_id")


async def test_without_that_wish_it_waits_to_be_sent_again_or_to_be_wanted_later(case: Case) -> None:
    approval_id = await case.parked()
    await case.approve(approval_id)
    await case.approval(approval_id, "approved")
    assert (await case.aureus.get("/v1/sagas", ADM, cause_stream=f"approval:{approval_id}")).json()["items"] == []
    refused(await case.post(approval_id, "carry-out", APP), 409, "not_the_requester")
    assert (await case.post(approval_id, "carry-out", case.by)).status_code == 200
    await case.approval(approval_id, "used")


async def test_wanted_between_the_two_it_is_carried_out_once(case: Case) -> None:
    approval_id = await case.parked()
    assert (await case.post(approval_id, "carry-out", case.by)).status_code == 200
    await case.approve(approval_id)
    await case.approval(approval_id, "used")
    await case.saga(approval_id, "completed")
    used = [one for one in await everything(case.aureus.services.ledger) if isinstance(one.event, ApprovalUsed)]
    assert [one.event.approval_id for one in used].count(approval_id) == 1


async def test_an_agent_gets_what_it_waited_for(aureus: Aureus, case: Case) -> None:
    bot = Asker(f"agt-bot-{case.budget_id}", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=case.by.actor)
    await aureus.know(bot)
    own = Case(aureus, bot, case.budget_id)
    approval_id = await own.parked(**WHEN_APPROVED)
    await own.approve(approval_id)
    await own.approval(approval_id, "used")


# -- when it cannot be


@pytest.mark.parametrize("how", ["suspended", "role lost"])
async def test_whoever_may_not_do_it_any_more_does_not_get_it_and_is_told(case: Case, how: str) -> None:
    approval_id = await case.parked(**WHEN_APPROVED)
    actor_id = case.by.actor
    lost = SuspendActor(actor_id=actor_id) if how == "suspended" else ChangeRoles(actor_id=actor_id, granted_roles=(Role.VIEWER,))
    await case.aureus.services.path.handle(ask(lost, ADM))
    await case.approve(approval_id)
    row = await case.approval(approval_id, "voided")
    code = "requester_cannot_act" if how == "suspended" else "role_missing"
    assert row["void_reason"].startswith(f"It could not be carried out ({code})")
    saga = await case.saga(approval_id, "compensated")
    assert (saga["code"], saga["left_undone"]) == (code, 0)
    letter = await case.row("/v1/dead-letters", saga_id=saga["saga_id"])
    assert (letter["reaction"], letter["code"], letter["status"]) == ("approved_action_is_carried_out", code, "waiting")
    told = [one for one in await everything(case.aureus.services.ledger) if one.event.event_name == "notifications.notification_sent"]
    assert (actor_id, "carry_out_failed") in {(one.event.recipient, one.event.kind) for one in told}
    assert (await case.aureus.get("/v1/reservations", ADM, budget_id=case.budget_id)).json()["items"] == []


async def test_consent_was_to_the_budget_as_it_was(case: Case) -> None:
    approval_id = await case.parked(**WHEN_APPROVED)
    await case.aureus.services.path.handle(ask(FundBudget(budget_id=case.budget_id, amount_minor=1), ADM))
    await case.approve(approval_id)
    await case.approval(approval_id, "voided")
    assert (await case.saga(approval_id, "compensated"))["code"] == "entity_changed_since_approval"


async def test_what_was_withdrawn_meanwhile_is_not_carried_out(case: Case) -> None:
    approval_id = await case.parked(**WHEN_APPROVED)
    assert (await case.post(approval_id, "withdraw", case.by)).status_code == 200
    refused(await case.post(approval_id, "approve", APP), 409, "approval_not_pending")
    refused(await case.post(approval_id, "carry-out", case.by), 409, "approval_settled")


# -- what cannot be promised is refused when it is asked


async def test_the_wish_has_one_word(case: Case) -> None:
    refused(await case.reserve(Aureus_When_Approved="maybe"), 422, "validation_failed", "Aureus-When-Approved")


async def test_nobody_can_sign_for_who_signs(case: Case) -> None:
    services = case.aureus.services
    approval_id = await case.parked()
    key = new_key("actor", f"acme/{case.by.actor}")
    signer = Asker(case.by.actor, "acme", frozenset({Role.ADMIN, Role.ANALYST}))
    body = adding(services.ledger.name, key).model_dump(exclude_none=True)
    granted = await services.path.handle(ask(ChangeRoles(actor_id=case.by.actor, granted_roles=tuple(signer.roles)), ADM))
    await services.wait_for(granted.position)
    services.authenticator.forget()
    assert (await case.aureus.post("/v1/keys", body, signer)).status_code == 201
    signing = SignedRequests(ledger=services.ledger.name, tenant="acme", actor=signer.actor, key=key)
    identity = {"Authorization": f"Bearer {services.tokens.issue(signer)}", "Aureus-When-Approved": "carry-out"}
    where = f"/v1/budgets/{case.budget_id}/reserve"
    signed = await case.aureus.http.post(where, headers=identity, json={"amount_minor": 60}, auth=signing)
    refused(signed, 409, "carry_out_needs_signature", "Aureus-When-Approved")
    later = await case.aureus.http.post(f"/v1/approvals/{approval_id}/carry-out", headers=identity, json={}, auth=signing)
    refused(later, 409, "carry_out_needs_signature", "Aureus-When-Approved")


async def test_personal_data_is_kept_by_no_approval(case: Case) -> None:
    where, contact = "/v1/datasets/crm/owners/ext-a/contact", {"contact_name": "Ada Lovelace"}
    answer = await case.aureus.post(where, contact, ADM, **WHEN_APPROVED)
    refused(answer, 409, "carry_out_needs_inputs", "Aureus-When-Approved")


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        ({"command": "budgets.fund_budget", "inputs": {"budget_id": "lake"}}, "carry_out_not_exact", "inputs"),
        ({"command": "budgets.nothing", "inputs": {}}, "carry_out_not_exact", "inputs"),
        (
            {"command": "budgets.open_budget", "inputs": {"budget_id": "l", "label": "L", "currency": "EUR", "limit_minor": 1}},
            "carry_out_not_exact",
            "inputs",
        ),
        ({"action_digest": "ab" * 32}, "nothing_to_carry_out", "carry_out"),
        ({"command": "catalog.record_owner_contact", "inputs": {}}, "carry_out_needs_inputs", "Aureus-When-Approved"),
    ],
)
async def test_a_request_by_hand_names_exactly_what_would_be_carried_out(case: Case, asked: Any, code: str, field: str) -> None:
    body = {"approval_id": f"apr-{case.budget_id}", "description": "D", "carry_out": True, **asked}
    refused(await case.aureus.post("/v1/approvals", body, case.by), 409, code, field)


async def test_a_request_by_hand_is_carried_out_like_any_other(case: Case) -> None:
    wanted = RequestApproval(
        approval_id=f"apr-{case.budget_id}",
        description="D",
        command="budgets.reserve_funds",
        inputs={"budget_id": case.budget_id, "amount_minor": 5},
        stream=f"budget:{case.budget_id}",
        carry_out=True,
    )
    assert (await case.aureus.post("/v1/approvals", wanted.model_dump(mode="json", exclude_none=True), case.by)).status_code == 201
    await case.approve(wanted.approval_id)
    await case.approval(wanted.approval_id, "used")
    requested = [one.event for one in await everything(case.aureus.services.ledger) if isinstance(one.event, ApprovalRequested)]
    assert requested[-1].carry_out is True
