"""Sessions: logging in and out, refresh tokens that work once, and what else proves who somebody is - decided, and over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest

from api.authentication import Unauthenticated
from api.cli.profile import Profile, Token
from api.logging_in import COOKIE, open_session
from api.logging_in import refresh as refreshed
from api.services import deciders
from commands.path import CommandPath
from commands.sessions import (
    CREDENTIALS,
    REFRESH_LIFETIME,
    SESSION_LIFETIME_MAX,
    SESSIONS,
    ChangePassword,
    EndSession,
    EnrolSecondFactor,
    LogOut,
    OpenSession,
    RefreshSession,
    RemoveSecondFactor,
    SetPassword,
)
from domain.kernel import Asker
from domain.sessions import (
    KEEPER,
    PasswordChanged,
    PasswordSet,
    RefreshTokenReused,
    SecondFactorConfirmed,
    SecondFactorEnrolled,
    SecondFactorRemoved,
    SessionEnded,
    SessionOpened,
    SessionRefreshed,
)
from domain.values import ActorKind, Role
from infra.keystore import verify
from infra.opening import open_ledger
from infra.slowing import FREE_TRIES, FREE_TRIES_OF_LOGIN, TooManyFailures
from infra.token_settings import TokenSettings
from tests.given import ADMIN, ANALYST, APPROVER, AT, given
from tests.support.kernel import ADM
from tests.support.running import Aureus, running
from tests.support.typed import CommandLine, typed

ITSELF = Asker(KEEPER, "acme", frozenset({Role.ADMIN}), ActorKind.SERVICE)
ID = f"ses-{'0' * 32}"
FIRST, SECOND, THIRD = (character * 64 for character in "123")
OPENED = SessionOpened(
    session_id=ID,
    actor_id="usr-ana",
    method="password",
    refresh_sha256=FIRST,
    refresh_until=AT + REFRESH_LIFETIME,
    ends_at=AT + SESSION_LIFETIME_MAX,
)
REFRESHED = SessionRefreshed(session_id=ID, refresh_sha256=SECOND, refresh_until=AT + REFRESH_LIFETIME)
REUSED = RefreshTokenReused(session_id=ID, actor_id="usr-ana", reused_sha256=FIRST)
ENDED = SessionEnded(session_id=ID, actor_id="usr-ana", reason="ended")
ALLOW = """package aureus

import rego.v1

verdict := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""
PASSWORD = "correct horse battery"


def refresh(shown: str, fresh: str = THIRD) -> RefreshSession:
    return RefreshSession(session_id=ID, shown_sha256=shown, refresh_sha256=fresh)


class TestSessions:
    def test_one_is_opened_for_a_week_and_at_most_a_month(self) -> None:
        command = OpenSession(session_id=ID, actor_id="usr-ana", method="password", refresh_sha256=FIRST)
        given(SESSIONS).by(ITSELF).when(command).then(OPENED)
        given(SESSIONS, OPENED).by(ITSELF).when(command).refused("session_exists")

    def test_nobody_but_aureus_says_who_has_logged_in(self) -> None:
        command = OpenSession(session_id=ID, actor_id="usr-ana", method="password", refresh_sha256=FIRST)
        given(SESSIONS).by(ADMIN).when(command).refused("only_aureus_itself")
        given(SESSIONS, OPENED).by(ADMIN).when(refresh(FIRST)).refused("only_aureus_itself")
        given(SESSIONS, OPENED).by(ADMIN).when(LogOut(session_id=ID)).refused("only_aureus_itself")

    def test_a_refresh_token_works_once_and_shown_again_ends_the_session(self) -> None:
        given(SESSIONS, OPENED).by(ITSELF).when(refresh(FIRST, SECOND)).then(REFRESHED)
        given(SESSIONS, OPENED, REFRESHED).by(ITSELF).when(refresh(FIRST)).then(REUSED)
        for over in (REUSED, ENDED):
            given(SESSIONS, OPENED, REFRESHED, over).by(ITSELF).when(refresh(SECOND)).refused("session_over", field="refresh_token")
            given(SESSIONS, OPENED, REFRESHED, over).by(ITSELF).when(refresh(FIRST)).refused("session_over")

    def test_what_was_never_handed_out_changes_nothing(self) -> None:
        given(SESSIONS, OPENED).by(ITSELF).when(refresh(SECOND)).refused("refresh_token_unknown", field="refresh_token")
        given(SESSIONS).by(ITSELF).when(refresh(FIRST)).refused("session_not_found")

    def test_a_week_slides_and_a_month_does_not(self) -> None:
        day = timedelta(days=1)
        given(SESSIONS, OPENED).by(ITSELF).at(AT + REFRESH_LIFETIME).when(refresh(FIRST)).refused("refresh_token_expired")
        soon = SessionRefreshed(session_id=ID, refresh_sha256=THIRD, refresh_until=AT + 6 * day + REFRESH_LIFETIME)
        given(SESSIONS, OPENED).by(ITSELF).at(AT + 6 * day).when(refresh(FIRST)).then(soon)
        late = SessionRefreshed(session_id=ID, refresh_sha256=SECOND, refresh_until=OPENED.ends_at)
        last = SessionRefreshed(session_id=ID, refresh_sha256=THIRD, refresh_until=OPENED.ends_at)
        given(SESSIONS, OPENED, late).by(ITSELF).at(OPENED.ends_at - day).when(refresh(SECOND)).then(last)
        given(SESSIONS, OPENED, last).by(ITSELF).at(OPENED.ends_at).when(refresh(THIRD)).refused("refresh_token_expired")

    def test_its_owner_and_administrators_end_it_and_nobody_else(self) -> None:
        end = EndSession(session_id=ID)
        given(SESSIONS, OPENED).by(ANALYST).when(end).then(ENDED)
        given(SESSIONS, OPENED).by(ADMIN).when(end).then(ENDED)
        given(SESSIONS, OPENED, ENDED).by(ADMIN).when(end).then()
        given(SESSIONS, OPENED).by(APPROVER).when(end).refused("session_of_another", field="session_id")
        given(SESSIONS).by(ADMIN).when(end).refused("session_not_found")


