"""Every read of every context answers for the past what it answered then; what has no past says so, instead of answering the present."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.logging_in import open_session
from api.reading import MOMENT
from api.routing import View
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.read_tables import field_kind
from tests.support.kernel import ADM, ANA, APP
from tests.support.running import Aureus, running
from tests.test_api import refused

pytestmark = pytest.mark.anyio
EVE: Final = Asker("usr-eve", "acme", frozenset(Role) - {Role.AGENT})
BOT: Final = Asker("agt-bot", "acme", frozenset({Role.AGENT}), ActorKind.AGENT, owner=ANA.actor)

SCIM: Final = frozenset(
    f"/scim/v2/{name}"
    for name in (
        *("Groups", "Groups/{scim_id}", "ResourceTypes", "ResourceTypes/{name}", "Schemas", "Schemas/{name}"),
        *("ServiceProviderConfig", "Users", "Users/{scim_id}", "{rest:path}"),
    )
)
"""What an identity provider reads, by a protocol that knows no `as_of` and passes over parameters that it does not know (RFC 7644)."""
NO_PAST: Final = {
    **dict.fromkeys(SCIM, "a protocol of the present"),
    "/": "a page of the console",
    "/console/{name}": "a file of the console",
    "/docs": "the API as this server speaks it",
    "/docs/{name}": "a file of it",
    "/healthz": "this process",
    "/readyz": "this process",
    "/metrics": "this process",
    "/v1/certificates/entries": "signed entries, to be verified as they stand",
    "/v1/replay/{stream}": "takes the position that it replays to",
    "/v1/retention/due": "what has to be erased by now",
    "/v1/subjects/{subject_id}/erasure-preview": "what would be erased now",
    "/v1/vault": "the keys this server holds",
    "/v1/vault/accounting": "what the vault keeps now; of what was erased it keeps no past",
    "/v1/api-keys/{key_id}/use": "when it was used last: a note of this server, no event",
    "/v1/auth/keys": "the keys this process signs tokens with",
    "/v1/auth/oidc/callback": "a step of a login that is going on",
    "/v1/auth/oidc/login": "a step of a login that is going on",
    "/v1/auth/oidc/logout": "a step of a logout that is going on",
    "/v1/auth/providers": "how one logs in at this server now",
    "/v1/verifier": "the program that comes with this server",
    "/v1/diff": "its two ends are moments already",
    "/v1/exports/{export_id}/pack": "bytes that lie on the shelf now; fetching them is put on record",
    "/v1/feeds/changes": "what happens from now on, or from `after`",
    "/v1/feeds/events": "what happens from now on, or from `after`",
    "/v1/hooks/{hook_id}/deliveries": "what came to this server, no history",
    "/v1/ledger/checkpoint": "takes the size it is wanted of",
    "/v1/ledger/keys": "the keys of the log that signs now; /v1/keys has a past",
    "/v1/limits": "what may be asked from now on",
    "/v1/log/checkpoint": "the latest that witnesses cosigned",
    "/v1/log/tile/entries/{place:path}": "named by what it holds, and never changes",
    "/v1/log/tile/{level}/{place:path}": "named by what it holds, and never changes",
    "/v1/log/timestamps/{size}": "named by the size it is of",
    "/v1/projections": "how far this server's read models are",
    "/v1/proofs/consistency": "takes both sizes",
    "/v1/proofs/inclusion": "takes the size it is upon",
    "/v1/proofs/root": "takes the size it is of",
    "/v1/rollbacks/preview": "what would be done now",
    "/v1/system/doctor": "how this server is deployed now",
    "/v1/streams": "how far this server's workers are",
    "/v1/webhooks/{webhook_id}/deliveries": "a queue of this server, no history",
    "/v1/webhooks/{webhook_id}/deliveries/{notification_id}": "a queue of this server, no history",
    "/v1/witnesses": "whom this server asks, and how they stand",
}
"""GET routes that do not take `as_of`, each with the reason; those of ours refuse it."""
SELDOM: Final = frozenset({"/v1/policies/conflicts", "/v1/decisions/replay"})
"""They take a process of their own: asked once."""
SAY_WHEN_THEY_WERE_ASKED: Final = {"/v1/audit/anomalies": "until", "/v1/could": "as_of", "/v1/why": "at"}
"""Paths, and the member that holds the moment of the question: of now, or of when the position was recorded."""
Asked = tuple[str, tuple[tuple[str, Any], ...]]
QUERIES: Final = {"/v1/why": (("command", "budgets.fund_budget"), ("entity", "pond"), ("fields", '{"amount_minor": 1}'))}
"""What a path has to be asked with."""


def reads() -> Iterator[APIRoute]:
    """Every route that answers GET."""
    for route in create_app(services=object()).routes:  # type: ignore[arg-type]
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            yield route


def parameters(route: APIRoute) -> set[str]:
    dependants = [route.dependant]
    found = set()
    while dependants:
        dependant = dependants.pop()
        found |= {parameter.alias for parameter in dependant.query_params}
        dependants += dependant.dependencies
    return found


async def settled(aureus: Aureus) -> int:
    """Where the ledger ends, once whatever follows from the commands has happened and the read models have seen it."""
    while True:
        told = (await aureus.get("/v1/streams", EVE)).json()
        if told["reactions"]["position"] == told["size"] == min(each["position"] for each in told["projections"]):
            return int(told["size"])
        await asyncio.sleep(0.01)


async def sent(aureus: Aureus, path: str, body: Any, by: Asker = ADM, **headers: str) -> dict[str, Any]:
    answer = await aureus.post(path, body, by, **headers)
    assert answer.is_success, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def stages(aureus: Aureus) -> AsyncIterator[None]:
    """A small history with something of every context, in steps; each step changes what an earlier one left."""
    for dataset_id, upstreams in (("people", []), ("leads", ["people"]), ("board", ["leads"])):
        about = {"dataset_id": dataset_id, "name": dataset_id, "upstreams": [{"dataset_id": upstream} for upstream in upstreams]}
        await sent(aureus, "/v1/datasets", {**about, "columns": COLUMNS, **PROFILE})
    await sent(aureus, "/v1/terms", {"term_id": "person", "name": "Person", "definition": "Whoever bought"})
    await sent(aureus, "/v1/datasets/people/terms", {"column": "id", "term_id": "person"})
    await sent(aureus, "/v1/budgets", {"budget_id": "lake", "label": "Lake", "currency": "CHF", "limit_minor": 100_000})
    await sent(aureus, "/v1/budgets", {"budget_id": "pond", "label": "Pond", "currency": "EUR", "limit_minor": 100_000})
    rule = {"rule_id": "open-fund", "reason": "Two hands", "commands_apart": ["budgets.open_budget", "budgets.fund_budget"]}
    await sent(aureus, "/v1/duties/rules", rule)
    await sent(aureus, "/v1/agents", AGENT)
    await sent(aureus, "/v1/pipelines", {"pipeline_id": "daily", "label": "Daily", "environment": "staging", **PROFILE})
    await ask_for(aureus, TRUSTED[0])
    yield
    parked = await sent(aureus, "/v1/budgets/lake/reserve", {"amount_minor": 40_000}, ANA)
    held = await sent(aureus, "/v1/budgets/pond/reserve", {"amount_minor": 10_000}, ANA)
    await sent(aureus, "/v1/datasets/people/freshness", {"freshness_sla": "PT24H"})
    await sent(aureus, "/v1/datasets/people/refreshes", {"refreshed_at": "2026-03-03T14:00:00Z", "row_count": 10})
    await sent(aureus, "/v1/datasets/people/usage", {"used_by": BOT.actor, "query_count": 2})
    await sent(aureus, "/v1/datasets/people/owners", {"owner_id": ANA.actor, "role": "steward"})
    await sent(aureus, "/v1/pipelines/daily/deploy", {"models": MODELS, "unit_tests": {"count": 1}, "dq_checks": {"count": 1}, **MAKES})
    await sent(aureus, "/v1/notifications", {"notification_id": "n-1", "recipient": EVE.actor, "subject": "Friday"})
    key = await sent(aureus, "/v1/api-keys", {"actor_id": ANA.actor, "label": "Laptop"}, ANA)
    await sent(aureus, "/v1/webhooks", {"webhook_id": "siem", "url": "https://siem.example.org/aureus"})
    delegated = await sent(aureus, "/v1/delegations", DELEGATION, APP)
    assert (await aureus.post("/v1/budgets", {"budget_id": "z", "label": "Z", "currency": "ZZZ", "limit_minor": 1}, ADM)).status_code == 403
    await ask_for(aureus, TRUSTED[1])
    session = (await open_session(aureus.services, EVE.tenant, EVE.actor, "password")).session
    await sent(aureus, "/v1/auth/totp", {}, EVE)
    yield
    await sent(aureus, f"/v1/approvals/{parked['approval_id']}/approve", {"comment": "Fine"}, APP)
    await sent(aureus, "/v1/budgets/lake/reserve", {"amount_minor": 40_000}, ANA, Aureus_Approval=parked["approval_id"])
    await sent(aureus, "/v1/budgets/pond/commit", {"reservation_id": of(held, "reservation_id"), "spent_minor": 9_000}, ANA)
    await sent(aureus, "/v1/agents/agt-bot/actions", {"request_id": "r-1", "tool": "sql", "datasets": ["people"], "purpose": "Count"}, BOT)
    stored = await aureus.http.post(
        "/v1/artifacts?name=Check&kind=file", headers={**aureus._identity(ANA), "content-type": "text/plain"}, content=b"fine"
    )
    assert stored.status_code == 201, stored.text
    await sent(aureus, f"/v1/evidence/{held['action_id']}/seal", {}, ADM)
    await sent(aureus, "/v1/export-profiles", {"profile": "onsite", "disclose": [], "withhold_types": []})
    await ask_for(aureus, TRUSTED[2])
    await sent(aureus, f"/v1/auth/sessions/{session}/end", {}, EVE)
    yield
    await sent(aureus, "/v1/agents/agt-bot/stop", {"reason": "It counts twice"})
    await sent(aureus, "/v1/datasets/people/describe", {"pii_level": "high", "description": "Everybody"})
    await sent(aureus, "/v1/datasets/people/schema", {"columns": COLUMNS[:1]})
    await sent(aureus, "/v1/datasets/leads/lineage/people/remove", {})
    await sent(aureus, "/v1/terms/person/revise", {"definition": "Whoever paid"})
    await sent(aureus, "/v1/pipelines/daily/failures", {"reason": "Twice"})
    await sent(aureus, "/v1/notifications/n-1/read", {}, EVE)
    await sent(aureus, f"/v1/api-keys/{key['key_id']}/revoke", {"actor_id": ANA.actor}, ANA)
    await sent(aureus, "/v1/webhooks/siem/remove", {})
    await sent(aureus, f"/v1/delegations/{of(delegated, 'delegation_id')}/revoke", {}, APP)
    await sent(aureus, "/v1/actors/usr-ana/roles", {"granted_roles": ["analyst", "viewer"]})
    await sent(aureus, "/v1/budgets/pond/close", {})
    await sent(aureus, "/v1/duties/rules/open-fund/remove", {})
    await ask_for(aureus, TRUSTED[3])
    await sent(aureus, "/v1/auth/totp/remove", {}, EVE)
    yield


async def ask_for(aureus: Aureus, asked: Sequence[tuple[str, Any]]) -> None:
    for path, body in asked:
        await sent(aureus, path, body)


PROFILE: Final = {"domain": "crm", "pii_level": "none", "jurisdiction": "EU"}
COLUMNS: Final = [{"name": "id", "type": "bigint"}, {"name": "email", "type": "text"}]
AGENT: Final = {
    "agent_id": "agt-bot",
    "label": "Bot",
    "purpose": "Counts",
    "model": "small-7b",
    "provider": "in house",
    "owner": ANA.actor,
}
MODELS: Final = [{"name": "m", "sql": "select id from people"}]
MAKES: Final = {"inputs": ["people"], "outputs": ["leads"]}
NOW: Final = datetime.now(UTC)
DELEGATION: Final = {
    "delegate": EVE.actor,
    "risk_up_to": "medium",
    "starts_at": NOW.isoformat(),
    "ends_at": (NOW + timedelta(days=3)).isoformat(),
}
SERVICE: Final = {"actor_id": "svc-dbt", "kind": "service", "granted_roles": ["analyst"], "owner": ANA.actor}
IDENTITY: Final = {"subject_sha256": "5" * 64, "issuer": "https://login.example.org", "actor_id": ANA.actor}
HOOK: Final = {
    "hook_id": "dbt",
    "label": "dbt finished",
    "acts_as": SERVICE["actor_id"],
    "command": "catalog.record_refresh",
    "fields": {"dataset_id": "/data/dataset", "refreshed_at": "/data/finished"},
}
GRANT: Final = {"grant_id": "g-1", "role": "approver", "about": "dataset:people", "actor_id": ANA.actor}
TRUSTED: Final = (
    [
        ("/v1/actors", SERVICE),
        ("/v1/identities", IDENTITY),
        ("/v1/groups", {"group_id": "grp-crew", "label": "Crew"}),
        ("/v1/groups/grp-crew/roles", {"mapped_roles": ["viewer"]}),
        ("/v1/projects", {"project_id": "churn", "label": "Churn", "owner": ANA.actor}),
    ],
    [
        ("/v1/hooks", HOOK),
        ("/v1/groups/grp-crew/members", {"actor_id": EVE.actor}),
        ("/v1/grants", {**GRANT, "until": (NOW + timedelta(days=3)).isoformat()}),
        ("/v1/projects/churn/attach", {"stream": "dataset:people"}),
    ],
    [
        ("/v1/hooks/dbt/secret", {}),
        ("/v1/groups/grp-crew/roles", {"mapped_roles": ["viewer", "auditor"]}),
        ("/v1/grants/g-1/extend", {"until": (NOW + timedelta(days=5)).isoformat()}),
        ("/v1/projects/churn/describe", {"label": "Leavers"}),
    ],
    [
        ("/v1/hooks/dbt/remove", {}),
        (f"/v1/identities/{IDENTITY['subject_sha256']}/unlink", {}),
        (f"/v1/groups/grp-crew/members/{EVE.actor}/remove", {}),
        ("/v1/grants/g-1/revoke", {}),
        ("/v1/projects/churn/detach", {"stream": "dataset:people"}),
    ],
)
"""Who is trusted with what, in the same steps: each a path of a command, and what is sent there."""


def of(told: dict[str, Any], name: str) -> str:
    """What a command's only event says under a name."""
    (event,) = told["events"]
    return str(event["data"][name])


