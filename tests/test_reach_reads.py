"""Reading within reach: lists, rows and counts hold what a naive filter would leave, and no route names what is outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
from fastapi.routing import APIRoute

from api.services import now
from commands.access import BoundDomains
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.reach import WAYS, About, Reach, Way
from infra.read_queries import ListQuery
from projections.engine import ReadTable
from tests.support.kernel import ADM, ANA, APP, ask
from tests.support.running import Aureus, running
from tests.test_api import refused
from tests.test_as_of_everywhere import AGENT, reads, sent, settled

pytestmark = pytest.mark.anyio
EVE: Final = Asker("usr-eve", "acme", frozenset(Role) - {Role.AGENT})
BOB: Final = Asker("usr-bob", "acme", frozenset(Role) - {Role.AGENT})
"""In every role, and bounded to one domain."""
VAL: Final = Asker("usr-val", "acme", frozenset({Role.VIEWER}))
"""Bounded to no domain at all."""
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=ANA.actor)
OUTSIDE: Final = "zzhid"
"""Stands in every name that only exists outside, and in nothing else."""
NOWHERE: Final = "qqnil"
"""As long, and the name of nothing."""


async def bounded(aureus: Aureus, actor: Asker, *domains: str) -> None:
    outcome = await aureus.services.path.handle(ask(BoundDomains(actor_id=actor.actor, domains=domains), ADM))
    assert outcome.outcome == "allowed", outcome.message
    await aureus.services.wait_for(outcome.position)
    aureus.services.authenticator.forget()


async def history(aureus: Aureus) -> int:
    """Two domains with something of every kind in both; one dataset and one pipeline each, and edges between them."""
    place = {"pii_level": "none", "jurisdiction": "EU", "environment": "staging"}
    for domain, prefix in (("crm", "crm"), (f"{OUTSIDE}-hr", OUTSIDE)):
        for name in ("orders", "people"):
            about = {"dataset_id": f"{prefix}.{name}", "name": f"{prefix} {name}", "domain": domain, "owners": [{"owner_id": ANA.actor}]}
            await sent(aureus, "/v1/datasets", {**about, **place})
        await sent(aureus, f"/v1/datasets/{prefix}.orders/lineage", {"upstream": {"dataset_id": f"{prefix}.people"}})
        await sent(aureus, f"/v1/datasets/{prefix}.orders/usage", {"used_by": BOT.actor, "query_count": 2})
        pipeline = {"pipeline_id": f"{prefix}.daily", "label": f"{prefix} daily", "domain": domain, "environment": "staging"}
        await sent(aureus, "/v1/pipelines", {**pipeline, "owner": ANA.actor})
        await sent(aureus, "/v1/projects", {"project_id": f"{prefix}.work", "label": f"{prefix} work", "owner": ADM.actor})
        await sent(aureus, f"/v1/projects/{prefix}.work/attach", {"stream": f"dataset:{prefix}.people"})
        grant = {"grant_id": f"{prefix}-grant", "role": "viewer", "actor_id": APP.actor, "about": f"domain:{domain}"}
        await sent(aureus, "/v1/grants", {**grant, "until": (now() + timedelta(days=1)).isoformat()})
        await sent(
            aureus,
            "/v1/approvals",
            {
                "approval_id": f"{prefix}-apr",
                "description": f"{prefix} goes",
                "command": "catalog.deprecate_dataset",
                "inputs": {"dataset_id": f"{prefix}.orders", "reason": "old"},
                "stream": f"dataset:{prefix}.orders",
            },
            ANA,
        )
    await sent(aureus, "/v1/datasets", {"dataset_id": "outer", "name": "Outer", "domain": "outer", **place})
    await sent(aureus, "/v1/datasets/crm.orders/lineage", {"upstream": {"dataset_id": "outer"}})
    await sent(aureus, "/v1/agents", AGENT)
    await sent(aureus, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "EUR", "limit_minor": 100_000})
    for datasets in ([f"{OUTSIDE}.people"], ["crm.people"], ["crm.people", f"{OUTSIDE}.people"], []):
        asked = {"request_id": f"r-{len(datasets)}-{''.join(datasets)[:3]}", "tool": "sql", "datasets": datasets, "purpose": "Count"}
        await sent(aureus, "/v1/agents/agt-bot/actions", asked, BOT)
    first = await settled(aureus)
    await sent(aureus, "/v1/datasets/crm.people/describe", {"domain": "sales"})
    await sent(aureus, "/v1/datasets/crm.people/tags", {"tags": ["gold"]})
    await sent(aureus, "/v1/budgets/lake/reserve", {"amount_minor": 4_000}, ANA)
    return first


class Naive:
    """What is read, filtered row by row in Python: all rows of all tables, at one moment."""

    def __init__(self, rows: dict[str, dict[str, dict[str, Any]]]) -> None:
        self.rows = rows

    def left(self, table: str, reach: Reach) -> set[str]:
        way = WAYS[table]
        return {row_id for row_id, row in self.rows[table].items() if self._shown(way, row_id, row, reach)}

    def _shown(self, way: Way, row_id: str, row: dict[str, Any], reach: Reach) -> bool:
        if way.to_all or any(row[column] in (reach.actor, f"actor:{reach.actor}") for column in way.own):
            return True
        reached = [self._reached(stream, reach) for about in way.about for stream in _streams(about, row_id, row)]
        return bool(way.about) and all(reached)

    def _reached(self, stream: str | None, reach: Reach) -> bool:
        if stream is None:
            return False
        category, _, entity = stream.partition(":")
        if stream in reach.streams:
            return True
        match category:
            case "dataset" | "pipeline":
                home = self.rows[f"{category}s"].get(entity)
                return home is not None and home["domain"] in reach.domains
            case "domain":
                return entity in reach.domains
            case "agent" | "budget":
                return reach.rest
            case _:
                return False


def _streams(about: About, row_id: str, row: dict[str, Any]) -> Iterator[str | None]:
    value = row_id if about.column is None else row[about.column]
    for one in value if about.each else [value]:
        yield one if about.category is None or one is None else f"{about.category}:{one}"


REACHES: Final = (
    Reach("usr-nobody", frozenset(), frozenset(), rest=True),
    Reach(ANA.actor, frozenset({"crm"}), frozenset(), rest=True),
    Reach("usr-nobody", frozenset({"crm", f"{OUTSIDE}-hr"}), frozenset(), rest=False),
    Reach("usr-nobody", frozenset({"sales"}), frozenset({"pipeline:crm.daily", "budget:lake"}), rest=False),
    Reach(BOT.actor, frozenset(), frozenset({"dataset:crm.people", f"dataset:{OUTSIDE}.people"}), rest=False),
)


async def what_is_read_is_what_a_naive_filter_leaves(aureus: Aureus, moments: Iterable[int | None]) -> None:
    tables = {read.name: read for projection in aureus.services.projections for read in projection.tables}
    fetch = aureus.services.reads
    seen = 0
    for moment in moments:
        rows = {}
        for name in (*WAYS, "datasets"):
            page = await fetch.page(tables[name], "acme", ListQuery(limit=500), moment)
            rows[name] = {_id(tables[name], row): row for row in map(orjson.loads, page.documents)}
        naive = Naive(rows)
        for reach in REACHES:
            for name in WAYS:
                if not rows[name]:
                    continue
                read, expected = tables[name], naive.left(name, reach)
                seen += len(expected)
                page = await fetch.page(read, "acme", ListQuery(limit=500), moment, reach)
                assert {_id(read, orjson.loads(document)) for document in page.documents} == expected, (name, reach, moment)
                assert await fetch.count(read, "acme", {}, moment, reach) == len(expected), (name, reach)
                if not reach.streams:
                    assert set(await fetch.many(read, "acme", list(rows[name]), moment, reach)) == expected, (name, reach)
                    one = min(rows[name])
                    assert (await fetch.get(read, "acme", one, moment, None, reach) is not None) == (one in expected), (name, reach)
    assert seen > 100


def _id(read: ReadTable[Any], row: dict[str, Any]) -> str:
    keys = {
        "dataset_schemas": "{dataset_id}#{schema_version}",
        "dataset_usage": "{dataset_id}#{used_by}",
        "lineage": "{edge_id}",
        "term_links": "{dataset_id}#{term_id}#{column}",
        "actions": "{id}",
    }
    return keys.get(read.name, f"{{{fields(read.row)[0].name}}}").format(**row)


async def pages_sorts_filters_and_searches_keep_to_it(aureus: Aureus) -> None:
    path = "/v1/datasets"
    for query in ({}, {"sort": "-name"}, {"q": "o"}, {"tags": "gold"}, {"status": "active"}, {"domain": ["crm", f"{OUTSIDE}-hr"]}):
        told = (await aureus.get(path, EVE, limit=500, **query)).json()["items"]
        cursor, found = None, []
        while True:
            page = (await aureus.get(path, BOB, limit=1, **query, **({"cursor": cursor} if cursor else {}))).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == [row for row in told if row["domain"] == "crm"], query
    assert (await aureus.get(path, BOB, q=OUTSIDE)).json()["items"] == []


async def no_route_names_what_is_outside(aureus: Aureus, first: int) -> None:
    """Asked with ids that are within reach, no answer has a name from outside; asked for what is outside, it is not there."""
    shown = set()
    for route in reads():
        if "{" in route.path and route.path.startswith(("/console", "/docs", "/v1/log")):
            continue
        for moment in ({}, {"as_of": first}) if "as_of" in _parameters(route) else ({},):
            path = _path(route, "crm")
            answer = await aureus.get(path, BOB, **moment)
            before, named, after = answer.text.partition(OUTSIDE)
            assert not named, (path, moment, before[-300:], after[:100])
            if answer.status_code == 200 and getattr(route, "authorisation", None):
                shown.add(route.path)
            if "{" in route.path:
                there, nowhere = _path(route, OUTSIDE), _path(route, NOWHERE)
                hidden, missing = await aureus.get(there, BOB, **moment), await aureus.get(nowhere, BOB, **moment)
                assert _told(hidden, OUTSIDE) == _told(missing, NOWHERE), (there, moment)
    assert {"/v1/datasets", "/v1/datasets/{dataset_id}", "/v1/datasets/{dataset_id}/lineage", "/v1/actions", "/v1/approvals"} <= shown
    assert {"/v1/budgets", "/v1/auth/me", "/v1/pipelines/{pipeline_id}", "/v1/approvals/{approval_id}/dossier"} <= shown


def _parameters(route: APIRoute) -> set[str]:
    dependants, found = [route.dependant], set()
    while dependants:
        dependant = dependants.pop()
        found |= {parameter.alias for parameter in dependant.query_params}
        dependants += dependant.dependencies
    return found


def _path(route: APIRoute, prefix: str) -> str:
    """The route's path with ids that begin like this."""
    endings = {"pipeline_id": ".daily", "project_id": ".work", "approval_id": "-apr", "grant_id": "-grant"}
    fixed = {"entity_type": "dataset", "kind": "dataset", "stream": f"dataset:{prefix}.orders"}
    path = route.path
    for parameter in route.dependant.path_params:
        name = parameter.name
        value = fixed.get(name, prefix + endings.get(name, ".orders"))
        path = path.replace(f"{{{name}}}", value).replace(f"{{{name}:path}}", value)
    return path


