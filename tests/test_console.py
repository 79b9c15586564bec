"""The console: what is served and under which rules, and a walk through all of it in a real browser."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pyotp
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.app import create_app
from api.console import FILES, FOLDER, SECURITY_POLICY
from api.services import open_services
from infra.demo import DemoLogin, ensure_demo
from infra.settings import Settings
from tests.browser import Page, chromium

pytestmark = pytest.mark.anyio

SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.js"))}
PAGES = ("overview", "catalog", "approvals", "budgets", "audit", "changes", "ledger", "proofs")
ESCAPED = "<img src=x onerror=alert(1)>"
"""What somebody might call a dataset, if pages took text for markup."""


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The application without its services: the console is there before anything else is."""
    transport = httpx.ASGITransport(create_app(Settings(home=Path("unused"))))
    async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test") as client:
        yield client


async def test_every_file_is_served_under_the_security_policy(http: httpx.AsyncClient) -> None:
    for path in ("/", *(f"/console/{name}" for name in FILES)):
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert (await http.get("/")).headers["content-type"] == "text/html; charset=utf-8"
    assert (await http.get("/console/app.js")).headers["content-type"] == "text/javascript; charset=utf-8"


async def test_what_a_browser_has_already_is_not_sent_again(http: httpx.AsyncClient) -> None:
    first = await http.get("/console/app.js")
    again = await http.get("/console/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nope.js", "..%2fconsole.py", "%2e%2e%2fapp.py", "index.html%00"])
async def test_no_other_file_is_reached(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/console/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_the_policy_lets_nothing_in_from_elsewhere_and_no_script_or_style_in_line() -> None:
    assert "unsafe" not in SECURITY_POLICY
    assert SECURITY_POLICY.startswith("default-src 'none'; ")
    assert not re.search(r"https?:|\*|data:", SECURITY_POLICY)


def test_no_file_names_another_host() -> None:
    namespace = "http://www.w3.org/2000/svg"  # the name of a vocabulary, which nothing is fetched from
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace(namespace, "")
        assert not re.search(r"(https?:)?//\w+\.\w+|@import|url\(", text), path.name


def test_text_is_never_taken_for_markup() -> None:
    for name, script in SCRIPTS.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script), name
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)", page)


def called() -> Iterator[str]:
    """Every path of the API that a script names; `{}` stands for what is filled in."""
    for script in SCRIPTS.values():
        for path in re.findall(r"""["`](/v1/[^"`?\s]*)""", script):
            yield re.sub(r"\$\{[^}]*\}", "{}", path)


def test_every_path_the_scripts_name_is_a_route_of_the_api() -> None:
    app: FastAPI = create_app(Settings(home=Path("unused")))
    known = {re.sub(r"\{[^}]*\}", "{}", route.path) for route in app.routes if isinstance(route, APIRoute)}
    assert len(set(called())) > 15
    assert set(called()) - known == set()


@asynccontextmanager
async def served(home: Path, database_url: str) -> AsyncIterator[tuple[str, dict[str, DemoLogin]]]:
    """The address of a running Aureus, and its demo's logins."""
    async with open_services(Settings(home=home, database_url=database_url)) as services:
        demo = await ensure_demo(services)
        await services.wait_for(demo.position)
        server = uvicorn.Server(uvicorn.Config(create_app(services=services), port=0, ws="none", log_config=None))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done(), serving
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}", {login.login: login for login in demo.logins}
        finally:
            server.should_exit = True
            await serving


class Walker:
    """Somebody in front of the console."""

    def __init__(self, page: Page, address: str, logins: dict[str, DemoLogin]) -> None:
        self.page, self.address, self.logins = page, address, logins

    async def log_in(self, login: str, password: str | None = None) -> None:
        await self.page.open(f"{self.address}/")
        await self.page.until("document.querySelector('form.login, header button')")
        if not await self.page.run("Boolean(document.querySelector('form.login'))"):
            await self.page.run("[...document.querySelectorAll('header button')].at(-1).click()")
            await self.page.until("document.querySelector('form.login')")
        await self.fill("login", login)
        await self.fill("password", password or self.logins[login].password)
        await self.page.run("document.querySelector('form.login').requestSubmit()")

    async def fill(self, name: str, value: str) -> None:
        field = f"document.querySelector('[name={name}]')"
        await self.page.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")

    async def go(self, route: str) -> None:
        await self.page.run(f"location.hash = {json.dumps(f'#/{route}')}")
        await self.page.until("!document.querySelector('main').hasAttribute('aria-busy') && document.querySelector('h1')")

    async def sees(self, text: str, within: str = "body") -> None:
        await self.page.until(f"document.querySelector({json.dumps(within)})?.innerText.includes({json.dumps(text)})")

    async def press(self, label: str) -> None:
        buttons = f"[...document.querySelectorAll('button')].filter((one) => one.innerText === {json.dumps(label)})"
        await self.page.until(f"{buttons}.length")
        await self.page.run(f"{buttons}[0].click()")