class Recorder:
    """Asks everything there is to ask, and keeps what was answered."""

    def __init__(self, aureus: Aureus) -> None:
        self.aureus = aureus
        self.routes = [route for route in reads() if "as_of" in parameters(route)]
        self.answered: set[str] = set()

    async def ask(self, asked: Asked, **more: Any) -> tuple[int, Any]:
        path, query = asked
        answer = await self.aureus.get(path, EVE, **{**dict(query), **more})
        if answer.status_code >= 400:
            return answer.status_code, answer.json()["error"]["code"]
        if not answer.headers["content-type"].startswith("application/json"):
            return answer.status_code, answer.content
        told = answer.json()
        for name in SAY_WHEN_THEY_WERE_ASKED if isinstance(told, dict) else ():
            if path.startswith(name):
                told.pop(SAY_WHEN_THEY_WERE_ASKED[name], None)
        return answer.status_code, told

    async def everything(self, *, seldom: bool) -> dict[Asked, tuple[int, Any]]:
        """Every list whole, sorted, narrowed, in pages; every row of the first two of each; every other read of those."""
        told: dict[Asked, tuple[int, Any]] = {}
        ids: dict[str, list[str]] = {"entity_type": ["dataset"], "kind": ["dataset"], "entity_id": ["people"]}
        for route in self.routes:
            if (view := getattr(route, "view", None)) is not None:
                rows = await self._list(route.path, view, told)
                for row in rows[:2] + rows[-1:]:
                    named = {"action_id": row["id"]} if view.read.name == "actions" else row
                    for name, value in named.items():
                        for place in (name, f"{route.path}/{{{name}}}"):
                            if isinstance(value, str) and value not in ids.setdefault(place, []):
                                ids[place].append(value)
        for route in self.routes:
            if getattr(route, "view", None) is None and (seldom or route.path not in SELDOM):
                for path in paths(route, ids):
                    asked: Asked = (path, (("now", "2026-03-04T00:00:00Z"),) if path.endswith("/freshness") else QUERIES.get(path, ()))
                    told[asked] = await self.ask(asked)
                    self._note(route, told[asked])
        return told

    async def _list(self, path: str, view: View, told: dict[Asked, tuple[int, Any]]) -> list[dict[str, Any]]:
        whole: Asked = (path, (("limit", 500),))
        told[whole] = await self.ask(whole)
        self._note(next(route for route in self.routes if route.path == path), told[whole])
        rows: list[dict[str, Any]] = told[whole][1]["items"]
        sorts = [f"{sign}{name}" for name in view.read.sorts for sign in ("", "-")]
        for sort in [None, *sorts[:2]]:
            cursor = None
            for _ in range(3):
                asked: Asked = (path, tuple((k, v) for k, v in (("limit", 2), ("sort", sort), ("cursor", cursor)) if v is not None))
                told[asked] = await self.ask(asked)
                cursor = told[asked][1]["next_cursor"]
                if cursor is None:
                    break
        for name in view.read.filters if rows else ():
            value = rows[0][name]
            if field_kind(view.read, name) is list:
                value = value[0] if value else "none"
            asked = (path, ((name, "null" if value is None else str(value)),))
            told[asked] = await self.ask(asked)
        return rows

    def _note(self, route: APIRoute, told: tuple[int, Any]) -> None:
        if told[0] == 200 and (getattr(route, "view", None) is None or told[1]["items"]):
            self.answered.add(route.path)


