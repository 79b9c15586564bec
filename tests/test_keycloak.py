"""Against a real Keycloak, in a real browser: joining, another group, new keys, leaving, a device, and a provider that goes away."""

import asyncio
import html
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.services import Services, open_services
from commands.groups import CreateGroup, MapRoles
from domain.kernel import Command
from domain.values import Role
from infra.oidc_fetching import ANSWER_SECONDS_MAX, RETRY_SECONDS
from infra.settings import Settings
from tests.browser import Page, chromium
from tests.support.kernel import ADM, ask
from tests.support.keycloak import Keycloak, keycloak

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def bank() -> Iterator[Keycloak]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with keycloak(f"http://127.0.0.1:{port}") as started:
        yield started


@dataclass(frozen=True)
class Served:
    """An Aureus under the address that the bank's Keycloak knows, with its groups mapped."""

    services: Services
    http: httpx.AsyncClient
    url: str

    async def do(self, command: Command) -> None:
        outcome = await self.services.path.handle(ask(command, ADM))
        assert outcome.outcome == "allowed", outcome
        await self.services.wait_for(outcome.position)

    async def me(self, token: str) -> httpx.Response:
        self.services.authenticator.forget()
        return await self.http.get("/v1/auth/me", headers={"authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
async def aureus(bank: Keycloak, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    url = bank.place.public_url
    home = tmp_path_factory.mktemp("aureus")
    settings = Settings(home=home, database_url=shared_database_url, tenant="acme", demo=False, oidc=bank.place)
    async with open_services(settings) as services:
        config = uvicorn.Config(create_app(services=services), port=int(url.rpartition(":")[2]), ws="none", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done(), serving
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            served = Served(services, http, url)
            for name, role in (("risk", Role.ANALYST), ("audit", Role.AUDITOR)):
                await served.do(CreateGroup(group_id=f"grp-{name}", label=name.title(), external_name=name))
                await served.do(MapRoles(group_id=f"grp-{name}", mapped_roles=(role,)))
            yield served
        server.should_exit = True
        await serving


class Person:
    """Somebody in front of a browser."""

    def __init__(self, page: Page, name: str) -> None:
        self.page, self.name = page, name

    async def press(self, label: str) -> None:
        button = f"[...document.querySelectorAll('button')].find((one) => one.innerText === {json.dumps(label)})"
        await self.page.until(button)
        await self.page.run(f"{button}.click()")

    async def fill_in(self) -> None:
        """The login page of the bank."""
        await self.page.until("document.querySelector('#kc-form-login, #kc-login')")
        await self.page.run(
            f"username.value = {json.dumps(self.name)}; password.value = {json.dumps(f'{self.name}-at-the-bank')}; "
            "document.querySelector('#kc-login').click()"
        )

    async def is_in(self, role: str) -> str:
        """Waits until the console shows the role; the access token of the session."""
        await self.page.until(f"document.querySelector('header .me')?.innerText.includes({json.dumps(role)})")
        return str(await self.page.run("import('/console/api.js').then((api) => api.session().access_token)"))


async def test_a_joiner_moves_to_another_group_and_logs_out(bank: Keycloak, aureus: Served, tmp_path: Path) -> None:
    async with chromium(tmp_path) as page:
        ada = Person(page, "ada")
        await page.open(f"{aureus.url}/#/budgets")
        await ada.press("Log in with the bank")
        await ada.fill_in()
        first = await ada.is_in("analyst")
        assert await page.run("location.href") == f"{aureus.url}/#/budgets"
        assert (await aureus.http.get("/v1/audit/events", headers={"authorization": f"Bearer {first}"})).status_code in (403, 404)

        bank.move("ada", into="audit", out_of="risk")
        await ada.press("Log out")
        await ada.press("Log in with the bank")
        await page.until("document.querySelector('#kc-login')")  # the session there has ended as well
        bank.rotate_keys()  # while she looks for her password
        await asyncio.sleep(RETRY_SECONDS)  # for unknown keys we look that often and no oftener
        await ada.fill_in()
        second = await ada.is_in("auditor")
        assert (await aureus.me(second)).json()["roles"] == ["auditor"]
        assert (await aureus.me(first)).status_code == 401
        assert page.complaints == []


async def test_whoever_is_logged_out_there_is_logged_out_here(bank: Keycloak, aureus: Served) -> None:
    token = (await log_in(aureus, "ben")).json()["access_token"]
    assert (await aureus.me(token)).json()["roles"] == ["auditor"]
    await asyncio.to_thread(lambda: bank.admin("POST", f"/users/{bank.user_id('ben')}/logout"))
    assert (await aureus.me(token)).status_code == 401


async def test_a_command_line_is_let_in_from_a_browser(aureus: Served, tmp_path: Path) -> None:
    environment = {**os.environ, "AUREUS_HOME": str(tmp_path / "cli"), "AUREUS_URL": aureus.url}
    command = [sys.executable, "-m", "api.cli", "--json", "login", "--device"]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
    where = re.search(r"Open (\S+) and see that it shows ([A-Z-]{9})", told)
    assert where is not None, told
    async with chromium(tmp_path) as page:
        await page.open(where[1])
        await Person(page, "ben").fill_in()
        await page.until("document.querySelector('#kc-login[name=accept]')")
        await page.run("document.querySelector('#kc-login[name=accept]').click()")
        out, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0
    asked = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api.cli", "--json", "whoami", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    me = json.loads((await asked.communicate())[0])
    assert (me["actor"], me["roles"]) == (json.loads(out)["actor"], ["auditor"])


async def test_tokens_of_another_application_speak_for_whoever_has_joined(bank: Keycloak, aureus: Served) -> None:
    tokens = {scope: await asyncio.to_thread(bank.access_token, "cleo", scope) for scope in ("aureus", "aureus:read", "")}
    assert {(await aureus.me(token)).status_code for token in tokens.values()} == {401}
    joined = (await log_in(aureus, "cleo")).json()
    assert joined["roles"] == []  # nobody mapped the canteen
    await asyncio.to_thread(bank.move, "cleo", into="risk", out_of="canteen")
    tokens = {scope: await asyncio.to_thread(bank.access_token, "cleo", scope) for scope in tokens}
    told = {scope: await aureus.me(token) for scope, token in tokens.items()}
    assert told["aureus"].json()["actor"] == told["aureus:read"].json()["actor"] == joined["actor"]
    assert told["aureus"].json()["roles"] == ["analyst"]
    assert told[""].status_code == 401
    refused = await aureus.http.post(
        "/v1/datasets",
        json={"dataset_id": "raw", "name": "Raw", "pii_level": "none", "jurisdiction": "EU"},
        headers={"authorization": f"Bearer {tokens['aureus:read']}"},
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_missing")


async def test_a_provider_that_hangs_or_is_gone_stops_new_logins_and_nothing_else(bank: Keycloak, aureus: Served) -> None:
    """The last test here: it leaves nothing of the provider."""
    token = (await log_in(aureus, "ada")).json()["access_token"]
    for go, seconds_max in ((bank.pause, ANSWER_SECONDS_MAX + 1), (bank.stop, 1.0)):
        async with httpx.AsyncClient(base_url=aureus.url, timeout=20, headers={"origin": aureus.url}) as browser:
            asked = parse_qs(urlsplit((await browser.get("/v1/auth/oidc/login")).json()["url"]).query)
            await browser.get("/v1/auth/oidc/callback", params={"code": "from-the-provider", "state": asked["state"][0]})
            go()
            began = time.monotonic()
            refused, mine = await asyncio.gather(browser.post("/v1/auth/oidc/session"), aureus.me(token))
            assert time.monotonic() - began < seconds_max
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "provider_unreachable")
            assert mine.status_code == 200


async def log_in(aureus: Served, name: str) -> httpx.Response:
    """As a browser does it, form by form."""
    async with httpx.AsyncClient(timeout=20) as browser:
        there = await browser.get((await browser.get(f"{aureus.url}/v1/auth/oidc/login")).json()["url"])
        form = re.search(r'action="([^"]+)"', there.text)
        assert form is not None, there.text
        for cookie in browser.cookies.jar:
            cookie.secure = False  # as browsers have it on their own machine
        back = await browser.post(html.unescape(form[1]), data={"username": name, "password": f"{name}-at-the-bank"})
        await browser.get(back.headers["location"])
        return await browser.post(f"{aureus.url}/v1/auth/oidc/session", headers={"origin": aureus.url})
