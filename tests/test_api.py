"""The API's manners, over everything real: who may ask, what is refused and how, how lists page, and reading the past."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from api.errors import ErrorBody
from api.services import Services, open_services
from infra.demo import ensure_demo
from infra.keystore import FileSigner
from infra.settings import Settings
from projections.budgets import budgets
from tests.support.running import CALM
from tests.test_house import PUBLIC_PATHS, api_routes

pytestmark = pytest.mark.anyio
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
NUMBERS = count(1)


@dataclass
class Api:
    """A client of one running Aureus, for each login of its demo."""

    http: httpx.AsyncClient
    services: Services
    tokens: dict[str, str]

    def headers(self, login: str = "admin") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[login]}"}

    async def get(self, path: str, login: str = "admin", /, **parameters: Any) -> httpx.Response:
        """A read."""
        return await self.http.get(path, headers=self.headers(login), params=parameters)

    async def post(self, path: str, body: Any = None, login: str = "admin", **headers: str) -> httpx.Response:
        """A command; `body` may be the raw bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, headers={**self.headers(login), **named}, content=content)

    async def opened(self, limit_minor: int = 1_000, prefix: str = "b") -> tuple[str, dict[str, Any]]:
        """A new budget, as the read models know it already, and the answer to the command that opened it."""
        budget_id = f"{prefix}{next(NUMBERS):04d}"
        body = {"budget_id": budget_id, "label": budget_id, "currency": "EUR", "limit_minor": limit_minor}
        answer = await self.post("/v1/budgets", body)
        assert answer.status_code == 201, answer.text
        await self.services.wait_for(answer.json()["position"])
        return budget_id, answer.json()


@pytest.fixture(scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Api]:
    async with open_services(Settings(home=tmp_path_factory.mktemp("home"), **CALM)) as services:
        demo = await ensure_demo(services)
        await services.wait_for(demo.position)
        app = create_app(services=services)
        app.state.services = services
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://aureus.test") as http:
            tokens = {}
            for login in demo.logins:
                answer = await http.post("/v1/auth/token", json={"login": login.login, "password": login.password})
                tokens[login.login] = answer.json()["access_token"]
            yield Api(http, services, tokens)


def refused(answer: httpx.Response, status: int, code: str, **details: Any) -> dict[str, Any]:
    """The one error body, with this status, code and these details; answers all details."""
    assert answer.status_code == status, answer.text
    error = ErrorBody.model_validate_json(answer.content).error
    assert error.code == code, answer.text
    assert error.message
    assert error.request_id == answer.headers["x-request-id"]
    assert TIMESTAMP.fullmatch(error.timestamp)
    assert {name: error.details.get(name) for name in details} == details, answer.text
    return error.details


# -- who asks


PRIVATE = [
    (method, re.sub(r"{\w+(:\w+)?}", "x", route.path))
    for route in api_routes()
    for method in sorted(route.methods or ())
    if f"{method} {route.path}" not in PUBLIC_PATHS
]


