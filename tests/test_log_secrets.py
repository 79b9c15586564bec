"""A server that logs all it can, asked for everything that takes or makes a secret: none of it, and nobody's data, is in its log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pyotp
import pytest

from api.services import open_services
from bench.servers import free_port
from infra.demo import ensure_demo
from infra.settings import Settings
from tests.test_logs import Said, served

pytestmark = pytest.mark.anyio
SECRET_NAMES: Final = ("access_token", "refresh_token", "api_key", "key", "secret", "password", "uri", "provisioning_uri", "recovery_codes")
PERSONAL: Final = ("Erika Mustermann", "erika@mustermann.example", "+49 170 5550123")


@dataclass
class Conversation:
    """A client that remembers every secret it was given, and how its requests were answered."""

    http: httpx.Client
    secrets: set[str] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)

    def ask(self, method: str, path: str, body: Any = None, token: str = "", **headers: str) -> Any:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        answer = self.http.request(method, path, json=body, headers=headers)
        self.statuses.add(answer.status_code)
        told = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        self.secrets.update(_secrets(told))
        return told

    def made_up(self) -> str:
        """A secret of the caller's own, that the server has to refuse."""
        secret = f"mine-{uuid4().hex}"
        self.secrets.add(secret)
        return secret


def _secrets(told: Any, name: str = "") -> Iterator[str]:
    match told:
        case dict():
            for each, value in told.items():
                yield from _secrets(value, each)
        case list():
            for value in told:
                yield from _secrets(value, name)
        case str() if name in SECRET_NAMES:
            yield told


def logged_in_and_out(talk: Conversation, login: str, password: str) -> str:
    """Logins right and wrong, refreshes once and twice, a password changed, a second factor, and all of it in the wrong places."""
    talk.secrets.add(password)
    token: str = talk.ask("POST", "/v1/auth/token", {"login": login, "password": password})["access_token"]
    talk.ask("POST", "/v1/auth/token", {"login": login, "password": talk.made_up()})
    talk.ask("POST", "/v1/auth/token", {"login": talk.made_up(), "password": password, "code": "123456"})
    talk.ask("POST", "/v1/auth/token", {"login": login, "passwort": password, "otp": talk.made_up()})
    other = talk.ask("POST", "/v1/auth/token", {"login": login, "password": password})
    talk.ask("POST", "/v1/auth/refresh", {"refresh_token": other["refresh_token"]})
    talk.ask("POST", "/v1/auth/refresh", {"refresh_token": other["refresh_token"]})
    talk.ask("POST", "/v1/auth/refresh", {"refresh_token": talk.made_up()})
    talk.ask("POST", "/v1/auth/logout", {"refresh_token": other["refresh_token"]})
    enrolled = talk.ask("POST", "/v1/auth/totp", {}, token)
    code = pyotp.TOTP(enrolled["secret"]).now()
    talk.ask("POST", "/v1/auth/totp/confirm", {"code": code}, token)
    talk.ask("POST", "/v1/auth/totp/remove", {"code": "000000"}, token)
    talk.ask("GET", f"/v1/budgets?access_token={token}&api_key={talk.made_up()}&q={PERSONAL[1]}", None, token)
    talk.ask("GET", f"/v1/budgets/{talk.made_up()}", None, token)
    talk.ask("GET", "/v1/auth/me", None, talk.made_up())
    return token


def asked_with_keys_and_hooks(talk: Conversation, token: str, actor: str) -> None:
    issued = talk.ask("POST", "/v1/api-keys", {"actor_id": actor, "label": PERSONAL[0]}, token)
    talk.http.get("/v1/budgets", headers={"X-API-Key": issued.get("api_key", "none")})
    talk.http.get("/v1/budgets", headers={"X-API-Key": f"aur_demo_k1a2b3c4_{uuid4().hex * 2}"})
    talk.ask("POST", "/v1/webhooks", {"webhook_id": "siem", "url": "https://siem.example.org/in"}, token)
    talk.ask("POST", "/v1/webhooks", {"webhook_id": "bad", "url": f"https://user:{talk.made_up()}@siem.example.org/in"}, token)
    talk.ask("POST", "/v1/hooks", {"hook_id": "airflow", "actor_id": actor}, token)
    talk.ask("POST", "/v1/hooks/airflow", {"secret": talk.made_up()}, "", **{"X-Signature": talk.made_up()})
    talk.ask("POST", "/scim/v2/Users", {"userName": PERSONAL[1], "displayName": PERSONAL[0]}, token)
    talk.ask("POST", "/scim/v2/Users", {"userName": PERSONAL[1], "password": talk.made_up()}, talk.made_up())


def asked_about_people(talk: Conversation, token: str) -> None:
    for name in PERSONAL:
        talk.ask("POST", "/v1/budgets", {"budget_id": name, "label": 7, "currency": name}, token)
        talk.ask("POST", "/v1/budgets", {"budget_id": "b" + uuid4().hex[:6], "label": name, "currency": "EUR", "limit_minor": 1}, token)
    subject = {"subject_id": "sub-erika", "kind": "customer", "label": PERSONAL[0], "jurisdiction": "EU", "name": PERSONAL[0]}
    talk.ask("POST", "/v1/subjects", subject, token)
    talk.ask("GET", "/v1/subjects/sub-erika/values", None, token)
    talk.ask("GET", f"/v1/timeline/subject/{PERSONAL[1]}", None, token)
    talk.ask("POST", "/v1/budgets", "\0", token, **{"Aureus-Reason": "mustermann", "Idempotency-Key": talk.made_up()})


async def test_whatever_is_asked_no_secret_and_nobody_s_data_is_logged(database_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with open_services(Settings(home, database_url=database_url), run_projections=False) as services:
        logins = {login.login: login for login in (await ensure_demo(services)).logins}
    port, log = free_port(), tmp_path / "stderr"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AUREUS_", "OTEL_"))}
    environment |= {"AUREUS_HOME": str(home), "AUREUS_PORT": str(port), "DATABASE_URL": database_url, "AUREUS_DEMO": "off"}
    environment |= {"AUREUS_ACCESS_LOG": "on", "AUREUS_LOG_LEVEL": "debug"}
    talk = Conversation(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))

    def conversed() -> Said:
        admin = logins["admin"]
        with talk.http:
            token = logged_in_and_out(talk, admin.login, admin.password)
            actor = talk.ask("GET", "/v1/auth/me", None, token).get("actor", "nobody")
            asked_with_keys_and_hooks(talk, token, actor)
            asked_about_people(talk, token)
        return None  # type: ignore[return-value]

    await asyncio.to_thread(served, environment, log, conversed)
    text = log.read_text().lower()
    assert "aureus.access" in text
    assert len(talk.secrets) > 20
    assert {200, 201, 401, 404, 409, 422} <= talk.statuses
    found = [secret for secret in (*talk.secrets, *PERSONAL, "mustermann") if secret.lower() in text]
    assert found == [], [line for line in text.splitlines() if any(secret.lower() in line for secret in found)][:5]
