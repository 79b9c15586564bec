"""Who is let in where: every route for every role, for nobody, and for somebody who holds every role - in another tenant."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import APIRoute

from api.examples import EXAMPLES
from api.routing import PUBLIC
from commands.access import RegisterActor
from domain.kernel import Asker
from domain.values import ActorKind, Role
from tests.support.kernel import ADM, ask
from tests.support.running import Aureus, running
from tests.test_as_of_everywhere import BOT, EVE, Recorder, settled, stages
from tests.test_house import api_routes, named

pytestmark = pytest.mark.anyio

HOLDERS: Final = {
    role: Asker(
        f"{'agt' if role is Role.AGENT else 'usr'}-only-{role.value}",
        "acme",
        frozenset({role}),
        ActorKind.AGENT if role is Role.AGENT else ActorKind.PERSON,
        owner="usr-owner" if role is Role.AGENT else None,
    )
    for role in Role
}
"""Somebody who holds this role and no other."""
KNOWN: Final = {"ana": Role.ANALYST, "app": Role.APPROVER}
STRANGER: Final = Asker("usr-stranger", "globex", frozenset(Role) - {Role.AGENT})
"""Somebody who may do everything, elsewhere."""
ELSEWHERE: Final = re.compile(
    r"acme|people|leads|board|lake|pond|agt-bot|usr-(ana|app|adm|eve)|siem|daily|Everybody|grp-crew|churn|svc-dbt"
)
"""What only the first tenant has."""
OF_THE_WHOLE_SERVER: Final = {"/v1/audit-queries": "the queries that come with Aureus, which tell of people"}
"""Reads whose answer is the same for every tenant though it names another's, each with the reason."""
ECHOING: Final = {"/v1/why": "entity"}
"""Reads that say again what they were asked about, whether that is there or not, and the parameter that names it."""

OF_THEIR_OWN_ONLY: Final = {
    "GET /v1/could/{actor_id}": frozenset({Role.ADMIN, Role.AUDITOR}),
    "GET /v1/subjects/{subject_id}/values": frozenset({Role.ADMIN, Role.AUDITOR}),
}
"""Routes that everybody may ask about themselves, and who may ask about others, as is done here."""
BODIES: Final[dict[str, Any]] = {"POST /v1/archive/seal": {}}
"""Instead of the example, which is of a longer ledger."""


def requests_of(route: APIRoute) -> Iterator[tuple[str, str, Any]]:
    """(method, path, body) as the examples have them, with ids that nothing has where there is no example."""
    example = EXAMPLES.get(route.name, {})
    path = re.sub(r"{(\w+)(:\w+)?}", lambda found: str(example.get(found[1], "nobody-7")), route.path)
    body = {name: value for name, value in example.items() if f"{{{name}}}" not in route.path}
    for method in sorted(route.methods or ()):
        yield method, path, BODIES.get(f"{method} {route.path}", body) if method == "POST" else None


@pytest.fixture(scope="module")
async def aureus(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    async with running(postgres_url, tmp_path_factory.mktemp("matrix")) as started:
        await started.know(ADM, *HOLDERS.values())
        yield started


async def asked(aureus: Aureus, method: str, path: str, body: Any, by: Asker | None) -> httpx.Response:
    headers = aureus._identity(by) if by is not None else {}
    async with aureus.http.stream(method, path, headers=headers, json=body) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer
        await answer.aread()
    return answer


def code_of(answer: httpx.Response) -> str:
    """Why it was refused; "" for what was not. SCIM's error body has no room for a code: its 403 is that of a role."""
    if answer.status_code < 400:
        return ""
    told = answer.json()
    if "error" in told:
        return str(told["error"]["code"])
    return "role_missing" if told["status"] == "403" else ""


@pytest.mark.slow
async def test_every_route_lets_in_whom_its_rule_names_and_nobody_else(aureus: Aureus) -> None:
    wrong = []
    for route in api_routes():
        roles: frozenset[Role] = route.authorisation  # type: ignore[attr-defined]
        for method, path, body in requests_of(route):
            roles = OF_THEIR_OWN_ONLY.get(f"{method} {route.path}", roles)
            for role, holder in HOLDERS.items():
                if "feeds" in path and role in roles:
                    continue
                answer = await asked(aureus, method, path, body, holder)
                code = code_of(answer)
                # A public route may want another proof of who it is than an identity, such as a signature: PUBLIC_PATHS says which.
                let_in = code != "role_missing" and (roles == PUBLIC or answer.status_code != 401)
                if let_in is not (roles == PUBLIC or role in roles) or (not let_in and answer.status_code != 403):
                    wrong.append((role.value, named(route), answer.status_code, code))
    assert not wrong, "\n".join(map(str, wrong))


def told_of_others(path: str, query: dict[str, Any], text: str) -> bool:
    """Whether an answer names what the asker did not name themselves, and only the first tenant has."""
    echoed = str(query.get(ECHOING.get(path, ""), ""))
    return ELSEWHERE.search(re.sub(r'"(message|instance|request_id)":"[^"]*"', "", text).replace(echoed, "")) is not None


async def test_somebody_of_another_tenant_sees_nothing_of_this_one(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        await aureus.know(ADM, EVE, BOT, *(Asker(f"usr-{name}", "acme", frozenset({role})) for name, role in KNOWN.items()))
        register = RegisterActor(actor_id=STRANGER.actor, kind=STRANGER.kind, granted_roles=tuple(STRANGER.roles))
        await aureus.services.path.handle(ask(register, Asker("usr-root", STRANGER.tenant, frozenset({Role.ADMIN}))))
        async for _ in stages(aureus):
            pass
        await settled(aureus)
        recorder = Recorder(aureus)
        seen = {path: told for path, told in (await recorder.everything(seldom=False)).items() if told[0] == 200}
        assert len(seen) > 200
        told = []
        for path, query in seen:
            answer = await aureus.get(path, STRANGER, **dict(query))
            if path not in OF_THE_WHOLE_SERVER and told_of_others(path, dict(query), answer.text):
                told.append((path, query, answer.status_code, answer.text[:300]))
        assert told == []