@pytest.mark.parametrize(("method", "path"), PRIVATE, ids=lambda part: part)
async def test_nothing_private_is_told_to_nobody(api: Api, method: str, path: str) -> None:
    answer = await api.http.request(method, path)
    details = refused(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "remedy" in details


PROVED_OTHERWISE = {"POST /v1/auth/logout", "POST /v1/hooks/{hook_id}"}
"""Public routes that take another proof of who asks than an identity, and say that it is missing."""


async def test_public_routes_answer_without_an_identity(api: Api) -> None:
    for name in PUBLIC_PATHS:
        method, path = name.split()
        assert ((await api.http.request(method, path)).status_code == 401) is (name in PROVED_OTHERWISE), name


def unpacked(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(api: Api, signer: FileSigner | None = None, *, alg: str = "EdDSA", **changed: Any) -> str:
    """The admin's own, valid token with some of its claims changed, signed by the key of this Aureus or another."""
    header, claims, _ = api.tokens["admin"].split(".")
    parts = (unpacked(header) | {"alg": alg}, unpacked(claims) | changed)
    signed = ".".join(packed(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    signer = signer or api.services.keystore.token
    return f"{signed}.{packed(signer.sign(signed.encode())) if alg != 'none' else ''}"


async def test_a_token_made_here_is_good_so_the_forgeries_below_fail_for_their_own_reason(api: Api) -> None:
    answer = await api.http.get("/v1/auth/me", headers={"Authorization": f"Bearer {token(api)}"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "kind",
    ["expired", "not yet", "forged", "alg none", "alg HS256", "oversized", "cut", "empty", "basic", "another ledger", "another tenant"],
)
async def test_a_bad_token_is_worth_nothing(api: Api, kind: str) -> None:
    now = int(datetime.now(UTC).timestamp())
    shown: dict[str, Callable[[], str]] = {
        "expired": lambda: "Bearer " + token(api, exp=now - 120, iat=now - 1_000, nbf=now - 1_000),
        "not yet": lambda: "Bearer " + token(api, nbf=now + 600, iat=now + 600, exp=now + 900),
        "forged": lambda: "Bearer " + token(api, FileSigner.from_seed("token", b"\7" * 32, "")),
        "alg none": lambda: "Bearer " + token(api, alg="none"),
        "alg HS256": lambda: "Bearer " + token(api, alg="HS256"),
        "oversized": lambda: "Bearer " + "x" * 100_000,
        "cut": lambda: "Bearer " + api.tokens["admin"][:-4],
        "empty": lambda: "Bearer ",
        "basic": lambda: "Basic YWRtaW46YWRtaW4=",
        "another ledger": lambda: "Bearer " + token(api, iss="aureus.local/another"),
        "another tenant": lambda: "Bearer " + token(api, tenant="another"),
    }
    refused(await api.http.get("/v1/auth/me", headers={"Authorization": shown[kind]()}), 401, "unauthenticated")


async def test_a_missing_role_is_said_and_recorded(api: Api) -> None:
    refused(await api.get("/v1/ledger/entries", "viewer"), 403, "role_missing", roles_needed=["admin", "auditor"])
    body = {"budget_id": "mine", "label": "mine", "currency": "EUR", "limit_minor": 1}
    details = refused(await api.post("/v1/budgets", body, "viewer"), 403, "role_missing")
    evidence = await api.get(details["evidence"], "auditor", at_least=details["position"])
    assert (evidence.status_code, evidence.json()["id"]) == (200, details["action_id"]), evidence.text


# -- errors


@pytest.mark.parametrize("login", [None, "admin"])
async def test_paths_and_methods_that_are_not_there(api: Api, login: str | None) -> None:
    headers = api.headers(login) if login else {}
    refused(await api.http.get("/v1/nothing", headers=headers), 404, "not_found")
    answer = await api.http.delete("/v1/budgets", headers=headers)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_what_nobody_expected_tells_its_request_id_and_nothing_else(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(api.services.ledger, "refresh", broken)
    monkeypatch.setattr(type(api.services.reads), "page", broken)
    for path in ("/v1/projections", "/v1/budgets"):
        answer = await api.get(path)
        refused(answer, 500, "internal_error")
        assert "secret" not in answer.text


async def test_every_answer_carries_its_request_id(api: Api) -> None:
    answers = [await api.http.get("/healthz"), await api.get("/v1/budgets"), await api.http.get("/v1/nothing")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert {answer.headers["x-content-type-options"] for answer in answers} == {"nosniff"}


# -- command bodies

BUDGET = '{"budget_id":"x","label":"x","currency":"EUR","limit_minor":'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"budget_id":"x","label":"x","currency":"EUR","limit_minor":1,"colour":"red"}', "colour"),
        ('{"budget_id":"x","budget_id":"y","label":"x","currency":"EUR","limit_minor":1}', "budget_id"),
        (BUDGET + "1.5}", "limit_minor"),
        (BUDGET + "1.0}", "limit_minor"),
        (BUDGET + "NaN}", ""),
        (BUDGET + "Infinity}", ""),
        (BUDGET + "9007199254740992}", "limit_minor"),
        (BUDGET + "9" * 5_000 + "}", ""),
        (BUDGET + "-1}", "limit_minor"),
        (BUDGET + '"1"}', "limit_minor"),
        (BUDGET + "true}", "limit_minor"),
        ('{"label":"x","currency":"EUR","limit_minor":1}', "budget_id"),
        ('{"budget_id":"a b","label":"x","currency":"EUR","limit_minor":1}', "budget_id"),
        ("[1]", ""),
        ("{", ""),
        ("[" * 100_000, ""),
        ("", "budget_id"),
    ],
    ids=lambda part: str(part)[:70],
)
async def test_a_bad_body_is_refused_by_the_name_of_its_field(api: Api, body: str, field: str) -> None:
    size = api.services.ledger.head.size
    refused(await api.post("/v1/budgets", body.encode()), 422, "validation_failed", field=field)
    assert api.services.ledger.head.size == size


@pytest.mark.parametrize("body", [b"\xff\xfe{", b'{"budget_id":"\xed\xa0\x80"}'])
async def test_a_body_that_is_not_utf8_is_refused(api: Api, body: bytes) -> None:
    refused(await api.post("/v1/budgets", body), 422, "validation_failed")


@pytest.mark.parametrize("label", ["\\ud800", "Le\\u0301a", "\\u0000"], ids=["a lone surrogate", "not NFC", "NUL"])
async def test_text_is_stored_as_it_came_or_refused(api: Api, label: str) -> None:
    """Never changed in silence; never half stored."""
    budget_id = f"text{next(NUMBERS)}"
    body = f'{{"budget_id":"{budget_id}","label":"{label}","currency":"EUR","limit_minor":1}}'
    answer = await api.post("/v1/budgets", body.encode())
    if answer.status_code == 201:
        row = await api.get(f"/v1/budgets/{budget_id}", at_least=answer.json()["position"])
        assert row.json()["label"] == json.loads(f'"{label}"')
    else:
        assert refused(answer, 422, "validation_failed")["remedy"]


@pytest.mark.parametrize("value", ["1.5", "9007199254740993", "1e3"])
async def test_numbers_that_cannot_be_signed_are_refused_in_free_documents_too(api: Api, value: str) -> None:
    body = f'{{"approval_id":"n{next(NUMBERS)}","description":"x","action_digest":"{"0" * 64}","inputs":{{"rows":{{"of":{value}}}}}}}'
    details = refused(await api.post("/v1/approvals", body.encode()), 422, "validation_failed")
    assert "rows.of" in details["field"]


async def test_a_large_body_is_refused(api: Api) -> None:
    details = refused(await api.post("/v1/budgets", b" " * 1_048_577), 413, "body_too_large")
    assert details["remedy"]


async def test_a_large_event_is_refused_and_names_the_way_out(api: Api) -> None:
    dataset = await api.post("/v1/datasets", _dataset("large"))
    assert dataset.status_code == 201, dataset.text
    contract = {"contract": {f"rule{number}": "x" * 900 for number in range(100)}}
    answer = await api.post("/v1/datasets/large/contract", contract)
    details = refused(answer, answer.status_code, json.loads(answer.content)["error"]["code"])
    assert answer.status_code in {409, 413, 422}
    assert details["remedy"]


def _dataset(dataset_id: str) -> dict[str, Any]:
    return {"dataset_id": dataset_id, "name": dataset_id, "domain": "sales", "pii_level": "none", "jurisdiction": "EU"}


# -- command headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("If-Match", "abc"),
        ("If-Match", "-1"),
        ("If-Match", "9" * 30),
        ("Idempotency-Key", "x" * 201),
        ("Idempotency-Key", ""),
        ("X-Correlation-Id", "not-a-uuid"),
        ("Aureus-Evidence", "abc"),
        ("Aureus-Reason", "x" * 2_001),
        ("Aureus-Approval", 'a"b'),
        ("Aureus-Approval", "x" * 500),
    ],
)
async def test_a_bad_header_is_named(api: Api, name: str, value: str) -> None:
    body = {"budget_id": f"header{next(NUMBERS)}", "label": "x", "currency": "EUR", "limit_minor": 1}
    answer = await api.http.post("/v1/budgets", headers={**api.headers(), name: value}, json=body)
    refused(answer, 422, "validation_failed", field=name)


async def test_evidence_that_nobody_stored_is_refused(api: Api) -> None:
    body = {"budget_id": "evidence", "label": "x", "currency": "EUR", "limit_minor": 1}
    refused(await api.post("/v1/budgets", body, Aureus_Evidence="0" * 64), 422, "artifact_not_stored", missing=["0" * 64])


async def test_the_circumstances_of_a_command_are_kept(api: Api) -> None:
    correlation = "0199aaaa-0000-7000-8000-000000000001"
    body = {"budget_id": f"kept{next(NUMBERS)}", "label": "x", "currency": "EUR", "limit_minor": 1}
    reason = "für das Jahr 2027"
    headers = {**api.headers(), "X-Correlation-Id": correlation, "Aureus-Reason": reason}
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    answer = await api.http.post("/v1/budgets", headers=encoded, json=body)
    assert answer.status_code == 201, answer.text
    evidence = (await api.get(answer.json()["evidence"], "auditor", at_least=answer.json()["position"])).text
    assert reason in evidence
    events = (await api.get("/v1/ledger/events", after=answer.json()["position"] - 1, limit=1)).json()["items"]
    assert [UUID(event["correlation"]) for event in events] == [UUID(correlation)]


# -- versions and repetition


async def test_a_row_or_a_list_that_the_reader_has_is_not_sent_again(api: Api) -> None:
    budget_id, opened = await api.opened()
    for path in (
        f"/v1/budgets/{budget_id}",
        f"/v1/budgets?currency=EUR&limit=500&at_least={opened['position']}",
        "/v1/budgets?fields=label",
    ):
        first = await api.http.get(path, headers=api.headers())
        for known in (first.headers["etag"], f'"else", W/{first.headers["etag"].removeprefix("W/")}', "*"):
            again = await api.http.get(path, headers={**api.headers(), "if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
            assert again.headers["x-content-type-options"] == "nosniff"
        other = await api.http.get(path, headers={**api.headers(), "if-none-match": '"else"'})
        assert (other.status_code, other.json()) == (
            200,
            first.json() | {"position": other.json()["position"]} if "?" in path else first.json(),
        )
    path = f"/v1/budgets/{budget_id}"
    known = (await api.get(path)).headers["etag"]
    funded = await api.post(f"{path}/fund", {"amount_minor": 5})
    await api.services.wait_for(funded.json()["position"])
    moved = await api.http.get(path, headers={**api.headers(), "if-none-match": known})
    assert (moved.status_code, moved.json()["limit_minor"]) == (200, 1_005)


async def test_only_the_fields_that_were_asked_for(api: Api) -> None:
    budget_id, opened = await api.opened()
    row = await api.get(f"/v1/budgets/{budget_id}", fields="label, budget_id")
    assert row.json() == {"budget_id": budget_id, "label": budget_id}
    whole = (await api.get(f"/v1/budgets/{budget_id}")).json()
    page = await api.get("/v1/budgets", fields="budget_id,limit_minor", q=budget_id, as_of=opened["position"])
    assert page.json()["items"][0] == {name: whole[name] for name in ("budget_id", "limit_minor")}
    for wrong, named in (("label,colour", "colour"), (",", None)):
        for path in ("/v1/budgets", f"/v1/budgets/{budget_id}"):
            details = refused(await api.get(path, fields=wrong), 422, "invalid_parameter", field="fields")
            assert "limit_minor" in details["remedy"], named


def version_of(answer: httpx.Response) -> str:
    return answer.headers["etag"].strip('"').partition("-")[0]


async def test_an_etag_is_what_if_match_wants(api: Api) -> None:
    budget_id, opened = await api.opened()
    row = await api.get(f"/v1/budgets/{budget_id}")
    assert re.fullmatch(rf'"{opened["version"]}-[0-9a-f]{{16}}"', row.headers["etag"]), "the version, and which content it is"
    funded = await api.post(f"/v1/budgets/{budget_id}/fund", {"amount_minor": 5}, If_Match=row.headers["etag"])
    assert (funded.status_code, funded.headers["etag"]) == (200, '"2"')
    stale = await api.post(f"/v1/budgets/{budget_id}/fund", {"amount_minor": 5}, If_Match=row.headers["etag"])
    refused(stale, 412, "version_mismatch", field="If-Match", expected_version=1, actual_version=2)
    again = await api.get(f"/v1/budgets/{budget_id}", at_least=funded.json()["position"])
    assert (version_of(again), again.json()["limit_minor"]) == ("2", 1_005)


async def test_of_many_who_saw_the_same_version_one_wins(api: Api) -> None:
    budget_id, _ = await api.opened()
    answers = await asyncio.gather(*(api.post(f"/v1/budgets/{budget_id}/fund", {"amount_minor": 1}, If_Match='"1"') for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9


async def test_a_repeated_key_gets_the_first_answer_and_nothing_happens_twice(api: Api) -> None:
    budget_id, _ = await api.opened()
    path, body = f"/v1/budgets/{budget_id}/fund", {"amount_minor": 7}
    answers = await asyncio.gather(*(api.post(path, body, Idempotency_Key=f"key-{budget_id}") for _ in range(8)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(200, answers[0].content)}
    row = await api.get(f"/v1/budgets/{budget_id}", at_least=answers[0].json()["position"])
    assert row.json()["limit_minor"] == 1_007
    other = await api.post(path, {"amount_minor": 8}, Idempotency_Key=f"key-{budget_id}")
    refused(other, 409, "idempotency_key_reused", field="Idempotency-Key")
    for number in range(8):
        # Each race ends in a rolled-back transaction of the ledger's own connection, which must be none the worse for it.
        raced = await asyncio.gather(*(api.post(path, body, Idempotency_Key=f"key-{budget_id}-{number}") for _ in range(4)))
        assert {answer.status_code for answer in raced} == {200}
    by_another = await api.post(path, body, "approver", Idempotency_Key=f"key-{budget_id}")
    refused(by_another, 409, "idempotency_key_reused")


async def test_a_refusal_is_repeated_too(api: Api) -> None:
    budget_id, _ = await api.opened(limit_minor=10)
    path, body = f"/v1/budgets/{budget_id}/reserve", {"amount_minor": 11}
    first, second = [await api.post(path, body, "analyst", Idempotency_Key=f"no-{budget_id}") for _ in range(2)]
    details = refused(first, 409, "budget_exceeded")
    assert refused(second, 409, "budget_exceeded")["action_id"] == details["action_id"]


# -- lists


async def test_pages_walk_everything_exactly_once(api: Api) -> None:
    created = {(await api.opened(limit_minor=number % 3, prefix="page"))[0] for number in range(11)}
    for sort in (None, *(f"{sign}{name}" for name in budgets.sorts for sign in ("", "-"))):
        seen: list[str] = []
        cursor = None
        for _ in range(100):
            given: dict[str, Any] = {"sort": sort, "cursor": cursor}
            chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
            page = (await api.get("/v1/budgets", q="page", limit=3, **chosen)).json()
            seen += [row["budget_id"] for row in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)), sort
        assert set(seen) == created, sort


def forged(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"sort": "colour"}, "sort"),
        ({"sort": "--label"}, "sort"),
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": ""}, "limit"),
        ({"cursor": "garbage"}, "cursor"),
        ({"cursor": forged(["label", "x", "y"])}, "cursor"),
        ({"cursor": forged([None, 1, "y"])}, "cursor"),
        ({"cursor": forged(["limit_minor", "x", "y"]), "sort": "limit_minor"}, "cursor"),
        ({"cursor": forged(["limit_minor", True, "y"]), "sort": "limit_minor"}, "cursor"),
        ({"cursor": forged([None, "a\0", "y"])}, "cursor"),
        ({"cursor": forged({"a": 1})}, "cursor"),
        ({"q": "a\0b"}, "q"),
        ({"status": "open\0"}, "status"),
        ({"at_least": "-1"}, "at_least"),
        ({"at_least": "999999999"}, "at_least"),
        ({"at_least": "9" * 30}, "at_least"),
        ({"at_least": "soon"}, "at_least"),
        ({"as_of": "999999999"}, "as_of"),
        ({"as_of": "-1"}, "as_of"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"as_of": "2026-03-03T14:00:00"}, "as_of"),
        ({"as_of": "2026-02-30T14:00:00Z"}, "as_of"),
        ({"as_of": ""}, "as_of"),
    ],
    ids=str,
)
async def test_a_list_names_the_parameter_it_cannot_use(api: Api, parameters: dict[str, str], field: str) -> None:
    details = refused(await api.get("/v1/budgets", **parameters), 422, "invalid_parameter", field=field)
    assert details["remedy"]


async def test_filters_narrow_and_search_takes_its_text_literally(api: Api) -> None:
    budget_id, _ = await api.opened(prefix="filter")
    found = (await api.get("/v1/budgets", status="open", q=budget_id)).json()["items"]
    assert [row["budget_id"] for row in found] == [budget_id]
    assert (await api.get("/v1/budgets", status="closed", q=budget_id)).json()["items"] == []
    for text in ("%", "_", "\\", "' OR 1=1 --"):
        assert (await api.get("/v1/budgets", q=f"{text}{budget_id}")).json()["items"] == []


@pytest.mark.parametrize("row_id", ["nothing", "a%00b", "%F0%9F%92%A9", "a%2Fb", "x" * 5_000, "..", "'"])
async def test_a_row_that_is_not_there(api: Api, row_id: str) -> None:
    answer = await api.http.get(f"/v1/budgets/{row_id}", headers=api.headers())
    code = json.loads(answer.content)["error"]["code"]
    refused(answer, 404, code)
    assert code in {"budget_not_found", "not_found"}


STRANGE = ["a%00b", "%F0%9F%92%A9", "'%3B--", "x" * 2_000, "%20", "model.a+b", "0", "-1"]
READS = [
    path for route in api_routes() for method in sorted(route.methods or ()) for path in [route.path] if method == "GET" and "{" in path
]


@pytest.mark.parametrize("path", READS)
async def test_no_id_makes_a_read_stumble(api: Api, path: str) -> None:
    for strange in STRANGE:
        answer = await api.http.get(re.sub(r"{\w+(:\w+)?}", strange, path), headers=api.headers("auditor"))
        assert answer.status_code < 500, f"{strange}: {answer.text}"


# -- the past


async def test_as_of_shows_what_stood_then(api: Api) -> None:
    budget_id, opened = await api.opened()
    before = datetime.now(UTC)
    await asyncio.sleep(0.01)
    funded = (await api.post(f"/v1/budgets/{budget_id}/fund", {"amount_minor": 100})).json()
    path = f"/v1/budgets/{budget_id}"
    assert (await api.get(path, at_least=funded["position"])).json()["limit_minor"] == 1_100
    local = before.astimezone(tz=datetime.fromisoformat("2026-01-01T00:00:00+05:30").tzinfo)
    for moment in (opened["position"], before.isoformat(), before.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), local.isoformat()):
        answer = await api.get(path, as_of=moment)
        assert (answer.json()["limit_minor"], version_of(answer)) == (1_000, "1")
    assert version_of(await api.get(path, as_of=funded["position"])) == "2"
    refused(await api.get(path, as_of=opened["position"] - 2), 404, "budget_not_found")
    refused(await api.get(path, as_of="1999-01-01T00:00:00Z"), 404, "budget_not_found")
    page = (await api.get("/v1/budgets", as_of=opened["position"], q=budget_id)).json()
    assert (page["position"], [row["limit_minor"] for row in page["items"]]) == (opened["position"], [1_000])
    # A plus sign that was not escaped arrives as a space.
    unescaped = await api.http.get(f"{path}?as_of={before.strftime('%Y-%m-%dT%H:%M:%S.%f')}+00:00", headers=api.headers())
    assert unescaped.json()["limit_minor"] == 1_000


async def test_the_future_is_not_told(api: Api) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert "now" in refused(await api.get("/v1/budgets", as_of=tomorrow), 422, "invalid_parameter", field="as_of")


async def test_a_position_that_read_models_reach_is_waited_for(api: Api) -> None:
    for _ in range(5):
        body = {"budget_id": f"own{next(NUMBERS)}", "label": "x", "currency": "EUR", "limit_minor": 1}
        answer = await api.post("/v1/budgets", body)
        row = await api.get(f"/v1/budgets/{body['budget_id']}", at_least=answer.json()["position"])
        assert row.status_code == 200


@pytest.mark.parametrize("path", ["/v1/ledger/checkpoint?size=9223372036854775808", f"/v1/ledger/checkpoint?size={10**40}"])
async def test_a_checkpoint_that_was_never_signed(api: Api, path: str) -> None:
    refused(await api.http.get(path), 404, "checkpoint_not_found", field="size")
