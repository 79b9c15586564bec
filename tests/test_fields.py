"""Masked fields: what policies show to others only is null in every answer, and nothing is found by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import httpx
import orjson
import pytest

from api.app import create_app
from api.feeds import open_changes
from api.services import open_services
from domain.kernel import Asker
from domain.policies import Scope
from domain.values import ActorKind, Role
from infra.fields import CARRIED, MASKABLE, Fields
from infra.policy import DEFAULT_BUNDLE, PolicyEngine
from infra.policy_bundle import Bundle, BundleRefused
from infra.policy_sets import assemble, shipped_set
from streams.feeds import Feed, FeedEnded
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus
from tests.support.then import Then, then
from tests.test_api import refused
from tests.test_as_of_everywhere import reads, sent, settled
from tests.test_reach_reads import _path

pytestmark = pytest.mark.anyio
EVE: Final = Asker("usr-eve", "acme", frozenset(Role) - {Role.AGENT})
VIC: Final = Asker("usr-vic", "acme", frozenset({Role.VIEWER}))
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=ANA.actor)
OWNER: Final = "usr-zzown"
"""Stands in masked fields of one dataset, and else only in what was recorded and asked for."""
MASKED: Final = {"owner_ids", "owners", "registered_by"}
ASKED_WITH: Final[dict[str, dict[str, Any]]] = {
    "/v1/diff": {"from": 0},
    "/v1/rollbacks/preview": {"entity_type": "dataset", "entity_id": "crm.orders", "to_version": 1},
    "/v1/why": {"command": "catalog.describe_dataset", "entity": "crm.orders", "fields": '{"description": "Them"}'},
}
"""What a path has to be asked with."""
SECRECY: Final = """# Viewers see no amounts, and no labels of keys.
package aureus

import rego.v1

secrecy(question) := [finding |
	question.actor.roles == ["viewer"]
	some masked in [secrecy_of(question.action)]
	finding := {"policy": "secrecy", "outcome": "allow", "masked": masked}
]

secrecy_of("read.budgets") := ["limit_minor", "available_minor", "currency"]

secrecy_of("read.api_keys") := ["label"]
"""
"""`currency` cannot be masked: what cannot be, is not."""


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Then]:
    """Policies without a word on fields, to begin with; a dataset with an owner, a budget, a key and a parked command."""
    async with then(shared_database_url, tmp_path_factory.mktemp("home")) as opened:
        await opened.know(ADM, ANA, EVE, VIC, BOT)
        about = {"dataset_id": "crm.orders", "name": "Orders", "domain": "crm", "pii_level": "none", "jurisdiction": "EU"}
        await sent(opened, "/v1/datasets", {**about, "environment": "staging", "owners": [{"owner_id": OWNER}]})
        await sent(opened, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 7_654_321})
        await sent(opened, "/v1/api-keys", {"actor_id": VIC.actor, "label": "zzlabel"}, VIC)
        await settled(opened)
        yield opened


@pytest.fixture
async def masking(aureus: Then) -> Then:
    """The shipped policy on fields, and one of the tenant's own."""
    if "secrecy" not in (await aureus.policies()).in_force:
        await aureus.put_in_force("fields", Scope(), rego=(DEFAULT_BUNDLE / "fields.rego").read_text())
        await aureus.put_in_force("secrecy", Scope(), rego=SECRECY)
        await settled(aureus)
        aureus.services.fields._good_until.clear()
    return aureus


@asynccontextmanager
async def another_process(aureus: Aureus) -> AsyncIterator[Aureus]:
    """One that only reads."""
    async with open_services(aureus.services.settings, run_projections=False) as services:
        app = create_app(services=services)
        app.state.services = services
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://aureus.test") as http:
            yield Aureus(services, http)


