"""Logging in over HTTP: the demo's cast, tokens, and API keys from issue to revocation, against everything real."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import psycopg
import pytest

from api.app import create_app
from api.authentication import Unauthenticated
from api.errors import ApiError
from api.logging_in import Credentials, log_in
from api.services import Services, open_services
from infra.demo import Demo, ensure_demo
from infra.first_login import let_in
from infra.settings import Settings, SettingsError
from infra.token_settings import TokenSettings
from projections.access import actors

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def aureus(home: Path, database_url: str) -> AsyncIterator[Services]:
    async with open_services(Settings(home=home, database_url=database_url)) as services:
        yield services


class Client:
    """A client of one running Aureus with its demo."""

    def __init__(self, http: httpx.AsyncClient, services: Services, demo: Demo) -> None:
        self.http, self.services, self.demo = http, services, demo
        self.logins = {login.login: login for login in demo.logins}

    async def log_in(self, login: str, password: str | None = None) -> httpx.Response:
        body = {"login": login, "password": password or self.logins[login].password}
        return await self.http.post("/v1/auth/token", json=body)

    async def as_(self, login: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {(await self.log_in(login)).json()['access_token']}"}

    async def post(self, path: str, headers: dict[str, str], **body: object) -> httpx.Response:
        """A command; what it changed is seen by the next request."""
        answer = await self.http.post(path, headers=headers, json=body)
        if answer.is_success:
            await self.services.wait_for(answer.json()["position"])
            self.services.authenticator.forget()
        return answer


@pytest.fixture
async def client(tmp_path: Path, database_url: str) -> AsyncIterator[Client]:
    async with aureus(tmp_path, database_url) as services:
        demo = await ensure_demo(services)
        await services.wait_for(demo.position)
        app = create_app(services=services)
        app.state.services = services
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test") as http:
            yield Client(http, services, demo)


async def test_every_login_of_the_demo_gets_a_token_for_its_role(client: Client) -> None:
    for login in client.demo.logins:
        answer = await client.log_in(login.login)
        assert answer.status_code == 200
        token = answer.json()
        assert (token["token_type"], token["expires_in"], token["tenant"]) == ("bearer", 900, "demo")
        assert (token["actor"], tuple(token["roles"])) == (login.actor, login.roles)
        me = await client.http.get("/v1/auth/me", headers={"Authorization": f"Bearer {token['access_token']}"})
        assert me.json()["actor"] == login.actor
    agent = await client.http.get("/v1/auth/me", headers=await client.as_("agent"))
    assert (agent.json()["kind"], agent.json()["owner"]) == ("agent", client.logins["analyst"].actor)


async def test_every_refusal_of_an_identity_looks_the_same(client: Client) -> None:
    answers = [
        await client.log_in("admin", "not the password"),
        await client.log_in("nobody", "not the password"),
        await client.log_in("nul\0", "not the password"),
        await client.http.get("/v1/auth/me"),
        await client.http.get("/v1/auth/me", headers={"Authorization": "Bearer e30.e30.e30"}),
        await client.http.get("/v1/auth/me", headers={"X-API-Key": "aur_demo_k1k1k1k1_" + "0" * 64}),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    errors = [answer.json()["error"] for answer in answers]
    assert {(error["code"], error["message"], json.dumps(error["details"])) for error in errors} == {
        ("unauthenticated", errors[0]["message"], json.dumps(errors[0]["details"]))
    }


async def test_what_is_no_login_is_named(client: Client) -> None:
    bodies: tuple[object, ...] = (
        {},
        {"login": "admin"},
        {"login": "", "password": "x"},
        {"login": "a", "password": "x" * 1_025},
        {"x": 1},
        [],
    )
    for body in bodies:
        answer = await client.http.post("/v1/auth/token", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed")


async def test_an_api_key_from_issue_to_revocation(client: Client) -> None:
    analyst, agent = await client.as_("analyst"), client.logins["agent"].actor
    issued = await client.post("/v1/api-keys", analyst, actor_id=agent, label="nightly run")
    assert issued.status_code == 201
    key = {"X-API-Key": issued.json()["api_key"]}
    assert (await client.http.get("/v1/auth/me", headers=key)).json()["actor"] == agent
    assert (
        issued.json()["api_key"].rpartition("_")[2] not in (await client.http.get("/v1/api-keys", headers=await client.as_("admin"))).text
    )
    revoked = await client.post(f"/v1/api-keys/{issued.json()['key_id']}/revoke", analyst, actor_id=agent)
    assert revoked.status_code == 200
    assert (await client.http.get("/v1/auth/me", headers=key)).status_code == 401


async def test_an_administrator_cannot_get_hold_of_another_person_s_key(client: Client) -> None:
    answer = await client.post("/v1/api-keys", await client.as_("admin"), actor_id=client.logins["approver"].actor, label="mine now")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "api_key_of_another")


async def test_a_suspended_actor_is_out_at_once_and_cannot_come_in_again(client: Client) -> None:
    admin, viewer = await client.as_("admin"), await client.as_("viewer")
    path = f"/v1/actors/{client.logins['viewer'].actor}"
    assert (await client.post(f"{path}/suspend", admin)).status_code == 200
    assert (await client.http.get("/v1/auth/me", headers=viewer)).status_code == 401
    assert (await client.log_in("viewer")).status_code == 401
    assert (await client.post(f"{path}/reinstate", admin)).status_code == 200
    assert (await client.http.get("/v1/auth/me", headers=viewer)).status_code == 200


async def test_changed_roles_hold_at_once_under_the_old_token(client: Client) -> None:
    viewer = await client.as_("viewer")
    body = {"actor_id": "usr-new", "kind": "person", "granted_roles": ["viewer"]}
    refused = await client.post("/v1/actors", viewer, **body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "role_missing")
    changed = await client.post(f"/v1/actors/{client.logins['viewer'].actor}/roles", await client.as_("admin"), granted_roles=["admin"])
    assert changed.status_code == 200
    assert (await client.post("/v1/actors", viewer, **body)).status_code == 201


async def test_a_name_is_neither_answered_nor_listed(client: Client) -> None:
    admin = await client.as_("admin")
    made = await client.post("/v1/actors", admin, actor_id="usr-new", kind="person", granted_roles=["viewer"], display_name="Ana Lee")
    assert made.status_code == 201
    listed = await client.http.get("/v1/actors?q=usr-new", headers=admin)
    assert [row["actor_id"] for row in listed.json()["items"]] == ["usr-new"]
    assert "Ana Lee" not in made.text + listed.text


async def test_the_demo_is_made_once_and_completed_when_its_start_was_killed(tmp_path: Path, database_url: str) -> None:
    async with aureus(tmp_path, database_url) as services:
        first = await ensure_demo(services)
        assert first.fresh
        assert services.settings.demo_logins_file.stat().st_mode & 0o777 == 0o600
        size = services.ledger.head.size
        again = await ensure_demo(services)
        assert (again.logins, again.fresh, services.ledger.head.size) == (first.logins, False, size)
        with psycopg.connect(database_url) as connection:
            connection.execute("DELETE FROM access_private.passwords WHERE login IN ('admin', 'viewer')")
        await ensure_demo(services)
        admin = next(login for login in first.logins if login.login == "admin")
        assert await services.passwords.check("demo", "admin", admin.password) == admin.actor
        assert services.ledger.head.size == size
        await services.wait_for(first.position)
        assert (await services.reads.many(actors, "demo", [admin.actor]))[admin.actor]["registered_by"] == "svc-bootstrap"


async def test_without_the_demo_the_first_administrator_is_made_on_the_server(tmp_path: Path, database_url: str) -> None:
    async with aureus(tmp_path, database_url) as services:
        first = await let_in(services, "root")
        with pytest.raises(ApiError) as must_change:
            await log_in(services, Credentials(login="root", password=first.password), "")
        assert must_change.value.code == "password_must_change"
        tokens = await log_in(services, Credentials(login="root", password=first.password, new_password="correct horse battery"), "")
        assert (tokens.actor, tokens.roles) == (first.actor, ["admin"])
        with pytest.raises(SettingsError, match="there is an administrator already"):
            await let_in(services, "mallory")
        again = await let_in(services, "root")
        assert again.actor == first.actor
        with pytest.raises(Unauthenticated):
            await log_in(services, Credentials(login="root", password="correct horse battery"), "")
        off = replace(services, settings=replace(services.settings, tokens=TokenSettings(passwords=False)))
        with pytest.raises(ApiError) as refused:
            await log_in(off, Credentials(login="root", password=again.password), "")
        assert (refused.value.status, refused.value.code) == (403, "passwords_off")
        with pytest.raises(SettingsError, match="nobody logs in with a password"):
            await let_in(off, "root")


async def test_a_spoilt_or_open_file_of_demo_logins_is_refused(tmp_path: Path, database_url: str) -> None:
    async with aureus(tmp_path, database_url) as services:
        await services.wait_for((await ensure_demo(services)).position)
        file = services.settings.demo_logins_file
        for text in ("", "[{}]", "{", "[1]"):
            file.write_text(text)
            with pytest.raises(SettingsError, match="is not what Aureus wrote"):
                await ensure_demo(services)
        file.chmod(0o644)
        with pytest.raises(SettingsError, match="open to other accounts"):
            await ensure_demo(services)


async def test_a_repeated_request_for_a_key_issues_no_second_one(client: Client) -> None:
    analyst = {**await client.as_("analyst"), "Idempotency-Key": "once"}
    wanted = {"actor_id": client.logins["analyst"].actor, "label": "laptop"}
    assert (await client.post("/v1/api-keys", analyst, **wanted)).status_code == 201
    again = await client.post("/v1/api-keys", analyst, **wanted)
    assert again.status_code == 409
    listed = await client.http.get("/v1/api-keys", headers=await client.as_("admin"))
    assert [row["label"] for row in listed.json()["items"]] == ["laptop"]