def _told(answer: httpx.Response, name: str) -> tuple[int, str]:
    if answer.headers.get("content-type", "").startswith("application/json"):
        told = answer.json()
        error = told.get("error") if isinstance(told, dict) else None
        if error:
            return answer.status_code, error["message"].replace(name, "")
    return answer.status_code, answer.text.replace(name, "")


async def no_edge_leads_outside(aureus: Aureus) -> None:
    path = "/v1/datasets/crm.orders/lineage"
    assert [node["dataset_id"] for node in (await aureus.get(path, EVE)).json()["nodes"]] == ["crm.orders", "crm.people", "outer"]
    narrowed = (await aureus.get(path, BOB)).json()
    assert [node["dataset_id"] for node in narrowed["nodes"]] == ["crm.orders"]
    assert narrowed["edges"] == []


async def what_shows_the_whole_tenant_is_refused(aureus: Aureus) -> None:
    for path in ("/v1/ledger/events", "/v1/diff?from=1&to=2", "/v1/audit/anomalies", "/v1/timeline/dataset/crm.orders", "/v1/exports"):
        details = refused(await aureus.get(path, BOB), 403, "outside_domains")
        assert details["domains"] == ["crm"]
        assert details["remedy"]
    refused(await aureus.get("/v1/exports", VAL), 403, "role_missing")