def paths(route: APIRoute, ids: dict[str, list[str]]) -> list[str]:
    """The route's path with ids in it that there are; with one that nobody has where there are none."""
    found = [route.path]
    for parameter in route.dependant.path_params:
        values = ids.get(route.path) or ids.get(parameter.name) or ["nobody-7"]
        found = [path.replace(f"{{{parameter.name}}}", value) for path in found for value in values[:2]]
    return found


NOT_IN_THIS_HISTORY: Final = (
    "/v1/archive",
    "/v1/audit-queries",
    "/v1/backups",
    "/v1/certificates",
    "/v1/dead-letters",
    "/v1/disclosures",
    "/v1/exports",
    "/v1/holds",
    "/v1/jobs",
    "/v1/policies",
    "/v1/policy-",
    "/v1/query-runs",
    "/v1/replays",
    "/v1/retention-rules",
    "/v1/sagas",
    "/v1/subjects",
    "/v1/unmasking-grants",
    "/v1/vault",
)
"""What is empty in it: asked all the same; each row of every list has its history in the same way (tests/test_projections.py)."""


@pytest.mark.slow
async def test_every_read_answers_for_the_past_what_it_answered_then(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, ANA, APP, EVE, BOT)
        recorder = Recorder(aureus)
        then: list[tuple[int, dict[Asked, tuple[int, Any]]]] = []
        number = 0
        async for _ in stages(aureus):
            position = await settled(aureus)
            number += 1
            then.append((position, await recorder.everything(seldom=number == 3)))
            assert await settled(aureus) == position, "asking changed something"
        differing = [
            (asked, position, answer, now)
            for position, told in then
            for asked, answer in told.items()
            if (now := await recorder.ask(asked, as_of=position)) != answer
        ]
        assert differing == []
        unanswered = {route.path for route in recorder.routes} - recorder.answered
        assert {path for path in unanswered if not path.startswith(NOT_IN_THIS_HISTORY)} == set()
        await what_has_no_past_refuses_as_of(aureus)
        await what_is_no_moment_is_refused(aureus)
        await a_moment_is_the_same_in_every_zone(aureus, then[1][0])
        await before_the_first_event_there_is_nothing(aureus)