class TestCredentials:
    def test_nobody_sets_their_own_password_without_the_old_one(self) -> None:
        given(CREDENTIALS).by(ADMIN).when(SetPassword(actor_id="usr-ana")).then(PasswordSet(actor_id="usr-ana", must_change=True))
        given(CREDENTIALS).by(ADMIN).when(SetPassword(actor_id="usr-adm")).refused("own_password", field="actor_id")

    def test_nobody_changes_that_of_another(self) -> None:
        change = ChangePassword(actor_id="usr-ana")
        given(CREDENTIALS).by(ANALYST).when(change).then(PasswordChanged(actor_id="usr-ana"))
        given(CREDENTIALS).by(ITSELF).when(change).then(PasswordChanged(actor_id="usr-ana"))
        given(CREDENTIALS).by(ADMIN).when(change).refused("credentials_of_another")
        given(CREDENTIALS).by(ADMIN).when(EnrolSecondFactor(actor_id="usr-ana")).refused("credentials_of_another")

    def test_a_second_factor_is_not_replaced_but_reset_by_another(self) -> None:
        enrolled, confirmed = SecondFactorEnrolled(actor_id="usr-ana"), SecondFactorConfirmed(actor_id="usr-ana", recovery_codes=10)
        enrol, remove = EnrolSecondFactor(actor_id="usr-ana"), RemoveSecondFactor(actor_id="usr-ana")
        given(CREDENTIALS, enrolled).by(ANALYST).when(enrol).then(enrolled)
        given(CREDENTIALS, enrolled, confirmed).by(ANALYST).when(enrol).refused("second_factor_exists")
        given(CREDENTIALS, enrolled, confirmed).by(ADMIN).when(remove).then(SecondFactorRemoved(actor_id="usr-ana"))
        given(CREDENTIALS, enrolled, confirmed).by(APPROVER).when(remove).refused("second_factor_of_another")
        given(CREDENTIALS).by(ADMIN).when(remove).refused("second_factor_missing")


# -- over HTTP


class Client:
    """Whoever logs in at a running Aureus."""

    def __init__(self, aureus: Aureus) -> None:
        self.aureus, self.http, self.services = aureus, aureus.http, aureus.services
        self._numbers = itertools.count(1)

    async def person(self, role: Role = Role.ANALYST) -> Asker:
        """Somebody new, whose login is the id without its prefix."""
        asker = Asker(f"usr-p{next(self._numbers)}", "acme", frozenset({role}))
        await self.aureus.know(asker)
        await self.services.passwords.set("acme", login_of(asker), asker.actor, PASSWORD)
        return asker

    async def log_in(self, who: Asker, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/auth/token", json={"login": login_of(who), "password": password, **more})

    async def session(self, who: Asker) -> dict[str, Any]:
        """Tokens of a new session."""
        return (await open_session(self.services, "acme", who.actor, "password")).model_dump()

    async def refresh(self, token: str) -> httpx.Response:
        return await self.http.post("/v1/auth/refresh", json={"refresh_token": token})

    async def post(self, path: str, token: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})

    async def me(self, token: str) -> int:
        self.services.authenticator.forget()  # what was true a second ago
        return (await self.http.get("/v1/auth/me", headers={"Authorization": f"Bearer {token}"})).status_code

    async def ledger(self) -> str:
        """Every byte that is signed."""
        size = (await self.services.ledger.refresh()).size
        return "".join(event.body.decode() for event in await self.services.ledger.entries(0, size))


