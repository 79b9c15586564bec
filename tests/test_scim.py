"""SCIM: what identity providers really send creates, changes and ends accounts here - and nothing personal reaches a signed byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given as holds_for
from hypothesis import strategies as st
from scim2_client import BaseSyncSCIMClient
from scim2_models import Context, PatchOp
from scim2_tester import Status, check_server

from api.joining import Joining
from api.scim_shapes import LENIENT, User
from domain.kernel import Asker
from domain.values import ActorKind, Role
from infra.oidc_settings import OidcPlace
from tests.support.kernel import ADM, ANA
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
PATCH = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
IDP = Asker("svc-idp", "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE, owner="usr-adm")


class Provider:
    """An identity provider: it has one API key, which it sends as a bearer token."""

    def __init__(self, aureus: Aureus, key: str) -> None:
        self.aureus, self.headers = aureus, {"Authorization": f"Bearer {key}", "Content-Type": "application/scim+json"}

    async def send(
        self, method: str, path: str, body: Any = None, /, *, headers: dict[str, str] | None = None, **query: str
    ) -> httpx.Response:
        sent = {**self.headers, **(headers or {})}
        return await self.aureus.http.request(method, f"/scim/v2{path}", json=body, headers=sent, params=query or None)

    async def done(self, method: str, path: str, body: Any = None, /, status: int = 200, **query: str) -> dict[str, Any]:
        answer = await self.send(method, path, body, headers=None, **query)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/scim+json"
        told: dict[str, Any] = answer.json()
        return told

    async def joiner(self, user_name: str, **more: Any) -> str:
        body = {"schemas": [USER], "userName": user_name, "active": True, **more}
        return str((await self.done("POST", "/Users", body, status=201))["id"])

    async def group(self, name: str, *members: str) -> str:
        body = {"schemas": [GROUP], "displayName": name, "members": [{"value": each} for each in members]}
        return str((await self.done("POST", "/Groups", body, status=201))["id"])

    async def patch(self, path: str, *operations: dict[str, Any], status: int = 200) -> dict[str, Any]:
        return await self.done("PATCH", path, {"schemas": [PATCH], "Operations": list(operations)}, status=status)

    async def members(self, group_id: str) -> set[str]:
        return {each["value"] for each in (await self.done("GET", f"/Groups/{group_id}")).get("members", ())}


@asynccontextmanager
async def providing(dsn: str, home: Path) -> AsyncIterator[Provider]:
    async with running(dsn, home) as aureus:
        await aureus.know(ADM, ANA, IDP)
        yield Provider(aureus, await key_of(aureus, ["scim"]))


async def key_of(aureus: Aureus, scopes: list[str]) -> str:
    issued = await aureus.post("/v1/api-keys", {"actor_id": IDP.actor, "label": "Directory", "scopes": scopes}, ADM)
    assert issued.status_code == 201, issued.text
    await aureus.services.wait_for(issued.json()["position"])
    return str(issued.json()["api_key"])


@asynccontextmanager
async def providing_beside(first: Provider) -> AsyncIterator[Provider]:
    """The same provider, speaking with another process of the same deployment."""
    settings = first.aureus.services.settings
    async with running(first.aureus.services.dsn, settings.home, reacting=False) as aureus:
        yield Provider(aureus, first.headers["Authorization"].removeprefix("Bearer "))


@pytest.fixture(scope="module")
async def provider(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    """One deployment for all of these tests: each has people of its own."""
    async with providing(shared_database_url, tmp_path_factory.mktemp("aureus")) as opened:
        yield opened


class Checking(BaseSyncSCIMClient):
    """Carries what a SCIM client in another thread asks into this one's event loop."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._directory, self._loop = provider, loop

    def _stays_under_base_url(self, endpoint: str) -> bool:
        return endpoint.startswith("/")

    def _parse_json(self, response: Any) -> Any:
        return response.json()

    def request(self, method: str, url: str, **kwargs: Any) -> Any:
        sent = self._directory.aureus.http.request(
            method, f"/scim/v2{url}", **{**kwargs, "headers": {**kwargs.get("headers", {}), **self._directory.headers}}
        )
        return asyncio.run_coroutine_threadsafe(sent, self._loop).result(timeout=30)