def test_every_read_takes_as_of_or_says_why_it_has_no_past() -> None:
    assert {route.path for route in reads() if "as_of" not in parameters(route)} == set(NO_PAST)


async def what_has_no_past_refuses_as_of(aureus: Aureus) -> None:
    for path in NO_PAST.keys() - SCIM:
        concrete = path.replace("{place:path}", "000").replace("{size}", "1").replace("{level}", "0")
        answer = await aureus.get(concrete, EVE, as_of=1, **{"from": 1, "position": 1, "size": 1})
        details = refused(answer, 422, "invalid_parameter", field="as_of")
        assert details["remedy"], path


REFUSED: Final = (
    ("999999999999", "not beyond the ledger's end"),
    ("9999-01-01T00:00:00Z", "not later than now"),
    ("9" * 19, "a whole number of at most 18 digits"),
    *((text, MOMENT) for text in ("", "-1", "yesterday", "1e3", "٣", "2026-03-03T14:00:00", "2026-02-30", "20260303T140000Z")),
    *((text, MOMENT) for text in ("2026-06-30T23:59:60Z", "2026-03-03T25:00:00Z", "2026-W10-2", "2026-03-03T14:00:00+99:99")),
)


async def what_is_no_moment_is_refused(aureus: Aureus) -> None:
    for text, rule in REFUSED:
        for path in ("/v1/datasets", "/v1/datasets/people", "/v1/datasets/people/history", "/v1/ledger/events", "/v1/auth/me"):
            details = refused(await aureus.get(path, EVE, as_of=text), 422, "invalid_parameter", field="as_of", rule=rule)
            assert details["remedy"], text