def login_of(who: Asker) -> str:
    return who.actor.removeprefix("usr-")


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory, shared_database_url: str) -> AsyncIterator[Client]:
    settings = TokenSettings(second_factor_roles=frozenset({Role.APPROVER}))
    async with running(shared_database_url, tmp_path_factory.mktemp("aureus"), ALLOW, tokens=settings) as aureus:
        await aureus.know(ADM)
        yield Client(aureus)


@pytest.mark.anyio
class TestSessionsOverHttp:
    async def test_one_from_log_in_to_log_out(self, client: Client) -> None:
        ana = await client.person()
        first = (await client.log_in(ana)).json()
        assert (first["expires_in"], first["refresh_expires_in"], first["actor"]) == (900, 604_800, ana.actor)
        assert await client.me(first["access_token"]) == 200
        again = await client.refresh(first["refresh_token"])
        assert (again.status_code, again.headers["cache-control"]) == (200, "no-store")
        second = again.json()
        assert second["session"] == first["session"]
        assert second["refresh_token"] != first["refresh_token"]
        left = await client.http.post("/v1/auth/logout", json={"refresh_token": second["refresh_token"]})
        assert left.status_code == 204
        assert [await client.me(one["access_token"]) for one in (first, second)] == [401, 401]
        assert (await client.refresh(second["refresh_token"])).status_code == 401
        assert second["refresh_token"].rpartition("_")[2] not in await client.ledger()

    async def test_an_access_token_ends_its_own_session(self, client: Client) -> None:
        token = (await client.session(await client.person()))["access_token"]
        assert (await client.post("/v1/auth/logout", token)).status_code == 204
        assert await client.me(token) == 401

    async def test_a_refresh_token_shown_twice_ends_the_family_and_its_owner_is_told(self, client: Client) -> None:
        ana = await client.person()
        first = await client.session(ana)
        second = (await client.refresh(first["refresh_token"])).json()
        stolen = await client.refresh(first["refresh_token"])
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (401, "unauthenticated")
        assert (await client.refresh(second["refresh_token"])).status_code == 401
        await client.services.wait_for(client.services.ledger.head.size)
        assert await client.me(second["access_token"]) == 401
        told: list[Any] = []
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.05)  # nobody tells when a reaction is done
                told = (await client.aureus.get("/v1/notifications", ana)).json()["items"]
        assert [(one["kind"], one["about"]) for one in told] == [("refresh_token_reused", f"session:{first['session']}")]

    async def test_of_many_who_show_the_same_token_at_once_at_most_one_gets_another_and_the_family_ends(self, client: Client) -> None:
        first = await client.session(await client.person())
        answers = await asyncio.gather(*(client.refresh(first["refresh_token"]) for _ in range(6)))
        won = [answer.json() for answer in answers if answer.status_code == 200]
        assert len(won) <= 1
        for one in won:
            assert (await client.refresh(one["refresh_token"])).status_code == 401
        await client.services.wait_for((await client.services.ledger.refresh()).size)
        assert await client.me(first["access_token"]) == 401

    async def test_nor_do_two_processes_both_take_it(self, client: Client) -> None:
        services = client.services
        ledger = await open_ledger(services.dsn, services.keystore)
        try:
            another = replace(services, ledger=ledger, path=CommandPath(ledger, services.policy, deciders(), verify))
            for _ in range(3):
                first = await client.session(await client.person())
                token = first["refresh_token"]
                ended = await asyncio.gather(*(refreshed(each, token) for each in (services, another)), return_exceptions=True)
                assert len([one for one in ended if not isinstance(one, Unauthenticated)]) <= 1
                await services.wait_for((await services.ledger.refresh()).size)
                assert await client.me(first["access_token"]) == 401
        finally:
            await ledger.close()

    async def test_junk_leaves_no_trace_in_the_ledger(self, client: Client) -> None:
        opened = await client.session(await client.person())
        size = client.services.ledger.head.size
        forged = f"aurr_acme_{opened['session']}_{secrets.token_hex(32)}"
        for junk in (forged, f"aurr_acme_{ID}_{'0' * 64}", "aurr_", "x" * 900):
            assert (await client.refresh(junk)).status_code == 401
            assert (await client.http.post("/v1/auth/logout", json={"refresh_token": junk})).status_code == 401
        assert (await client.http.post("/v1/auth/logout")).status_code == 401
        assert client.services.ledger.head.size == size
        assert (await client.refresh(opened["refresh_token"])).status_code == 200

    async def test_everybody_sees_and_ends_their_own_and_administrators_anybodys(self, client: Client) -> None:
        ana, ben = await client.person(), await client.person()
        desk, phone, other, admin = [await client.session(who) for who in (ana, ana, ben, ADM)]
        listed = (await client.aureus.get("/v1/auth/sessions", ana)).json()["items"]
        assert {row["session_id"] for row in listed} == {desk["session"], phone["session"]}
        refused = await client.post(f"/v1/auth/sessions/{other['session']}/end", desk["access_token"])
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_of_another")
        assert (await client.post("/v1/auth/sessions/end", desk["access_token"], actor_id=ben.actor)).status_code == 403
        ended = await client.post("/v1/auth/sessions/end", desk["access_token"])
        assert ended.json() == {"sessions": [phone["session"]]}
        assert [await client.me(one["access_token"]) for one in (desk, phone, other)] == [200, 401, 200]
        assert (await client.post("/v1/auth/sessions/end", admin["access_token"], actor_id=ben.actor)).status_code == 200
        assert await client.me(other["access_token"]) == 401
        row = (await client.aureus.get(f"/v1/auth/sessions/{other['session']}", ADM)).json()
        assert (row["status"], row["ended_by"], row["end_reason"]) == ("ended", "usr-adm", "ended")
        assert (await client.aureus.get(f"/v1/auth/sessions/{other['session']}", ana)).status_code == 404

    async def test_a_leaver_s_are_over(self, client: Client) -> None:
        ana = await client.person()
        opened = await client.session(ana)
        left = await client.aureus.post(f"/v1/actors/{ana.actor}/offboard", {}, ADM)
        assert left.status_code == 200, left.text
        await client.services.wait_for(left.json()["position"])
        assert await client.me(opened["access_token"]) == 401
        assert (await client.refresh(opened["refresh_token"])).status_code == 401
        row: dict[str, Any] = {}
        async with asyncio.timeout(10):
            while row.get("status") != "ended":
                await asyncio.sleep(0.05)  # nobody tells when a reaction is done
                row = (await client.aureus.get(f"/v1/auth/sessions/{opened['session']}", ADM)).json()

    async def test_a_browser_keeps_it_where_no_script_and_no_other_site_reaches(self, client: Client) -> None:
        ana, ours = await client.person(), {"Origin": "http://aureus.test"}
        body = {"login": login_of(ana), "password": PASSWORD, "cookie": True}
        opened = await client.http.post("/v1/auth/token", json=body, headers=ours)
        assert opened.json()["refresh_token"] is None
        cookie = opened.headers["set-cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/v1/auth", "max-age=604800"))
        assert "secure" not in cookie
        elsewhere: tuple[dict[str, str], ...] = ({}, {"Origin": "http://evil.test"}, {"Origin": "null"})
        for origin in elsewhere:
            for path in ("refresh", "logout"):
                refused = await client.http.post(f"/v1/auth/{path}", headers=origin)
                assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_refused")
        again = await client.http.post("/v1/auth/refresh", headers=ours)
        assert (again.status_code, again.json()["refresh_token"]) == (200, None)
        assert (await client.http.post("/v1/auth/logout", headers=ours)).status_code == 204
        assert COOKIE not in client.http.cookies
        assert (await client.http.post("/v1/auth/token", json=body)).json()["error"]["code"] == "origin_refused"
        tls = await client.http.post("/v1/auth/token", json=body, headers={"Origin": "https://aureus.test"})
        assert "; secure" in tls.headers["set-cookie"].lower()