ACTIVE_STAYS = "check_remove_attribute: PATCH modify() did not remove attribute 'active'"
"""Whether somebody may act is never left unsaid: to remove `active` changes nothing."""


@pytest.mark.slow
async def test_a_client_that_we_did_not_write_finds_no_fault(provider: Provider) -> None:
    client = Checking(provider, asyncio.get_running_loop())
    results = await asyncio.to_thread(check_server, client)
    faults = [f"{result.title}: {result.reason}" for result in results if result.status in {Status.ERROR, Status.CRITICAL}]
    assert faults == [ACTIVE_STAYS]
    assert sum(result.status == Status.SUCCESS for result in results) > 60


async def test_entra_provisions_a_person_from_the_first_day_to_the_last(provider: Provider) -> None:
    """The requests that Microsoft documents for Entra ID, in its order and with its peculiarities."""
    assert (await provider.done("GET", "/Users", filter='userName eq "ana.berg@bank.example"'))["totalResults"] == 0
    created = await provider.done("POST", "/Users", ENTRA_USER, status=201)
    assert (created["userName"], created["active"], created["externalId"]) == (
        "Ana.Berg@bank.example",
        True,
        "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef",
    )
    assert "department" not in str(created), "what is not declared is not kept"
    user_id = created["id"]
    found = await provider.done("GET", "/Users", filter='userName eq "ana.berg@BANK.example"')
    assert [each["id"] for each in found["Resources"]] == [user_id], "whatever the case it is written in"
    changed = await provider.patch(
        f"/Users/{user_id}",
        {"op": "Replace", "path": 'emails[type eq "work"].value', "value": "ana.holm@bank.example"},
        {"op": "Add", "path": 'emails[type eq "home"].value', "value": "ana@home.example"},
        {"op": "Replace", "path": "name.familyName", "value": "Holm"},
        {"op": "Replace", "path": f"{ENTERPRISE}:department", "value": "Risk"},
        {"op": "Replace", "path": 'phoneNumbers[type eq "mobile"].value', "value": "1"},
    )
    assert changed["name"]["familyName"] == "Holm"
    assert {each["type"]: each["value"] for each in changed["emails"]} == {"work": "ana.holm@bank.example", "home": "ana@home.example"}
    gone = await provider.patch(f"/Users/{user_id}", {"op": "Replace", "path": "active", "value": "False"})
    assert gone["active"] is False
    assert (await provider.patch(f"/Users/{user_id}", {"op": "Replace", "path": "active", "value": True}))["active"] is True
    assert (await provider.send("DELETE", f"/Users/{user_id}")).status_code == 204
    assert (await provider.send("GET", f"/Users/{user_id}")).status_code == 404
    assert (await provider.done("GET", "/Users", filter='externalId eq "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef"'))["totalResults"] == 0
    events = [each.event.event_name for each in await provider.aureus.services.ledger.read_stream("acme", f"actor:{user_id}")]
    assert events == [f"access.actor_{each}" for each in ("registered", "suspended", "reinstated", "offboarded")]


async def test_okta_provisions_people_and_pushes_groups(provider: Provider) -> None:
    """Okta replaces people whole, deactivates them in a value without a path, and names a group's id in its value."""
    everybody = 'userName co "@okta.example"'
    page = await provider.done("GET", "/Users", filter=everybody, count="2", startIndex="1")
    assert (page["totalResults"], page["itemsPerPage"], page["startIndex"]) == (0, 0, 1)
    people = [await provider.joiner(f"{name}@okta.example") for name in ("ana", "ben", "cem")]
    body = {"schemas": [USER], "id": people[0], "userName": "ana@okta.example", "name": {"givenName": "Ana"}, "active": True, "groups": []}
    assert (await provider.done("PUT", f"/Users/{people[0]}", body))["name"] == {"givenName": "Ana"}
    second = await provider.done("GET", "/Users", filter=everybody, count="2", startIndex="3")
    assert (second["totalResults"], [each["id"] for each in second["Resources"]]) == (3, people[2:])
    group_id = await provider.group("Risk", *people[:2])
    assert await provider.members(group_id) == set(people[:2])
    renamed = await provider.patch(f"/Groups/{group_id}", {"op": "replace", "value": {"id": group_id, "displayName": "Risk EU"}})
    assert renamed["displayName"] == "Risk EU"
    await provider.patch(f"/Groups/{group_id}", {"op": "remove", "path": f'members[value eq "{people[0]}"]'})
    await provider.patch(f"/Groups/{group_id}", {"op": "Remove", "path": "members", "value": [{"value": people[1]}]})
    await provider.patch(f"/Groups/{group_id}", {"op": "add", "path": "members", "value": [{"value": people[2], "display": "cem"}]})
    assert await provider.members(group_id) == {people[2]}
    await provider.patch(f"/Groups/{group_id}", {"op": "replace", "path": "members", "value": [{"value": people[0]}]})
    assert await provider.members(group_id) == {people[0]}
    listed = await provider.done("GET", "/Groups", filter='displayName eq "Risk EU"', excludedAttributes="members")
    assert [each["id"] for each in listed["Resources"]] == [group_id]
    assert "members" not in listed["Resources"][0]
    assert (await provider.patch(f"/Users/{people[0]}", {"op": "replace", "value": {"active": False}}))["active"] is False
    assert (await provider.send("DELETE", f"/Groups/{group_id}")).status_code == 204
    assert (await provider.send("GET", f"/Groups/{group_id}")).status_code == 404