async def prepare(address: str, logins: dict[str, DemoLogin]) -> int:
    """A budget with a promise on it, two datasets in line, one action refused and one that waits; answers where the ledger stood first."""
    async with httpx.AsyncClient(base_url=address) as http:

        async def post(login: str, path: str, **body: object) -> httpx.Response:
            told = await http.post("/v1/auth/token", json={"login": login, "password": logins[login].password})
            return await http.post(path, headers={"Authorization": f"Bearer {told.json()['access_token']}"}, json=body)

        opened = await post("admin", "/v1/budgets", budget_id="eu", label="Europe", currency="EUR", limit_minor=100_000)
        assert (await post("analyst", "/v1/budgets/eu/reserve", amount_minor=25_000)).status_code == 201
        assert (await post("analyst", "/v1/budgets/eu/reserve", amount_minor=90_000)).status_code == 409
        raw = {"dataset_id": "raw", "name": ESCAPED, "pii_level": "none", "jurisdiction": "EU"}
        assert (await post("analyst", "/v1/datasets", **raw)).status_code == 201
        made = {"dataset_id": "mart", "name": "Mart", "pii_level": "none", "jurisdiction": "EU", "upstreams": [{"dataset_id": "raw"}]}
        assert (await post("analyst", "/v1/datasets", **made)).status_code == 201
        people = {"dataset_id": "people", "name": "People", "pii_level": "high", "jurisdiction": "US"}
        assert (await post("analyst", "/v1/datasets", **people)).status_code == 202
        position: int = opened.json()["position"]
        return position


async def approve(address: str, logins: dict[str, DemoLogin]) -> None:
    """What waits is approved by the approver, elsewhere than in the browser."""
    async with httpx.AsyncClient(base_url=address) as http:
        told = await http.post("/v1/auth/token", json={"login": "approver", "password": logins["approver"].password})
        identity = {"Authorization": f"Bearer {told.json()['access_token']}"}
        (waiting,) = (await http.get("/v1/approvals", headers=identity, params={"status": "pending"})).json()["items"]
        answer = await http.post(f"/v1/approvals/{waiting['approval_id']}/approve", headers=identity, json={})
        assert answer.status_code == 200, answer.text


async def test_a_walk_through_the_console(tmp_path: Path, database_url: str) -> None:
    async with served(tmp_path, database_url) as (address, logins), chromium(tmp_path) as page:
        early = await prepare(address, logins)
        walker = Walker(page, address, logins)
        await every_page_fits(walker)
        await the_catalog_shows_data_as_text(walker)
        await what_changed_is_told(walker)
        await an_approval_is_refused_and_given(walker)
        await the_past_is_plain_to_see(walker, early)
        await a_session_outlives_the_page_and_no_script_can_read_it(walker)
        assert page.complaints == []
        assert [url for url in page.requested if not url.startswith((f"{address}/", "data:"))] == []


async def test_what_somebody_else_does_appears_without_reloading(tmp_path: Path, database_url: str) -> None:
    async with served(tmp_path, database_url) as (address, logins), chromium(tmp_path) as page:
        walker = Walker(page, address, logins)
        await walker.log_in("approver")
        await walker.go("approvals")
        await walker.sees("Nothing waits for a decision.")
        await prepare(address, logins)
        await walker.sees("catalog.register_dataset", ".approval h3")
        await walker.go("overview")
        await walker.page.until("document.querySelector('.figure')")
        await walker.go("audit?actor_id=" + await walker.page.run("import('/console/api.js').then((api) => api.session().actor)"))
        await walker.sees("No action matches.")
        await approve(address, logins)
        await walker.page.until("document.querySelector('tbody tr')?.innerText.includes('approvals.approve_request')")
        await walker.go("approvals")
        await walker.sees("Nothing waits for a decision.")
        assert page.complaints == []