@pytest.mark.anyio
class TestPasswordsOverHttp:
    async def test_who_is_given_one_chooses_another_and_is_out_everywhere_else(self, client: Client) -> None:
        new = Asker("usr-new", "acme", frozenset({Role.ANALYST}))
        await client.aureus.know(new)
        admin = (await client.session(ADM))["access_token"]
        unnamed = await client.post("/v1/auth/passwords", admin, actor_id=new.actor)
        assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (409, "login_missing")
        given_to = await client.post("/v1/auth/passwords", admin, actor_id=new.actor, login="new")
        assert given_to.status_code == 201
        once = given_to.json()["password"]
        must = await client.log_in(new, once)
        assert (must.status_code, must.json()["error"]["code"]) == (403, "password_must_change")
        same = await client.log_in(new, once, new_password=once)
        assert (same.status_code, same.json()["error"]["code"]) == (409, "password_unchanged")
        desk = (await client.log_in(new, once, new_password=PASSWORD)).json()
        phone = await client.session(new)
        assert (await client.log_in(new, once)).status_code == 401
        path = "/v1/auth/password"
        wrong = await client.post(path, desk["access_token"], old_password=once, new_password="another sentence")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (403, "old_password_wrong")
        short = await client.post(path, desk["access_token"], old_password=PASSWORD, new_password="short")
        assert short.json()["error"]["details"]["field"] == "new_password"
        changed = await client.post(path, desk["access_token"], old_password=PASSWORD, new_password="another sentence")
        assert changed.status_code == 200
        assert [await client.me(one["access_token"]) for one in (desk, phone)] == [200, 401]
        written = await client.ledger()
        assert not [secret for secret in (once, PASSWORD, "another sentence", '"new"') if secret in written]

    async def test_a_login_is_one_actors_and_an_actor_has_one(self, client: Client) -> None:
        ana, ben = await client.person(), await client.person()
        admin = (await client.session(ADM))["access_token"]
        for body, code in (
            ({"actor_id": ana.actor, "login": login_of(ben)}, "login_exists"),
            ({"actor_id": "usr-nobody", "login": "nobody"}, "actor_not_found"),
            ({"actor_id": ADM.actor, "login": "adm"}, "own_password"),
        ):
            assert (await client.post("/v1/auth/passwords", admin, **body)).json()["error"]["code"] == code
        assert (await client.post("/v1/auth/passwords", (await client.session(ana))["access_token"], actor_id=ben.actor)).status_code == 403

    async def test_guessing_is_slowed_and_nobody_is_locked_out_for_good(self, client: Client) -> None:
        ana = await client.person()
        assert (await client.log_in(ana)).status_code == 200
        for _ in range(FREE_TRIES + 1):
            assert (await client.log_in(ana, "a wrong guess it is")).status_code == 401
        slowed = await client.log_in(ana)
        assert (slowed.status_code, slowed.json()["error"]["code"]) == (429, "logins_slowed")
        wait_seconds = int(slowed.headers["retry-after"])
        assert 1 <= wait_seconds <= 2
        told = (await client.aureus.get(f"/v1/auth/credentials/{ana.actor}", ADM)).json()
        assert told["slowed_at"] is not None
        await asyncio.sleep(wait_seconds)
        assert (await client.log_in(ana)).status_code == 200

    async def test_failures_elsewhere_do_not_slow_where_one_has_come_in_before(self, client: Client) -> None:
        slowing, where = client.services.slowing, "10.0.0.1"
        await slowing.forgive(await slowing.begin("acme", "boss", where))
        for number in range(FREE_TRIES_OF_LOGIN + 1):
            await slowing.begin("acme", "boss", f"10.9.{number % 250}.{number}")
        with pytest.raises(TooManyFailures):
            await slowing.begin("acme", "boss", "10.8.0.1")
        await slowing.begin("acme", "boss", where)

    async def test_many_tries_at_once_are_counted_before_any_is_looked_at(self, client: Client) -> None:
        tries = [client.services.slowing.begin("acme", "victim", "10.1.1.1") for _ in range(20)]
        ended = await asyncio.gather(*tries, return_exceptions=True)
        assert len([one for one in ended if not isinstance(one, TooManyFailures)]) == FREE_TRIES + 1