async def test_a_group_that_was_prepared_for_the_provider_becomes_its_own(provider: Provider) -> None:
    """Roles are mapped before anybody is in it; Entra ID calls it by an id of its own, in SCIM as in its tokens."""
    aureus, entra_id = provider.aureus, "8aa5d6a6-7a9c-4b1d-9a55-1f2f0f6c1f10"
    prepared = await aureus.post("/v1/groups", {"group_id": "grp-credit", "label": "Credit", "external_name": entra_id}, ADM)
    assert prepared.status_code == 201, prepared.text
    await aureus.services.wait_for(prepared.json()["position"])
    assert (await provider.send("GET", "/Groups/grp-credit")).status_code == 404, "nobody else's group is the provider's"
    ana = await provider.joiner("ana@credit.example")
    body = {"schemas": [GROUP], "displayName": "Credit EU", "externalId": entra_id, "members": [{"value": ana}]}
    created = await provider.done("POST", "/Groups", body, status=201)
    assert (created["id"], created["displayName"], created["externalId"]) == ("grp-credit", "Credit EU", entra_id)
    assert await provider.members("grp-credit") == {ana}
    row = (await aureus.get("/v1/groups/grp-credit", ADM)).json()
    assert (row["label"], row["external_name"]) == ("Credit EU", entra_id)
    assert (await provider.done("POST", "/Groups", body, status=409))["scimType"] == "uniqueness"


async def test_a_ring_of_groups_is_refused_and_nothing_is_changed(provider: Provider) -> None:
    ana = await provider.joiner("ana@ring.example")
    inner = await provider.group("Inner")
    middle = await provider.group("Middle", inner)
    outer = await provider.group("Outer", middle)
    size = provider.aureus.services.ledger.head.size
    refused = await provider.patch(
        f"/Groups/{inner}", {"op": "add", "path": "members", "value": [{"value": ana}, {"value": outer}]}, status=400
    )
    assert (refused["scimType"], refused["status"]) == ("invalidValue", "400")
    assert f"{outer} > {middle} > {inner}" in refused["detail"]
    unknown = await provider.patch(f"/Groups/{inner}", {"op": "add", "path": "members", "value": [{"value": "usr-nobody"}]}, status=400)
    assert "usr-nobody" in unknown["detail"]
    itself = {"schemas": [GROUP], "displayName": "Inner", "members": [{"value": inner}]}
    assert (await provider.done("PUT", f"/Groups/{inner}", itself, status=400))["scimType"] == "invalidValue"
    assert await provider.members(inner) == set()
    assert provider.aureus.services.ledger.head.size == size, "not one of the members that would have been possible"