def masked_in(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return set(answer.headers.get("aureus-masked", "").replace(",", "").split())


async def test_policies_without_a_word_on_fields_mask_nothing_and_another_process_sees_them_change(aureus: Then) -> None:
    async with another_process(aureus) as other:
        for each in (aureus, other):
            before = await each.get("/v1/datasets/crm.orders", BOT)
            assert (before.json()["owner_ids"], masked_in(before)) == ([OWNER], set())
        await aureus.put_in_force("fields", Scope(), rego=(DEFAULT_BUNDLE / "fields.rego").read_text())
        await aureus.put_in_force("secrecy", Scope(), rego=SECRECY)
        await asyncio.sleep(0.9)
        for each in (aureus, other):
            after = await each.get("/v1/datasets/crm.orders", BOT)
            assert (after.json()["owner_ids"], masked_in(after)) == (None, MASKED)


async def test_a_masked_field_is_null_wherever_its_row_is_shown(masking: Then) -> None:
    size = await settled(masking)
    for query in ({}, {"as_of": size}, {"fields": "dataset_id,owners,owner_ids,registered_by"}):
        one = await masking.get("/v1/datasets/crm.orders", BOT, **query)
        page = await masking.get("/v1/datasets", BOT, **query)
        for row in (one.json(), *page.json()["items"]):
            assert row["dataset_id"] == "crm.orders"
            assert {name: row[name] for name in MASKED} == dict.fromkeys(MASKED)
        assert masked_in(one) == masked_in(page) == MASKED
        whole = await masking.get("/v1/datasets/crm.orders", VIC, **query)
        assert (whole.json()["owner_ids"], masked_in(whole)) == ([OWNER], set())
        assert one.headers["etag"] != whole.headers["etag"]


async def test_nothing_is_found_by_a_masked_field(masking: Then) -> None:
    for path, by, query, field, named in (
        ("/v1/datasets", BOT, {"owner_ids": OWNER}, "owner_ids", "owner_ids"),
        ("/v1/budgets", VIC, {"sort": "-limit_minor"}, "sort", "limit_minor"),
        ("/v1/feeds/changes", BOT, {"table": "datasets", "owner_ids": OWNER}, "owner_ids", "owner_ids"),
    ):
        told = refused(await masking.get(path, by, **query), 403, "field_masked")
        assert (told["field"], told["rule"]) == (field, f"whoever is not shown {named} cannot use it")
        assert told["remedy"]
    assert (await masking.get("/v1/budgets", EVE, sort="-limit_minor")).json()["items"][0]["limit_minor"] == 7_654_321
    assert [row["label"] for row in (await masking.get("/v1/api-keys", VIC)).json()["items"]] == [None]
    assert (await masking.get("/v1/api-keys", VIC, q="zzlabel")).json()["items"] == []
    assert len((await masking.get("/v1/api-keys", EVE, q="zzlabel")).json()["items"]) == 1


async def test_what_cannot_be_masked_is_not(masking: Then) -> None:
    answer = await masking.get("/v1/budgets/lake", VIC)
    assert masked_in(answer) == {"limit_minor", "available_minor"}
    assert answer.json()["currency"] == "EUR"


@pytest.mark.parametrize(
    ("by", "hidden", "path"),
    [(BOT, OWNER, "/v1/datasets"), (VIC, "7654321", "/v1/budgets/lake"), (VIC, "zzlabel", "/v1/api-keys")],
    ids=["owner", "amount", "label"],
)
async def test_no_answer_has_a_value_that_stands_in_masked_fields_alone(masking: Then, by: Asker, hidden: str, path: str) -> None:
    shown = set()
    for asked in {_path(route, "crm").replace("/budgets/crm.orders", "/budgets/lake") for route in reads()}:
        if asked.startswith(("/console/", "/docs/", "/v1/feeds/")):
            continue
        answer = await masking.get(asked, by, **ASKED_WITH.get(asked, {}))
        before, found, after = answer.text.partition(hidden)
        assert not found, (asked, before[-200:], after[:100])
        if answer.status_code == 200:
            shown.add(asked)
    assert {path, "/v1/datasets", "/v1/datasets/crm.orders", "/v1/actions", "/v1/approvals"} <= shown
    for each in (path, "/v1/actions"):
        assert hidden in (await masking.get(each, EVE)).text


@pytest.mark.parametrize(
    ("path", "by"),
    [
        ("/v1/datasets/crm.orders/history", BOT),
        ("/v1/snapshots/dataset/crm.orders", BOT),
        ("/v1/ledger/events", VIC),
        ("/v1/timeline/dataset/crm.orders", VIC),
        ("/v1/diff", VIC),
    ],
)
async def test_what_was_recorded_is_shown_whole_or_not_at_all(masking: Then, path: str, by: Asker) -> None:
    told = refused(await masking.get(path, by, **ASKED_WITH.get(path, {})), 403, "field_masked")
    assert told["field"] in {*MASKED, "available_minor", "label"}
    assert OWNER in (await masking.get(path, EVE, **ASKED_WITH.get(path, {}))).text


async def test_a_feed_tells_no_more_than_the_list(masking: Then) -> None:
    scope = {"query_string": b"table=datasets&after=0", "headers": [], "app": masking.http._transport.app}  # type: ignore[attr-defined]
    for by, owners in ((BOT, None), (EVE, [OWNER])):
        async with await open_changes(masking.services, scope, by) as feed, asyncio.timeout(5):
            messages: list[tuple[int, str]] = []
            while not messages:
                messages = (await feed.next()).messages
        rows = [change["row"] for _, text in messages for change in orjson.loads(text)["changes"]]
        assert [row["owner_ids"] for row in rows] == [owners]


async def _until_it_ends(feed: Feed) -> None:
    while True:
        await feed.next()


async def test_a_feed_ends_when_its_filter_is_masked(masking: Then, monkeypatch: pytest.MonkeyPatch) -> None:
    query = b"table=datasets&after=0&owner_ids=" + OWNER.encode()
    scope = {"query_string": query, "headers": [], "app": masking.http._transport.app}  # type: ignore[attr-defined]
    person = replace(BOT, kind=ActorKind.PERSON)
    async with await open_changes(masking.services, scope, person) as feed, asyncio.timeout(5):
        key = (person.roles, person.kind, True, "datasets")
        monkeypatch.setitem((await masking.services.fields._policies("acme")).said, key, frozenset(MASKED))
        with pytest.raises(FeedEnded) as ended:
            await _until_it_ends(feed)
    assert ended.value.code == "access_changed"


async def test_without_an_answer_all_that_can_be_masked_is(masking: Then, monkeypatch: pytest.MonkeyPatch) -> None:
    services = masking.services
    never_started = PolicyEngine(Bundle.read(DEFAULT_BUNDLE))
    silent = replace(services, fields=Fields(services.ledger, never_started))
    for table, fields in {**MASKABLE, **CARRIED}.items():
        assert await silent.fields.masked(EVE, table) == fields
    monkeypatch.setattr(masking.http._transport.app.state, "services", silent)  # type: ignore[attr-defined]
    row = (await masking.get("/v1/datasets/crm.orders", EVE)).json()
    assert {name for name, value in row.items() if value is None} >= MASKABLE["datasets"]
    assert row["status"] == "active"


async def test_it_is_asked_once_for_all_who_are_alike(masking: Then) -> None:
    fields, asked = masking.services.fields, masking.services.policy.measured
    await fields.masked(BOT, "datasets")
    before = list(asked.readings())
    for _ in range(50):
        await masking.get("/v1/datasets", BOT)
    assert list(asked.readings()) == before


def test_a_list_that_names_what_cannot_be_masked_is_refused() -> None:
    files = dict(Bundle.read(DEFAULT_BUNDLE).files)
    lists: dict[str, Any] = orjson.loads(files["data.json"])
    lists["bank"]["fields"]["datasets"]["owner"] = {}
    with pytest.raises(BundleRefused, match="`fields` names owner of datasets, which cannot be masked"):
        assemble(shipped_set(Bundle({**files, "data.json": orjson.dumps(lists)})).active())