@pytest.mark.anyio
class TestSecondFactor:
    async def enrolled(self, client: Client, token: str) -> tuple[pyotp.TOTP, str, list[str]]:
        """A new second factor, the code that it was confirmed with, and its recovery codes."""
        secret = (await client.post("/v1/auth/totp", token)).json()["secret"]
        totp = pyotp.TOTP(secret)
        code = totp.at(time.time() - 30)
        answer = await client.post("/v1/auth/totp/confirm", token, code=code)
        assert answer.status_code == 200, answer.text
        written = await client.ledger()
        assert not [one for one in (secret, *answer.json()["recovery_codes"]) if one in written]
        return totp, code, answer.json()["recovery_codes"]

    async def test_each_login_takes_a_code_and_each_code_is_taken_once(self, client: Client) -> None:
        ana = await client.person()
        totp, shown, recovery = await self.enrolled(client, (await client.session(ana))["access_token"])
        needed = await client.log_in(ana)
        assert (needed.status_code, needed.json()["error"]["code"]) == (401, "second_factor_needed")
        assert (await client.log_in(ana, code=shown)).status_code == 401
        code = totp.now()
        at_once = await asyncio.gather(client.log_in(ana, code=code), client.log_in(ana, code=code))
        assert sorted(answer.status_code for answer in at_once) == [200, 401]
        recovered = [await client.log_in(ana, code=recovery[0].upper()) for _ in range(2)]
        assert [answer.status_code for answer in recovered] == [200, 401]
        rows = (await client.aureus.get("/v1/auth/sessions", ana)).json()["items"]
        assert {"password+totp", "password+recovery"} <= {row["method"] for row in rows}
        assert (await client.aureus.get(f"/v1/auth/credentials/{ana.actor}", ana)).json()["recovery_codes"] == 9

    async def test_it_is_given_up_with_a_code_or_reset_by_an_administrator(self, client: Client) -> None:
        ana = await client.person()
        token, admin = [(await client.session(who))["access_token"] for who in (ana, ADM)]
        _, _, recovery = await self.enrolled(client, token)
        for body in ({}, {"code": "000000"}):
            refused = await client.post("/v1/auth/totp/remove", token, **body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "code_wrong")
        assert (await client.post("/v1/auth/totp/remove", token, code=recovery[1])).status_code == 200
        assert (await client.log_in(ana)).status_code == 200
        await self.enrolled(client, token)
        assert (await client.post("/v1/auth/totp/remove", admin, actor_id=ana.actor)).status_code == 200
        assert await client.me(token) == 401
        assert (await client.log_in(ana)).status_code == 200

    async def test_who_needs_one_does_nothing_but_enrol_until_there_is_one(self, client: Client) -> None:
        approver = await client.person(Role.APPROVER)
        opened = (await client.log_in(approver)).json()
        assert opened["scopes"] == ["sessions"]
        token = opened["access_token"]
        done = await client.post("/v1/notifications/n-1/read", token)
        assert (done.status_code, done.json()["error"]["code"]) == (403, "scope_missing")
        totp, _, _ = await self.enrolled(client, token)
        assert (await client.log_in(approver, code=totp.now())).json()["scopes"] is None


