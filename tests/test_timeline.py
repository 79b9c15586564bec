"""The timeline of anything: complete by the rules of topics, in order, once each, and with what every event changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import orjson
import pytest

import infra.timeline
from domain.kernel import Asker
from domain.values import Role
from infra.verifier.topics import TopicFold
from tests.support.kernel import ADM, ANA, APP
from tests.support.running import Aureus, running
from tests.test_api import refused
from tests.test_as_of_everywhere import BOT, EVE, settled, stages

pytestmark = pytest.mark.anyio
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))


async def told(aureus: Aureus, kind: str, entity_id: str, **asked: Any) -> list[dict[str, Any]]:
    """All pages."""
    items: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        answer = await aureus.get(f"/v1/timeline/{kind}/{entity_id}", AUD, **asked, **cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {"cursor": page["next_cursor"]}


async def about(aureus: Aureus, *topics: str) -> dict[int, dict[str, Any]]:
    """Every event of the ledger that has one of these topics, by the fold that packs are proved with."""
    fold, found = TopicFold(), {}
    for stored in await aureus.services.ledger.entries(0, 5_000):
        if stored.tenant == "acme":
            body = orjson.loads(stored.body)
            if not fold.topics(body).isdisjoint(topics):
                found[stored.position] = body
    return found


async def it_leaves_nothing_out_and_tells_nothing_twice(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    parked = [body for body in (await about(aureus, "all")).values() if body["type"] == "approvals.approval_requested"]
    approval_id = parked[0]["stream"].partition(":")[2]
    subjects = [("dataset", "people"), ("budget", "lake"), ("actor", ANA.actor), ("agent", BOT.actor), ("approval", approval_id)]
    subjects += [("pipeline", "daily"), ("policy", "francs"), ("term", "person"), ("webhook", "siem")]
    for kind, entity_id in subjects:
        topics = {f"about:{kind}:{entity_id}"} | ({f"actor:{entity_id}"} if kind in ("actor", "agent") else set())
        expected = await about(aureus, *topics)
        if kind == "webhook":  # never asked for by its id: what stands in its stream is its timeline
            expected = {at: body for at, body in (await about(aureus, "all")).items() if body["stream"] == "webhook:siem"}
        facts = {body["causation"] for body in expected.values() if not body["type"].startswith("actions.")}
        allowed = {at for at, body in expected.items() if body["type"] == "actions.action_allowed" and body["causation"] in facts}
        items = await told(aureus, kind, entity_id)
        assert [item["position"] for item in items] == sorted(expected.keys() - allowed), (kind, entity_id)
        assert items, (kind, entity_id)
        for limit, window in ((1, 200_000), (3, 7)):
            monkeypatch.setattr(infra.timeline, "SCANNED_MAX", window)
            assert await told(aureus, kind, entity_id, limit=limit) == items
            assert await told(aureus, kind, entity_id, limit=limit, latest_first=True) == items[::-1]
        monkeypatch.undo()


async def an_entry_says_who_why_and_what_it_changed(aureus: Aureus) -> None:
    told_of = {item["type"]: item for item in await told(aureus, "dataset", "people")}
    described = told_of["catalog.dataset_described"]
    assert (described["actor"], described["outcome"], described["action"]) == (ADM.actor, "allowed", "catalog.describe_dataset")
    assert described["change"] == "datasets people: description set to Everybody; pii_level from none to high"
    assert {"kind": "datasets", "id": "people", "field": "pii_level", "before": "none", "after": "high"} in described["changes"]
    assert described["evidence"] == f"/v1/evidence/{described['action_id']}"
    assert described["policy_version"]
    assert told_of["catalog.dataset_registered"]["change"] == "datasets people added"
    changed = told_of["catalog.schema_changed"]["change"]
    assert "columns.email taken away" in changed or "columns lost" in changed


async def what_was_refused_or_parked_is_told_with_the_reason(aureus: Aureus) -> None:
    outcomes = {item["outcome"]: item for item in await told(aureus, "budget", "lake")}
    assert outcomes["requires_approval"]["approval_id"]
    (blocked,) = [item for item in await told(aureus, "actor", ADM.actor) if item["outcome"] == "blocked"]
    assert (blocked["action"], blocked["stream"]) == ("budgets.open_budget", "budget:z")
    assert blocked["code"] == "policy_blocked"
    assert blocked["message"]


async def it_is_narrowed_by_type_actor_and_period_and_read_as_of(aureus: Aureus) -> None:
    whole = await told(aureus, "dataset", "people")
    assert [item["type"] for item in await told(aureus, "dataset", "people", type="catalog.dataset_described")] == [
        "catalog.dataset_described"
    ]
    catalog = await told(aureus, "dataset", "people", type="catalog.*")
    assert catalog == [item for item in whole if item["type"].startswith("catalog.")]
    assert await told(aureus, "dataset", "people", actor=BOT.actor) == [item for item in whole if item["actor"] == BOT.actor] != []
    assert await told(aureus, "dataset", "people", actor="usr-nobody") == []
    middle = whole[len(whole) // 2]["position"]
    earlier, later = await told(aureus, "dataset", "people", to=middle), await told(aureus, "dataset", "people", **{"from": middle})
    assert (earlier + later, earlier[-1]["position"]) == (whole, middle)
    assert await told(aureus, "dataset", "people", as_of=middle) == earlier
    assert await told(aureus, "dataset", "people", **{"from": whole[0]["at"], "to": whole[-1]["at"]})


async def what_nobody_knows_is_not_found(aureus: Aureus) -> None:
    def path(kind: str, entity_id: str) -> str:
        return f"/v1/timeline/{kind}/{entity_id}"

    assert refused(await aureus.get(path("dataset", "nothing"), AUD), 404, "dataset_not_found", field="entity_id")["remedy"]
    refused(await aureus.get(path("dataset", "people"), AUD, as_of=3), 404, "dataset_not_found")
    refused(await aureus.get(path("dataset", ANA.actor), AUD), 404, "dataset_not_found")  # known, but no dataset
    refused(await aureus.get(path("dataset", "nothing"), AUD, type="catalog.*"), 404, "dataset_not_found")
    refused(await aureus.get(path("webhook", "nothing"), AUD), 404, "webhook_not_found")
    assert "dataset" in refused(await aureus.get(path("weather", "sunny"), AUD), 404, "timeline_not_found", field="kind")["remedy"]
    refused(await aureus.get(path("dataset", "people"), AUD, type="catalog.nothing"), 422, "invalid_parameter", field="type")
    refused(await aureus.get(path("dataset", "people"), AUD, **{"from": 9, "to": 3}), 422, "invalid_parameter", field="from")
    refused(await aureus.get(path("dataset", "people"), AUD, as_of="tomorrow"), 422, "invalid_parameter", field="as_of")
    refused(await aureus.get(path("dataset", "people"), BOT), 403, "role_missing")


async def test_a_timeline_tells_everything_about_a_thing_once_and_in_order(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, ANA, APP, AUD, EVE, BOT)
        async for _ in stages(aureus):
            await settled(aureus)
        await it_leaves_nothing_out_and_tells_nothing_twice(aureus, monkeypatch)
        await an_entry_says_who_why_and_what_it_changed(aureus)
        await what_was_refused_or_parked_is_told_with_the_reason(aureus)
        await it_is_narrowed_by_type_actor_and_period_and_read_as_of(aureus)
        await what_nobody_knows_is_not_found(aureus)
