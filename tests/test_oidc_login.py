"""Joiners and leavers of an identity provider: who becomes whom here, in which groups - and what browsers are not made to do."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from api.errors import ApiError
from api.joining import Joining, subject_digest
from api.oidc import ANSWER, LOGIN
from commands.access import LinkIdentity, OffboardActor, UnlinkIdentity
from commands.groups import AddMember, CreateGroup, MapRoles
from domain.access import PROVISIONING, ActorRegistered
from domain.actions import ActionBlocked
from domain.kernel import Command, Recorded
from domain.values import Role
from infra.oidc import LOGOUT_EVENT
from projections.access import actors, identities
from projections.groups import memberships
from tests.support.kernel import ADM, ANA, ask, everything
from tests.support.provider import LocalProvider, local_provider, place
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
ORIGIN = {"origin": "http://aureus.test"}
RULES = """package aureus

import rego.v1

verdict := {"outcome": "block", "results": [{"policy": "by_hand", "outcome": "block", "reason": "Not from afar."}]} if {
	input.action == "groups.add_member"
	"admin" in input.facts.granted_roles
} else := {"outcome": "allow", "results": [{"policy": "rest", "outcome": "allow"}]}
"""


@pytest.fixture(scope="module")
async def local() -> AsyncIterator[LocalProvider]:
    async with local_provider() as provider:
        yield provider


@pytest.fixture(scope="module")
async def aureus(local: LocalProvider, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aureus]:
    """One Aureus for all: every test has people of its own."""
    home = tmp_path_factory.mktemp("oidc")
    async with running(shared_database_url, home, RULES, oidc=place(local.issuer, public_url="http://aureus.test")) as started:
        await started.know(ADM, ANA)
        for group_id, name in (("grp-risk", "risk"), ("grp-audit", "audit")):
            await do(started, CreateGroup(group_id=group_id, label=name.title(), external_name=name))
        await do(started, CreateGroup(group_id="grp-own", label="Made here"))
        await do(started, CreateGroup(group_id="grp-closed", label="Closed", external_name="closed"))
        await do(started, MapRoles(group_id="grp-closed", mapped_roles=(Role.ADMIN,)))
        await do(started, MapRoles(group_id="grp-risk", mapped_roles=(Role.ANALYST,)))
        await do(started, MapRoles(group_id="grp-audit", mapped_roles=(Role.AUDITOR,)))
        yield started


async def do(aureus: Aureus, command: Command) -> None:
    outcome = await aureus.services.path.handle(ask(command, ADM))
    assert outcome.outcome == "allowed", outcome
    await aureus.services.wait_for(outcome.position)


@asynccontextmanager
async def browser(aureus: Aureus) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody's browser: it keeps its own cookies."""
    transport = aureus.http._transport
    async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test", headers=ORIGIN) as client:
        yield client


async def log_in(aureus: Aureus, local: LocalProvider, subject: str, **claims: Any) -> httpx.Response:
    """A whole login in a browser of its own."""
    async with browser(aureus) as http:
        url = (await http.get("/v1/auth/oidc/login")).json()["url"]
        await http.get("/v1/auth/oidc/callback", params=local.logs_in(url, subject, **claims))
        return await http.post("/v1/auth/oidc/session")


def code(answer: httpx.Response) -> str:
    told: str = answer.json()["error"]["code"]
    return told


async def me(aureus: Aureus, token: str) -> httpx.Response:
    aureus.services.authenticator.forget()
    return await aureus.http.get("/v1/auth/me", headers={"authorization": f"Bearer {token}"})


@contextmanager
def troubled(local: LocalProvider, trouble: str) -> Iterator[None]:
    local.trouble = trouble
    yield
    local.trouble = None