async def every_page_fits(walker: Walker) -> None:
    await walker.log_in("auditor", "not the password")
    await walker.sees("unauthenticated")
    await walker.log_in("auditor")
    for width in (1_280, 420):
        await walker.page.size(width, 800)
        for name in PAGES:
            await walker.go(name)
            await walker.page.run("document.querySelectorAll('main details').forEach((one) => (one.open = true))")
            await asyncio.sleep(0.2)
            assert await walker.page.run("document.documentElement.scrollWidth <= innerWidth"), (name, width)
            assert await walker.page.run("document.querySelectorAll('.refusal').length") == 0, await walker.page.text()
    await walker.go("overview")
    await walker.sees("up to date")
    await walker.go("budgets")
    await walker.sees("€250.00")
    await walker.go("audit?outcome=blocked")
    await walker.sees("budget_exceeded")
    await walker.page.run("document.querySelector('td a').click()")
    await walker.press("Hash the entry here")
    await walker.sees("The entry's bytes hash to this leaf.")


async def the_catalog_shows_data_as_text(walker: Walker) -> None:
    await walker.go("catalog")
    await walker.fill("q", "mart")
    await walker.page.until("document.querySelectorAll('tbody tr').length === 1")
    await walker.go("catalog/mart")
    await walker.sees("dataset_registered", "main")
    await walker.page.until("document.querySelectorAll('svg.lineage .node').length === 2")
    await walker.go("catalog/raw")
    await walker.sees(ESCAPED, "h1")


async def what_changed_is_told(walker: Walker) -> None:
    await walker.go("changes?from=0&context=budgets")
    await walker.sees("reservations budgets", "main")
    await walker.sees("budgets.funds_reserved", "main")
    await walker.go("changes?from=999999")
    await walker.sees("The ledger ends at position", ".refusal")
    await walker.go("changes?from=10&to=2")
    await walker.sees("Swap them", ".refusal")
    await walker.go("changes")
    await walker.fill("of", "mart")
    await walker.press("Show its timeline")
    await walker.sees("dataset mart", "h1")
    await walker.sees("datasets mart added", "main")


async def an_approval_is_refused_and_given(walker: Walker) -> None:
    await walker.log_in("analyst")
    await walker.go("approvals")
    await walker.sees("Somebody else decides on what you asked for.")
    await walker.log_in("viewer")
    await walker.go("approvals")
    await walker.press("Approve")
    await walker.sees("Request ", ".refusal")
    await walker.log_in("approver")
    await walker.go("approvals")
    await walker.press("Reject")
    await walker.sees("comment_required", ".refusal")
    await walker.fill("comment", "Fine by me.")
    await walker.press("Approve")
    await walker.sees("Done: it is approved.")


async def a_session_outlives_the_page_and_no_script_can_read_it(walker: Walker) -> None:
    await walker.log_in("viewer")
    await walker.sees("viewer", "header .me")
    await walker.page.call("Page.reload")
    await walker.sees("viewer", "header .me")
    kept = await walker.page.run("JSON.stringify([document.cookie, {...sessionStorage}, {...localStorage}])")
    assert not re.search(r"aurr_|eyJ", kept), kept
    token = await walker.page.run("import('/console/api.js').then((api) => api.session().access_token)")
    async with httpx.AsyncClient(base_url=walker.address, headers={"Authorization": f"Bearer {token}"}) as http:
        totp = pyotp.TOTP((await http.post("/v1/auth/totp")).json()["secret"])
        await http.post("/v1/auth/totp/confirm", json={"code": totp.at(time.time() - 30)})
        await walker.log_in("viewer")
        await walker.sees("second_factor_needed")
        assert (await http.get("/v1/auth/me")).status_code == 401  # to log out ends the session at the server
    await walker.fill("code", totp.now())
    await walker.page.run("document.querySelector('form.login').requestSubmit()")
    await walker.sees("viewer", "header .me")


async def the_past_is_plain_to_see(walker: Walker, position: int) -> None:
    await walker.page.run("document.querySelector('.asof').open = true")
    await walker.fill("position", "999999")
    await walker.press("Look")
    await walker.sees("The ledger ends at position")
    await walker.fill("position", str(position))
    await walker.press("Look")
    await walker.sees(f"as it stood at position {position}", "#moment")
    await walker.sees("Nothing waits for a decision.")
    await walker.go("budgets")
    await walker.sees("€0.00")
    await walker.go("catalog")
    await walker.sees("No dataset matches.")
    await walker.go("overview")
    await walker.go("ledger")
    await walker.page.until(f"document.querySelector('.events .position').innerText === '{position}'")
    await walker.press("Return to the present")
    await walker.page.until("!document.body.classList.contains('past') && !document.querySelector('#moment').innerText")