REFUSED: list[tuple[str, str, Any, int, str | None]] = [
    ("POST", "/Users", {"schemas": [USER]}, 400, "invalidValue"),
    ("POST", "/Users", {"schemas": [USER], "userName": "BEN@refused.example"}, 409, "uniqueness"),
    ("POST", "/Users", None, 400, "invalidSyntax"),
    ("POST", "/Users", ["no object"], 400, "invalidSyntax"),
    ("PUT", "/Users/{ana}", {"schemas": [USER], "userName": "ben@refused.example"}, 409, "uniqueness"),
    ("PATCH", "/Users/{ana}", {"schemas": [PATCH], "Operations": [{"op": "shift", "path": "active"}]}, 400, "invalidValue"),
    ("PATCH", "/Users/{ana}", {"schemas": [PATCH], "Operations": [{"op": "remove"}]}, 400, "noTarget"),
    ("PATCH", "/Users/{ana}", {"schemas": [PATCH], "Operations": [{"op": "remove", "path": "userName"}]}, 400, "mutability"),
    ("PATCH", "/Users/{ana}", {"schemas": [PATCH], "Operations": [{"op": "replace", "path": "id", "value": "x"}]}, 400, "mutability"),
    ("GET", "/Users?filter=userName%20is%20nobody", None, 400, "invalidFilter"),
    ("GET", "/Users/usr-nobody", None, 404, None),
    ("DELETE", "/Users/usr-ana", None, 404, None),
    ("POST", "/Bulk", {}, 501, None),
]


async def test_what_is_refused_says_so_in_the_words_of_scim(provider: Provider) -> None:
    ana = await provider.joiner("ana@refused.example")
    await provider.joiner("ben@refused.example")
    for method, path, body, status, scim_type in REFUSED:
        refused = await provider.done(method, path.format(ana=ana), body, status=status)
        assert refused["schemas"] == ["urn:ietf:params:scim:api:messages:2.0:Error"]
        assert (refused["status"], refused.get("scimType")) == (str(status), scim_type), (method, path, body)
        assert refused["detail"]


async def test_a_change_of_what_was_changed_meanwhile_is_refused(provider: Provider) -> None:
    ana = await provider.joiner("ana@change.example", displayName="Ana")
    read = await provider.send("GET", f"/Users/{ana}")
    etag = read.headers["etag"]
    assert read.json()["meta"]["version"] == etag
    assert (await provider.send("GET", f"/Users/{ana}", headers={"If-None-Match": etag})).status_code == 304
    body = {"schemas": [USER], "userName": "ana@change.example", "displayName": "Ana Berg"}
    assert (await provider.send("PUT", f"/Users/{ana}", body, headers={"If-Match": etag})).status_code == 200
    late = await provider.send("PUT", f"/Users/{ana}", {**body, "displayName": "Anna"}, headers={"If-Match": etag})
    assert (late.status_code, late.json()["status"]) == (412, "412")
    assert (await provider.done("GET", f"/Users/{ana}"))["displayName"] == "Ana Berg"


async def test_nobody_else_provisions(provider: Provider) -> None:
    aureus = provider.aureus
    other = Provider(aureus, await key_of(aureus, ["catalog", "read"]))
    assert (await other.send("GET", "/Users")).status_code == 403, "a key for something else"
    for asker, status in ((ADM, 200), (ANA, 403)):
        assert (await aureus.get("/scim/v2/Users", asker)).status_code == status
    assert (await aureus.http.get("/scim/v2/Users")).status_code == 401
    assert (await aureus.http.get("/v1/actors", headers=provider.headers)).status_code == 403, "nor is its key good for anything else"


async def test_the_ledger_and_the_tables_hold_no_name_and_an_erasure_takes_the_rest(provider: Provider) -> None:
    ana = await provider.joiner(
        "ana.berg@erased.example", name={"familyName": "Bergerased"}, displayName="Ana Bergerased", externalId="ext-17"
    )
    services = provider.aureus.services
    written = b"".join(event.body for event in await services.ledger.entries(0, 1_000))
    async with await psycopg.AsyncConnection.connect(services.dsn, autocommit=True) as connection:
        kept = str(await (await connection.execute("SELECT * FROM scim_private.users WHERE actor_id = %s", (ana,))).fetchall()).encode()
        for personal in (b"ana.berg@erased", b"Bergerased", b"ext-17"):
            assert personal not in written
            assert personal not in kept
        assert await services.scim.actor_of_user_name("acme", "ANA.Berg@erased.example") == ana
        erased = await provider.aureus.post(f"/v1/subjects/{ana}/erase", {"ground": "other"}, ADM)
        assert erased.status_code == 201, erased.text
        for _ in range(500):
            if not await (await connection.execute("SELECT 1 FROM scim_private.users WHERE actor_id = %s", (ana,))).fetchall():
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("what was kept of them is still there")
    assert await services.scim.actor_of_user_name("acme", "ana.berg@erased.example") is None
    assert (await provider.send("GET", f"/Users/{ana}")).status_code == 404


