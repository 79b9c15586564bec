"""A bank with something of everything that an auditor asks about, and replays of it."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from domain.kernel import Asker
from domain.values import ActorKind, Role
from tests.support.kernel import ADM, ANA, APP
from tests.support.running import Aureus

AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner="usr-ana")
FOREIGN: Final = Asker("usr-ola", "other", frozenset({Role.AUDITOR, Role.ADMIN}))
PEOPLE: Final = {"dataset_id": "crm.people", "name": "People", "domain": "crm", "pii_level": "low", "jurisdiction": "EU"}
PATIENCE_SECONDS: Final = 60.0


async def lived_in(aureus: Aureus) -> int:
    """Budgets, a vote, a refusal, a dataset that changed, an agent that was stopped; the position at which all of it had happened."""
    await aureus.know(ADM, ANA, APP, AUD, BOT)
    agent = {"agent_id": "agt-bot", "label": "Bot", "purpose": "Counts", "model": "small", "provider": "us", "owner": "usr-ana"}
    steps: list[tuple[str, dict[str, Any], Asker, int]] = [
        ("/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1_000}, ADM, 201),
        ("/v1/budgets", {"budget_id": "alp", "label": "Alp", "currency": "CHF", "limit_minor": 500}, ADM, 201),
        ("/v1/budgets/lake/reserve", {"amount_minor": 900}, ANA, 201),
        ("/v1/budgets/lake/reserve", {"amount_minor": 900}, ANA, 409),
        ("/v1/budgets/alp/reserve", {"amount_minor": 60}, ANA, 202),
        ("/v1/datasets", {**PEOPLE, "columns": [{"name": "id", "type": "bigint"}]}, ANA, 201),
        ("/v1/datasets/crm.people/owners", {"owner_id": "usr-ana", "role": "steward"}, ANA, 200),
        ("/v1/datasets/crm.people/describe", {"pii_level": "high"}, ANA, 200),
        ("/v1/agents", agent, ADM, 201),
        ("/v1/agents/agt-bot/stop", {"reason": "It runs wild"}, ADM, 200),
    ]
    position = 0
    for path, body, by, status in steps:
        answer = await aureus.post(path, body, by)
        assert answer.status_code == status, (path, answer.text)
        if status == 202:
            answer = await aureus.post(f"/v1/approvals/{answer.json()['approval_id']}/approve", {"comment": "Fine"}, APP)
        found = answer.json()
        position = found.get("position") or found["error"]["details"]["position"]
    return position


async def requested(aureus: Aureus, replay_id: str, by: Asker = AUD, **body: Any) -> dict[str, Any]:
    """The row of a replay that was asked for, once it is built or was not."""
    answer = await aureus.post("/v1/replays", {"replay_id": replay_id, **body}, by)
    assert answer.status_code == 201, answer.text
    return await settled(aureus, replay_id, answer.json()["position"], by)


async def settled(aureus: Aureus, replay_id: str, position: int, by: Asker = AUD) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            row: dict[str, Any] = (await aureus.get(f"/v1/replays/{replay_id}", by, at_least=position)).json()
            if row["status"] != "requested":
                return row
            await asyncio.sleep(0.02)