class TestJoiners:
    async def test_a_first_login_makes_an_actor_who_may_do_nothing_but_what_mapped_groups_give(
        self, aureus: Aureus, local: LocalProvider
    ) -> None:
        told = (await log_in(aureus, local, "ada", name="Ada", groups=["risk", "admins-of-everything"])).json()
        assert (told["tenant"], told["actor"][:4]) == ("acme", "usr-")
        assert (await me(aureus, told["access_token"])).json()["roles"] == ["analyst"]
        row = (await aureus.services.reads.many(actors, "acme", [told["actor"]]))[told["actor"]]
        assert row["roles"] == []

    async def test_nothing_of_a_name_stands_in_the_ledger(self, aureus: Aureus, local: LocalProvider) -> None:
        await log_in(aureus, local, "grace.hopper@bank.example", name="Grace Hopper")
        written = repr(await everything(aureus.services.ledger))
        assert subject_digest(local.issuer, "grace.hopper@bank.example") in written
        assert "grace" not in written.lower()

    async def test_groups_follow_the_provider_at_each_login_and_those_made_here_stay(self, aureus: Aureus, local: LocalProvider) -> None:
        first = (await log_in(aureus, local, "ben", groups=["risk"])).json()
        await do(aureus, AddMember(group_id="grp-own", actor_id=first["actor"]))
        second = (await log_in(aureus, local, "ben", groups=["audit"])).json()
        assert (await me(aureus, second["access_token"])).json()["roles"] == ["auditor"]
        assert (await me(aureus, first["access_token"])).json()["roles"] == ["auditor"]
        await log_in(aureus, local, "ben")
        assert (await me(aureus, first["access_token"])).status_code == 403
        row = (await aureus.services.reads.many(memberships, "acme", [first["actor"]]))[first["actor"]]
        assert row["groups"] == ["grp-own"]

    async def test_a_rule_that_keeps_somebody_out_of_a_group_keeps_them_out_of_that_alone(
        self, aureus: Aureus, local: LocalProvider
    ) -> None:
        told = (await log_in(aureus, local, "uma", groups=["closed", "risk"])).json()
        assert told["roles"] == ["analyst"]
        blocked = [one for one in await everything(aureus.services.ledger) if isinstance(one.event, ActionBlocked)]
        assert [(one.actor, one.event.code) for one in blocked] == [(PROVISIONING, "policy_blocked")]

    async def test_two_first_logins_at_once_make_one_actor(self, aureus: Aureus, local: LocalProvider) -> None:
        answers = await asyncio.gather(*(log_in(aureus, local, "cleo", groups=["risk"]) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        (actor,) = {answer.json()["actor"] for answer in answers}
        events: list[Recorded[Any]] = await everything(aureus.services.ledger)
        assert sum(isinstance(one.event, ActorRegistered) and one.event.actor_id == actor for one in events) == 1

    async def test_whoever_was_offboarded_does_not_come_back_by_logging_in(self, aureus: Aureus, local: LocalProvider) -> None:
        told = (await log_in(aureus, local, "dan", groups=["risk"])).json()
        await do(aureus, OffboardActor(actor_id=told["actor"]))
        assert (await me(aureus, told["access_token"])).status_code == 401
        again = await log_in(aureus, local, "dan", groups=["risk"])
        assert (again.status_code, code(again)) == (401, "unauthenticated")

    async def test_an_identity_that_was_linked_or_parted_by_hand_is_so_for_the_provider_too(
        self, aureus: Aureus, local: LocalProvider
    ) -> None:
        digest = subject_digest(local.issuer, "ana")
        await do(aureus, LinkIdentity(actor_id="usr-ana", issuer=local.issuer, subject_sha256=digest))
        assert (await log_in(aureus, local, "ana")).json()["actor"] == "usr-ana"
        await do(aureus, UnlinkIdentity(subject_sha256=digest))
        assert (await aureus.services.reads.many(identities, "acme", [digest]))[digest]["actor_id"] is None
        parted = await log_in(aureus, local, "ana")
        assert (parted.status_code, code(parted)) == (403, "identity_unlinked")

    @pytest.mark.parametrize(
        "claims",
        [{"groups": {"risk": True}}, {"groups": ["risk"] * 501}, {"_claim_names": {"groups": "src1"}}],
        ids=["map", "many", "overage"],
    )
    async def test_groups_that_are_not_told_whole_let_nobody_in(self, aureus: Aureus, local: LocalProvider, claims: dict[str, Any]) -> None:
        answer = await log_in(aureus, local, "eve", **claims)
        assert (answer.status_code, code(answer)) == (403, "groups_not_told")

    async def test_the_tenant_is_what_the_claim_names_and_never_the_ledgers_own(self, aureus: Aureus, local: LocalProvider) -> None:
        services = aureus.services
        of_claim = place(local.issuer, tenant_claim="org")
        joining = Joining(of_claim, "acme", services.path, services.reads, services.progress, services.scim)
        assert joining.tenant_of({"org": "globex"}) == "globex"
        for wrong in (None, "", "a b", "system", ["globex"], "x" * 201):
            with pytest.raises(ApiError) as caught:
                joining.tenant_of({"org": wrong})
            assert caught.value.code == "tenant_not_told", wrong


class TestBrowsers:
    async def test_an_answer_is_worth_nothing_in_another_browser(self, aureus: Aureus, local: LocalProvider) -> None:
        """Else a victim could be logged in as the attacker who sent them the link."""
        async with browser(aureus) as attacker, browser(aureus) as victim:
            url = (await attacker.get("/v1/auth/oidc/login")).json()["url"]
            answer = local.logs_in(url, "mallory")
            await victim.get("/v1/auth/oidc/callback", params=answer)
            assert code(await victim.post("/v1/auth/oidc/session")) == "login_not_begun"
            await victim.get("/v1/auth/oidc/login")
            assert code(await victim.post("/v1/auth/oidc/session")) == "login_of_another"

    async def test_an_answer_works_once(self, aureus: Aureus, local: LocalProvider) -> None:
        async with browser(aureus) as http:
            url = (await http.get("/v1/auth/oidc/login")).json()["url"]
            answer = local.logs_in(url, "fay")
            await http.get("/v1/auth/oidc/callback", params=answer)
            kept = {name: http.cookies[name] for name in (LOGIN, ANSWER)}
            assert (await http.post("/v1/auth/oidc/session")).status_code == 200
            assert code(await http.post("/v1/auth/oidc/session")) == "login_not_begun"
            http.cookies.update(kept)
            assert code(await http.post("/v1/auth/oidc/session")) == "login_expired"

    @pytest.mark.parametrize(
        ("changed", "refusal"),
        [
            ({"state": "another"}, "login_of_another"),
            ({"iss": "https://elsewhere.example"}, "login_of_another"),
            ({"code": "", "error": "access_denied"}, "login_refused_by_provider"),
        ],
    )
    async def test_an_answer_that_is_not_to_our_question_is_refused(
        self, aureus: Aureus, local: LocalProvider, changed: dict[str, str], refusal: str
    ) -> None:
        async with browser(aureus) as http:
            url = (await http.get("/v1/auth/oidc/login")).json()["url"]
            await http.get("/v1/auth/oidc/callback", params={**local.logs_in(url), **changed})
            assert code(await http.post("/v1/auth/oidc/session")) == refusal

    async def test_another_page_cannot_open_the_session(self, aureus: Aureus, local: LocalProvider) -> None:
        async with browser(aureus) as http:
            url = (await http.get("/v1/auth/oidc/login")).json()["url"]
            await http.get("/v1/auth/oidc/callback", params=local.logs_in(url))
            assert code(await http.post("/v1/auth/oidc/session", headers={"origin": "https://evil.example"})) == "origin_refused"

    async def test_a_login_leads_back_to_a_page_of_ours_and_nowhere_else(self, aureus: Aureus, local: LocalProvider) -> None:
        async with browser(aureus) as http:
            for elsewhere in (
                "https://evil.example",
                "//evil.example",
                "/\\evil.example",
                "@evil.example",
                ".evil.example",
                "#",
                "#/\r\nx: y",
            ):
                refused = await http.get("/v1/auth/oidc/login", params={"to": elsewhere})
                assert (refused.status_code, code(refused)) == (422, "return_elsewhere"), elsewhere
            sent = await http.get("/v1/auth/oidc/login", params={"to": "#/budgets?q=a"}, headers={"accept": "text/html"})
            assert sent.status_code == 303
            back = await http.get("/v1/auth/oidc/callback", params=local.logs_in(sent.headers["location"]))
            assert (back.status_code, back.headers["location"]) == (303, "/?welcome#/budgets?q=a")

    async def test_what_is_sent_to_the_provider_gives_the_secret_of_the_login_away_to_nobody(self, aureus: Aureus) -> None:
        async with browser(aureus) as http:
            asked = parse_qs(urlsplit((await http.get("/v1/auth/oidc/login")).json()["url"]).query)
            assert asked["code_challenge_method"] == ["S256"]
            assert http.cookies[LOGIN].split(".")[0] not in repr(asked)

    async def test_logging_out_leads_to_the_provider(self, aureus: Aureus, local: LocalProvider) -> None:
        async with browser(aureus) as http:
            url = (await http.get("/v1/auth/oidc/login")).json()["url"]
            await http.get("/v1/auth/oidc/callback", params=local.logs_in(url, "gus"))
            await http.post("/v1/auth/oidc/session")
            left = urlsplit((await http.get("/v1/auth/oidc/logout")).json()["url"])
            asked = parse_qs(left.query)
            assert asked["post_logout_redirect_uri"] == ["http://aureus.test/"]
            assert asked["id_token_hint"][0].count(".") == 2


class TestAccessTokens:
    async def test_one_of_the_providers_speaks_for_whoever_has_logged_in_before(self, aureus: Aureus, local: LocalProvider) -> None:
        assert (await me(aureus, local.access_token("hal"))).status_code == 401
        actor = (await log_in(aureus, local, "hal", groups=["risk"])).json()["actor"]
        assert (await me(aureus, local.access_token("hal"))).json()["actor"] == actor

    async def test_it_is_good_for_what_its_scope_names(self, aureus: Aureus, local: LocalProvider) -> None:
        await log_in(aureus, local, "ivy", groups=["risk"])
        limited = local.access_token("ivy", scope="openid aureus:read")
        assert (await me(aureus, limited)).status_code == 200
        body = {"budget_id": "eu", "amount_minor": 1}
        made = await aureus.http.post("/v1/budgets/eu/reserve", json=body, headers={"authorization": f"Bearer {limited}"})
        assert (made.status_code, code(made)) == (403, "scope_missing")
        assert (await me(aureus, local.access_token("ivy", scope="openid profile"))).status_code == 401

    async def test_forged_ones_and_id_tokens_are_not_believed(self, aureus: Aureus, local: LocalProvider) -> None:
        await log_in(aureus, local, "jon", groups=["risk"])
        for token in (
            local.signed(local.claims("jon")),
            local.access_token("jon", iss="https://elsewhere.example"),
            local.access_token("jon", audience="another"),
            local.access_token("jon", exp=1),
            local.access_token("jon") + "x",
            "x" * 1_000_000,
        ):
            assert (await me(aureus, token)).status_code == 401

    async def test_groups_follow_a_newer_token_and_never_an_older_one(self, aureus: Aureus, local: LocalProvider) -> None:
        old = local.access_token("kim", groups=["risk"])
        told = (await log_in(aureus, local, "kim", groups=["audit"])).json()
        assert (await me(aureus, old)).json()["roles"] == ["auditor"]
        newer = local.access_token("kim", groups=["risk"], iat=local.claims()["iat"] + 20)
        assert (await me(aureus, newer)).json()["roles"] == ["analyst"]
        assert (await me(aureus, told["access_token"])).json()["roles"] == ["analyst"]


class TestLeavers:
    async def test_a_logout_at_the_provider_ends_the_sessions_here(self, aureus: Aureus, local: LocalProvider) -> None:
        token = (await log_in(aureus, local, "lea", groups=["risk"])).json()["access_token"]
        assert (await me(aureus, token)).status_code == 200
        logout = local.signed(local.claims("lea", events={LOGOUT_EVENT: {}}, typ="Logout"))
        assert (await aureus.http.post("/v1/auth/oidc/backchannel-logout", data={"logout_token": logout})).status_code == 200
        assert (await me(aureus, token)).status_code == 401

    async def test_nobody_else_can_say_so(self, aureus: Aureus, local: LocalProvider) -> None:
        token = (await log_in(aureus, local, "mia", groups=["risk"])).json()["access_token"]
        for forged in (
            "",
            "x",
            local.signed(local.claims("mia")),
            local.signed(local.claims("mia", events={LOGOUT_EVENT: {}}, aud="other")),
        ):
            answer = await aureus.http.post("/v1/auth/oidc/backchannel-logout", data={"logout_token": forged})
            assert (answer.status_code, code(answer)) == (400, "logout_token_refused")
        too_long = await aureus.http.post("/v1/auth/oidc/backchannel-logout", content=b"x" * 100_000)
        assert too_long.status_code == 413
        assert (await me(aureus, token)).status_code == 200


class TestDevices:
    async def test_a_device_is_let_in_by_its_owner(self, aureus: Aureus, local: LocalProvider) -> None:
        shown = (await aureus.http.post("/v1/auth/oidc/device")).json()
        body = {"device_code": shown["device_code"]}
        waiting = await aureus.http.post("/v1/auth/oidc/device/session", json=body)
        assert (waiting.status_code, code(waiting)) == (409, "authorization_pending")
        local.lets_in(shown["device_code"], "nia", groups=["risk"])
        told = (await aureus.http.post("/v1/auth/oidc/device/session", json=body)).json()
        assert (await me(aureus, told["access_token"])).json()["roles"] == ["analyst"]
        assert code(await aureus.http.post("/v1/auth/oidc/device/session", json=body)) == "login_expired"


class TestProviderAway:
    @pytest.mark.parametrize("trouble", ["error", "garbage", "redirect"])
    async def test_sessions_go_on_and_new_logins_are_told_so(self, aureus: Aureus, local: LocalProvider, trouble: str) -> None:
        token = (await log_in(aureus, local, "oli", groups=["risk"])).json()["access_token"]
        async with browser(aureus) as http:
            url = (await http.get("/v1/auth/oidc/login")).json()["url"]
            await http.get("/v1/auth/oidc/callback", params=local.logs_in(url, "oli"))
            with troubled(local, trouble):
                refused = await http.post("/v1/auth/oidc/session")
                assert (refused.status_code, code(refused)) == (503, "provider_unreachable")
                assert refused.headers["retry-after"] == "5"
                assert "remedy" in refused.json()["error"]["details"]
                assert (await me(aureus, token)).status_code == 200
            assert (await http.post("/v1/auth/oidc/session")).status_code == 200


async def test_where_no_provider_is_set_up_nobody_is_sent_to_one(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path / "home") as aureus:
        assert (await aureus.http.get("/v1/auth/providers")).json() == {"password": True, "providers": []}
        for method, path in (("GET", "login"), ("GET", "callback"), ("POST", "session"), ("GET", "logout"), ("POST", "device")):
            answer = await aureus.http.request(method, f"/v1/auth/oidc/{path}", headers=ORIGIN)
            assert (answer.status_code, code(answer)) == (404, "provider_not_configured"), path