async def test_a_first_login_is_the_person_whom_the_provider_sent_before(provider: Provider) -> None:
    services = provider.aureus.services
    place = OidcPlace(issuer="https://id.bank.example", client_id="aureus", public_url="https://aureus.bank.example")
    joining = Joining(place, "acme", services.path, services.reads, services.progress, services.scim)
    ana = await provider.joiner("ana@login.example")
    claims = {"iss": place.issuer, "sub": "1", "preferred_username": "Ana@login.example", "groups": []}
    assert await joining.admit(claims) == ("acme", ana)
    assert await joining.admit(claims) == ("acme", ana), "known by now"
    namesake = await joining.admit({**claims, "sub": "2"})
    assert namesake[1] != ana, "a name that was given to somebody else is not the person"
    unverified = await joining.admit({"iss": place.issuer, "sub": "3", "email": "ana@login.example", "groups": []})
    assert unverified[1] not in {ana, namesake[1]}


async def test_who_was_stopped_half_way_goes_on_with_the_same_person(provider: Provider) -> None:
    scim = provider.aureus.services.scim
    async with scim.alone("acme") as changes:
        await changes.reserve("usr-1a2b3c", {"userName": "ana@again.example"})
    assert (await provider.send("GET", "/Users/usr-1a2b3c")).status_code == 404, "nobody the ledger does not know"
    assert await provider.joiner("ana@again.example") == "usr-1a2b3c"


async def test_two_processes_create_one_person_once(provider: Provider) -> None:
    async with providing_beside(provider) as beside:
        body = {"schemas": [USER], "userName": "ana@twice.example"}
        answers = await asyncio.gather(*(each.send("POST", "/Users", body) for each in (provider, beside) * 3))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]
        assert (await beside.done("GET", "/Users", filter='userName eq "ana@twice.example"'))["totalResults"] == 1


OPERATIONS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"op": st.sampled_from(["add", "replace"]), "path": st.just("displayName"), "value": st.sampled_from("abc")}),
        st.just({"op": "remove", "path": "displayName"}),
        st.fixed_dictionaries(
            {"op": st.sampled_from(["add", "replace"]), "value": st.fixed_dictionaries({"displayName": st.sampled_from("abc")})}
        ),
        st.fixed_dictionaries({"op": st.just("replace"), "path": st.just("active"), "value": st.booleans()}),
    ),
    min_size=1,
    max_size=6,
)


@holds_for(OPERATIONS)
def test_a_patch_is_its_operations_one_after_another(operations: list[dict[str, Any]]) -> None:
    whole, stepwise = (User(id="usr-1", user_name="ana", active=True) for _ in range(2))
    expected: dict[str, Any] = {"displayName": None, "active": True}
    _patch(whole, operations)
    for operation in operations:
        _patch(stepwise, [operation])
        path, value = operation.get("path"), operation.get("value")
        said: dict[str, Any] = {path: value} if path is not None else value or {}
        expected |= said
    assert whole == stepwise
    assert {"displayName": whole.display_name, "active": whole.active} == expected


def _patch(user: User, operations: list[dict[str, Any]]) -> None:
    body = {"schemas": [PATCH], "Operations": operations}
    PatchOp[User].model_validate(body, scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=LENIENT).patch(user, LENIENT)


ENTRA_USER = {
    "schemas": [USER, ENTERPRISE],
    "externalId": "0a21f0f2-8d2a-4f8e-bf98-7363c4aed4ef",
    "userName": "Ana.Berg@bank.example",
    "active": True,
    "emails": [{"primary": True, "type": "work", "value": "ana.berg@bank.example"}],
    "meta": {"resourceType": "User"},
    "name": {"formatted": "Ana Berg", "familyName": "Berg", "givenName": "Ana"},
    "roles": [],
    "title": "Analyst",
    ENTERPRISE: {"department": "Credit", "employeeNumber": "17"},
}