async def a_grant_opens_exactly_its_scope_until_its_end(aureus: Aureus) -> None:
    async def read() -> list[str]:
        aureus.services.authenticator.forget()
        return [row["dataset_id"] for row in (await aureus.get("/v1/datasets", VAL)).json()["items"]]

    async def grant(grant_id: str, about: str) -> None:
        body = {"grant_id": grant_id, "role": "viewer", "about": about, "actor_id": VAL.actor}
        told = await sent(aureus, "/v1/grants", {**body, "until": (now() + timedelta(days=1)).isoformat()})
        await aureus.services.wait_for(told["position"])

    async def ended(path: str, body: Any) -> None:
        await aureus.services.wait_for((await sent(aureus, path, body))["position"])

    assert await read() == []
    await grant("one", "dataset:crm.people")
    assert await read() == ["crm.people"]
    await ended("/v1/grants/one/revoke", {})
    await grant("all", "domain:crm")
    assert await read() == ["crm.orders"]
    await ended("/v1/grants/all/revoke", {})
    await grant("work", f"project:{OUTSIDE}.work")
    assert await read() == [f"{OUTSIDE}.people"]
    await ended(f"/v1/projects/{OUTSIDE}.work/attach", {"stream": f"dataset:{OUTSIDE}.orders"})
    assert await read() == [f"{OUTSIDE}.orders", f"{OUTSIDE}.people"]
    held = (await aureus.services.standing.of("acme", VAL.actor)).holdings
    assert [one.until is not None and one.until > now() for one in held] == [True]
    await ended(f"/v1/projects/{OUTSIDE}.work/archive", {})
    assert await read() == []


async def test_reading_keeps_to_what_is_reached(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, ANA, APP, EVE, BOB, VAL, BOT)
        await bounded(aureus, BOB, "crm")
        first = await history(aureus)
        await settled(aureus)
        await what_is_read_is_what_a_naive_filter_leaves(aureus, (None, first))
        await bounded(aureus, VAL)
        await pages_sorts_filters_and_searches_keep_to_it(aureus)
        await no_route_names_what_is_outside(aureus, first)
        await no_edge_leads_outside(aureus)
        await what_shows_the_whole_tenant_is_refused(aureus)
        await a_grant_opens_exactly_its_scope_until_its_end(aureus)
