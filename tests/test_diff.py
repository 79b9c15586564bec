"""Two moments compared: what the diff says is what the rows of every list say at both, and it names the events that did it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from domain.differences import differences, in_words
from domain.kernel import Asker
from domain.values import Role
from infra.read_queries import ListQuery
from projections.engine import ReadTable
from tests.support.following import served
from tests.support.kernel import ADM, ANA, APP, BEN
from tests.support.running import Aureus, running
from tests.test_api import refused
from tests.test_as_of_everywhere import BOT, EVE, sent, settled, stages
from tests.test_feeds_cli import aureus as command_line

pytestmark = pytest.mark.anyio
AUD: Final = Asker("usr-aud", "acme", frozenset({Role.AUDITOR}))
PATH: Final = "/v1/diff"
LINES: Final = {"accept": "application/x-ndjson"}


@pytest.fixture
async def aureus(database_url: str, tmp_path: Path) -> AsyncIterator[Aureus]:
    async with running(database_url, tmp_path / "home") as opened:
        await opened.know(ADM, ANA, APP, AUD, BEN, EVE, BOT)
        yield opened


async def compared(aureus: Aureus, start: Any, end: Any = None, by: Asker = AUD, **more: Any) -> dict[str, Any]:
    asked = {"from": start, **({"to": end} if end is not None else {}), **more}
    answer = await aureus.get(PATH, by, **asked)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def downloaded(aureus: Aureus, start: int, end: int) -> list[dict[str, Any]]:
    headers = {**aureus._identity(AUD), **LINES}
    answer = await aureus.http.get(PATH, headers=headers, params={"from": start, "to": end})
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def stood(aureus: Aureus, position: int) -> dict[tuple[str, str, str], Any]:
    """Every row of every table at a position, as the lists read them."""
    found: dict[tuple[str, str, str], Any] = {}
    for projection in aureus.services.projections:
        for read in projection.tables:
            page = await aureus.services.reads.page(read, read.tenant or "acme", ListQuery(limit=500), position)
            assert page.next_cursor is None
            rows = [json.loads(document) for document in page.documents]
            for row, row_id in zip(rows, await _ids(aureus, projection.name, read, position, len(rows)), strict=True):
                found[projection.name, read.name, row_id] = row
    return found


async def _ids(aureus: Aureus, context: str, read: ReadTable[Any], position: int, count: int) -> list[str]:
    query = f"SELECT id FROM read_{context}.{read.name} WHERE from_position <= %s AND to_position > %s ORDER BY id"
    rows = await aureus.services.reads.fetch(query, (position, position), tenant=read.tenant or "acme")
    assert len(rows) == count
    return [row[0] for row in rows]


async def test_it_says_of_every_row_what_the_lists_say_at_both_ends(aureus: Aureus) -> None:
    positions = [await settled(aureus), *[await settled(aureus) async for _ in stages(aureus)]]
    rows = {position: await stood(aureus, position) for position in positions}
    for start, end in ((positions[0], positions[-1]), (positions[1], positions[3]), (positions[3], positions[4]), (0, positions[2])):
        *items, last = await downloaded(aureus, start, end)
        before, after = rows.get(start, {}), rows[end]
        told = {(item["context"], item["kind"], item["id"]): item for item in items}
        assert len(told) == len(items)
        assert {key for key, item in told.items() if item["change"] == "added"} == after.keys() - before.keys()
        assert {key for key, item in told.items() if item["change"] == "removed"} == before.keys() - after.keys()
        differing = {key for key in before.keys() & after.keys() if before[key] != after[key]}
        assert {key for key, item in told.items() if item["change"] == "changed"} == differing
        for key, item in told.items():
            if item["change"] == "changed":
                expected = [one._asdict() for one in differences(before[key], after[key])]
                assert (item["row"], item["changes"]) == (None, expected)
            else:
                assert (item["row"], item["changes"]) == (after.get(key, before.get(key)), [])
            at = [event["position"] for event in item["events"]]
            assert at == sorted(at)
            assert all(start < position <= end for position in at)
            assert item["events_count"] == len(at) > 0
        whole = await compared(aureus, start, end, limit=500)
        assert (whole["summary"], last) == (last["summary"], {"summary": last["summary"], "from_position": start, "to_position": end})
        assert whole["items"] == items
        assert sum(sum(one[name] for name in ("added", "changed", "removed")) for one in last["summary"]) == len(items)


async def pages_come_to_the_whole_and_stay_at_their_positions(aureus: Aureus) -> None:
    start = await settled(aureus)
    for number in range(7):
        await sent(aureus, "/v1/budgets", {"budget_id": f"b{number}", "label": "B", "currency": "EUR", "limit_minor": 100})
    whole = await compared(aureus, start, context="budgets,evidence", limit=500)
    items: list[Any] = []
    cursor: dict[str, Any] = {}
    while cursor.get("cursor", "") is not None:
        page = await compared(aureus, start, context="budgets,evidence", limit=3, **cursor)
        assert (page["summary"], page["to_position"]) == (whole["summary"], whole["to_position"])
        items += page["items"]
        cursor = {"cursor": page["next_cursor"]}
        await sent(aureus, "/v1/budgets/b0/fund", {"amount_minor": 1})
    assert items == whole["items"]
    assert len(items) == 14


async def a_change_names_its_values_its_events_and_their_reason(aureus: Aureus) -> None:
    about = {"name": "Orders", "domain": "sales", "pii_level": "none", "jurisdiction": "EU", "columns": [{"name": "id", "type": "int"}]}
    await sent(aureus, "/v1/datasets", {"dataset_id": "orders", **about})
    start = await settled(aureus)
    described = await sent(aureus, "/v1/datasets/orders/describe", {"pii_level": "high"}, ADM, Aureus_Reason="Customers are in it.")
    await sent(aureus, "/v1/datasets/orders/schema", {"columns": [{"name": "id", "type": "text"}, {"name": "email", "type": "text"}]})
    (item,) = (await compared(aureus, start, kind="datasets"))["items"]
    fields = {change["field"]: (change["before"], change["after"]) for change in item["changes"]}
    assert fields["pii_level"] == ("none", "high")
    assert fields["columns.id.type"] == ("int", "text")
    assert fields["columns.email"][0] is None
    assert [event["type"] for event in item["events"]] == ["catalog.dataset_described", "catalog.schema_changed"]
    first = item["events"][0]
    assert (first["actor"], first["reason"], first["action_id"]) == (ADM.actor, "Customers are in it.", described["action_id"])
    assert first["position"] == described["position"] - 1 or first["position"] == described["position"]

    middle = await settled(aureus)
    for tags in (["gold"], []):
        await sent(aureus, "/v1/datasets/orders/tags", {"tags": tags})
    again = (await compared(aureus, middle, kind="datasets"))["items"]
    assert [change["field"] for item in again for change in item["changes"]] == ["changed_at"]


async def ends_may_be_times_days_or_zones_and_equal_ends_differ_in_nothing(aureus: Aureus) -> None:
    before = datetime.now(UTC)
    await asyncio.sleep(0.002)
    await sent(aureus, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 1})
    end = await settled(aureus)
    by_time = await compared(aureus, before.isoformat())
    assert (await compared(aureus, before.astimezone().isoformat().replace("+00:00", "Z")))["items"] == by_time["items"]
    zoned = (before + timedelta(hours=2)).isoformat().replace("+00:00", "+02:00")
    assert (await compared(aureus, zoned))["items"] == by_time["items"]
    assert {item["kind"] for item in by_time["items"]} >= {"budgets", "actions"}
    assert (await compared(aureus, "2026-03-03"))["from_position"] == 0
    same = await compared(aureus, end, end)
    assert (same["summary"], same["items"], same["next_cursor"]) == ([], [], None)


REFUSED: Final[list[tuple[dict[str, str], str, str | None]]] = [
    ({"from": "5", "to": "3"}, "from", "Swap them: from=3&to=5."),
    ({"from": "2026-03-04", "to": "2026-03-03"}, "from", "Swap them: from=2026-03-03&to=2026-03-04."),
    ({"from": "5", "to": "999999"}, "to", "Send a position that a command's answer named."),
    ({"from": "9999-01-01"}, "from", "Leave it out to read the present."),
    ({"from": "2026-03-03T14:00:00"}, "from", None),
    ({"from": "-1"}, "from", None),
    ({"from": "1" * 19}, "from", "Send a whole number, 0 or more."),
    ({"from": "0", "context": "catalog,weather"}, "context", None),
    ({"from": "0", "context": "catalog", "kind": "budgets"}, "kind", None),
    ({"from": "0", "cursor": "bm90aGluZw=="}, "cursor", None),
    ({"from": "0", "cursor": "WzAsOTk5OTk5LDAsImEiXQ=="}, "cursor", None),
    ({"from": "0", "id": "a\0b"}, "id", None),
]
"""What is asked, the field at fault, and what the remedy says, where it is always the same."""


async def what_cannot_be_compared_is_refused_with_the_remedy(aureus: Aureus) -> None:
    for asked, field, remedy in REFUSED:
        details = refused(await aureus.get(PATH, AUD, **asked), 422, "invalid_parameter", field=field)
        assert details["rule"]
        assert details["remedy"] == (remedy or details["remedy"])


async def nobody_is_told_what_no_list_shows_them(aureus: Aureus) -> None:
    start = await settled(aureus)
    note = {"recipient": ANA.actor, "subject": "Friday"}
    await sent(aureus, "/v1/notifications", {"notification_id": "n-1", **note})
    await sent(aureus, "/v1/api-keys", {"actor_id": ANA.actor, "label": "Laptop"}, ANA)
    kinds = {by: {one["kind"] for one in (await compared(aureus, start, by=by))["items"]} for by in (ANA, BEN, AUD)}
    assert [("notifications" in kinds[by], "api_keys" in kinds[by]) for by in (ANA, BEN, AUD)] == [
        (True, True),
        (False, False),
        (True, True),
    ]
    assert {one["kind"] for one in (await compared(aureus, start, by=BEN))["summary"]} == kinds[BEN]
    refused(await aureus.get(PATH, ANA, **{"from": start, "kind": "memberships"}), 403, "role_missing")
    refused(await aureus.get(PATH, BOT, **{"from": start}), 403, "role_missing")


async def test_a_diff_tells_what_changed_by_whom_and_why_to_those_who_may_know(aureus: Aureus) -> None:
    await ends_may_be_times_days_or_zones_and_equal_ends_differ_in_nothing(aureus)
    await pages_come_to_the_whole_and_stay_at_their_positions(aureus)
    await a_change_names_its_values_its_events_and_their_reason(aureus)
    await nobody_is_told_what_no_list_shows_them(aureus)
    await what_cannot_be_compared_is_refused_with_the_remedy(aureus)


async def test_the_command_line_tells_it(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as server:
        await server.open_budgets("lake")
        start = server.aureus.services.ledger.head.size
        await server.open_budgets("sea")

        async def said(*line: str) -> str:
            async with command_line(server, tmp_path, *line) as process:
                told, complaint = await process.communicate()
                assert process.returncode == 0, complaint.decode()
                return told.decode()

        told = await said("diff", "--from", str(start), "--context", "budgets")
        assert "budgets +1" in told
        assert "+ budgets budgets sea" in told
        assert "usr-adm  budgets.budget_opened at position" in told
        *items, last = (
            json.loads(line) for line in (await said("diff", "--from", str(start), "--context", "budgets", "--lines")).splitlines()
        )
        assert [item["id"] for item in items] == ["sea"]
        assert last["summary"] == [{"context": "budgets", "kind": "budgets", "added": 1, "changed": 0, "removed": 0}]
        timeline = await said("timeline", "budget", "sea")
        assert "budget opened (budget:sea)" in timeline
        assert "budgets sea added" in timeline
        assert "evidence /v1/evidence/" in timeline


def test_differences_are_told_by_path_and_in_words() -> None:
    before = {"tags": ["a", "b"], "owner": None, "limit": 1, "columns": [{"name": "id", "type": "int"}], "same": {"x": [1]}}
    after = {"tags": ["b", "c"], "owner": "usr-ana", "limit": 2, "columns": [{"name": "id", "type": "text"}], "same": {"x": [1]}}
    found = differences(before, after)
    assert [one.field for one in found] == ["columns.id.type", "limit", "owner", "tags"]
    assert in_words(found) == "columns.id.type from int to text; limit from 1 to 2; owner set to usr-ana; tags gained c and lost a"
    assert in_words(differences({"x": "y"}, {"x": None})) == "x taken away (it was y)"
    twice = [{"name": "id", "n": 1}, {"name": "id", "n": 2}]
    assert differences({"columns": twice}, {"columns": twice[:1]}) == [("columns", twice, twice[:1])]