async def a_moment_is_the_same_in_every_zone(aureus: Aureus, position: int) -> None:
    (event,) = await aureus.services.ledger.read(position - 1, 1)
    (following,) = await aureus.services.ledger.read(position, 1)
    assert event.at < following.at
    expected = (await aureus.get("/v1/datasets", EVE, as_of=position)).json()
    assert expected["items"]
    for hours in (0, 2, -5):
        moment = event.at.astimezone(timezone(timedelta(hours=hours))).isoformat()
        assert (await aureus.get("/v1/datasets", EVE, as_of=moment)).json() == expected
        unescaped = await aureus.http.get(f"/v1/datasets?as_of={moment}", headers=aureus._identity(EVE))
        assert unescaped.json() == expected
    at = event.at.strftime("%Y-%m-%d %H:%M:%S.%f+00:00")
    assert (await aureus.get("/v1/datasets", EVE, as_of=at)).json() == expected
    told = (await aureus.get("/v1/datasets/people/freshness", EVE, as_of=at)).json()
    assert told["dataset_id"] == "people"


async def before_the_first_event_there_is_nothing(aureus: Aureus) -> None:
    for moment in ("0", "1999-12-31T23:59:59Z", "2026-03-03", "0001-01-01T00:00:00+01:00"):
        page = (await aureus.get("/v1/datasets", EVE, as_of=moment)).json()
        assert page == {"items": [], "next_cursor": None, "position": 0}
        assert "at that time" in (await aureus.get("/v1/datasets/people", EVE, as_of=moment)).json()["error"]["message"]
        assert (await aureus.get("/v1/ledger/events", EVE, as_of=moment)).json() == {"items": [], "next_after": 0, "size": 0}
        refused(await aureus.get("/v1/auth/me", EVE, as_of=moment), 404, "actor_not_found", field="as_of")