@pytest.mark.anyio
class TestLastUsed:
    async def test_a_use_is_noted_once_a_minute_in_the_background_and_in_no_ledger(self, client: Client) -> None:
        size, used = client.services.ledger.head.size, client.services.last_used
        assert await used.of("acme", "api_key", "k1") is None
        used.note("acme", "api_key", "k1")
        first = await used.of("acme", "api_key", "k1")
        await used.flush()
        used.note("acme", "api_key", "k1")
        await used.flush()
        assert first is not None
        assert await used.of("acme", "api_key", "k1") == first
        assert await used.of("other", "api_key", "k1") is None
        assert client.services.ledger.head.size == size


@pytest.mark.anyio
async def test_the_command_line_stays_logged_in_by_itself_and_its_processes_take_turns(client: Client, tmp_path: Path) -> None:
    ana = await client.person()
    async with typed(client.aureus, tmp_path, ana) as command:
        environment = {name: value for name, value in command.environment.items() if name != "AUREUS_TOKEN"}
        aureus, profile = CommandLine(environment), Profile(tmp_path, environment["AUREUS_URL"])
        opened = await open_session(client.services, "acme", ana.actor, "password")
        profile.keep(
            Token("ana", opened.access_token, time.time(), ana.actor, ("analyst",), demo=False, refresh_token=opened.refresh_token)
        )
        profile.act_as("ana")
        told = await asyncio.gather(*(aureus.json("whoami") for _ in range(3)))
        assert {one["session"] for one in told} == {opened.session}
        assert oct((tmp_path / "cli.json").stat().st_mode & 0o777) == "0o600"
        (row,) = (await aureus.json("sessions", "list", "--status", "open"))["items"]
        assert row["session_id"] == opened.session
        await aureus("logout")
        assert profile.tokens() == []
    row = (await client.aureus.get(f"/v1/auth/sessions/{opened.session}", ana)).json()
    assert (row["status"], row["end_reason"]) == ("ended", "logout")
