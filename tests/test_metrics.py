"""Metrics: the numbers are right, say how far the read models are, cost a command next to nothing, and are not for everybody."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from domain.budgets import BudgetOpened
from domain.kernel import Asker
from domain.ledger import Append, Conflict, Receipt, StreamWrite
from domain.values import Role, uuid7
from infra.measures import SECONDS, Appends, Distribution, Requests
from infra.metrics import METRICS, Metrics
from infra.metrics_server import metrics_served
from infra.observing_settings import Observing
from infra.settings import Settings, SettingsError
from tests.support.kernel import catch_up, outcomes
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parent.parent
TOKEN = "a-token-for-the-scraper"
MAX = Asker("usr-max", "acme", frozenset({Role.ADMIN}))
Sample = tuple[str, frozenset[tuple[str, str]]]
END = b"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%%standing%%'
"""
"""The connection that scrapes are answered from is lost."""
SYSTEM = re.compile(r"process_\w+")
"""What the client library tells of the process by itself."""


def families(text: str) -> list[Any]:
    """As Prometheus itself reads them."""
    return list(text_string_to_metric_families(text))


def samples(text: str) -> dict[Sample, float]:
    """Every sample by name and labels."""
    return {(one.name, frozenset(one.labels.items())): one.value for family in families(text) for one in family.samples}


async def scraped(aureus: Aureus) -> dict[Sample, float]:
    aureus.services.metrics._believed_until = 0.0
    answer = await aureus.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def value(found: dict[Sample, float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


async def opened(aureus: Aureus, count: int, currency: str) -> None:
    for number in range(count):
        body = {"budget_id": f"{currency}{number}", "label": "Lake", "currency": currency, "limit_minor": 1_000}
        assert (await aureus.post("/v1/budgets", body, MAX)).status_code == (403 if currency == "ZZZ" else 201)


# -- the numbers


@pytest.fixture(scope="module")
async def aureus(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as one:
        await one.know(MAX)
        yield one


async def test_commands_requests_and_appends_are_counted_as_they_happened(aureus: Aureus) -> None:
    before = await scraped(aureus)
    await opened(aureus, 5, "EUR")
    await opened(aureus, 2, "ZZZ")
    assert (await aureus.get("/v1/budgets/EUR0", MAX)).status_code == 200
    assert (await aureus.get("/v1/budgets/nowhere", MAX)).status_code == 404
    assert (await aureus.http.get("/v1/a-path-that-somebody-made-up")).status_code == 404
    after = await scraped(aureus)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("aureus_commands_total", command="budgets.open_budget", outcome="allowed") == 5
    assert grown("aureus_commands_total", command="budgets.open_budget", outcome="blocked") == 2
    assert grown("aureus_http_requests_total", method="POST", route="/v1/budgets", status="201") == 5
    assert grown("aureus_http_requests_total", method="POST", route="/v1/budgets", status="403") == 2
    assert grown("aureus_http_request_seconds_count", method="POST", route="/v1/budgets") == 7
    assert grown("aureus_http_requests_total", method="GET", route="/v1/budgets/{budget_id}", status="200") == 1
    assert grown("aureus_http_requests_total", method="GET", route="/v1/budgets/{budget_id}", status="404") == 1
    assert grown("aureus_http_requests_total", method="GET", route="(none)", status="404") == 1
    assert not [labels for _, labels in after if "made-up" in str(labels)], "a caller's path became a label"
    size = aureus.services.ledger.head.size
    assert grown("aureus_append_events_total") == 5 * 2 + 2
    assert grown("aureus_append_events_total") == grown("aureus_append_batch_events_sum")
    assert grown("aureus_append_seconds_count") == 7
    assert value(after, "aureus_ledger_events") == size
    assert grown("aureus_policy_seconds_count", engine="embedded") == 7 + 1, "each command, and once what may be seen of a budget"
    assert 0 < grown("aureus_append_seconds_sum") < 10
    assert value(after, "aureus_database_up") == 1


async def test_an_append_that_came_too_late_is_neither_durable_nor_a_failure(aureus: Aureus) -> None:
    ledger = aureus.services.ledger
    before = ledger.measured.events, sum(ledger.measured.seconds.counts), ledger.measured.failed
    opened = BudgetOpened(budget_id="late", label="Late", currency="EUR", limit_minor=1)
    writes = [StreamWrite(f"budget:{uuid7()}", version, (opened,)) for version in (0, 7)]
    durable, late = await outcomes(*(ledger.enqueue(Append("acme", MAX.actor, (write,), correlation=uuid7())) for write in writes))
    assert (type(durable), type(late)) == (Receipt, Conflict)
    after = ledger.measured.events, sum(ledger.measured.seconds.counts), ledger.measured.failed
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 0]


async def test_a_read_model_that_does_not_move_lags_and_has_caught_up_when_it_does(database_url: str, tmp_path: Path) -> None:
    async with running(database_url, tmp_path) as aureus:
        await aureus.know(MAX)
    async with running(database_url, tmp_path, reacting=False) as aureus:
        await catch_up(database_url, aureus.services.ledger)
        level = await scraped(aureus)
        assert value(level, "aureus_projection_lag_events", projection="budgets") == 0
        assert value(level, "aureus_projection_lag_seconds", projection="budgets") == 0
        await opened(aureus, 2, "EUR")
        await asyncio.sleep(0.05)
        behind = await scraped(aureus)
        assert value(behind, "aureus_projection_lag_events", projection="budgets") == 4
        assert 0.05 <= value(behind, "aureus_projection_lag_seconds", projection="budgets") < 60
        reached = await catch_up(database_url, aureus.services.ledger)
        caught_up = await scraped(aureus)
        assert value(caught_up, "aureus_projection_lag_events", projection="budgets") == 0
        assert value(caught_up, "aureus_projection_lag_seconds", projection="budgets") == 0
        assert value(caught_up, "aureus_projection_position", projection="budgets") == reached
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute("UPDATE projections.positions SET stopped = 'because' WHERE name = 'budgets'")
        stopped = await scraped(aureus)
        assert value(stopped, "aureus_projection_stopped", projection="budgets") == 1
        assert value(stopped, "aureus_projection_stopped", projection="catalog") == 0


async def test_without_a_database_the_metrics_say_so_and_nothing_else_is_lost() -> None:
    appends = Appends()
    appends.committed(3, 1.0, 1.5, [0.25])
    metrics = Metrics("postgresql://nobody@127.0.0.1:1/nowhere", ["budgets"])
    metrics.add(appends.readings)
    found = samples((await metrics.text())[0].decode())
    assert value(found, "aureus_database_up") == 0
    assert value(found, "aureus_append_events_total") == 3
    assert not [name for name, _ in found if name.startswith("aureus_projection_lag")], "what is not known is not made up"


async def test_it_finds_back_to_a_database_that_went_away(aureus: Aureus, shared_database_url: str) -> None:
    assert value(await scraped(aureus), "aureus_database_up") == 1
    async with await psycopg.AsyncConnection.connect(shared_database_url, autocommit=True) as connection:
        await connection.execute(END)
    assert value(await scraped(aureus), "aureus_database_up") == 1


def test_a_distribution_counts_what_is_no_larger_than_each_bound() -> None:
    spread = Distribution((1, 10))
    for number in (0.5, 1, 1.5, 10, 11):
        spread.add(number)
    assert spread.counts == [2, 2, 1]
    assert spread.total == 24


async def test_openmetrics_is_spoken_to_whoever_asks_for_it(aureus: Aureus) -> None:
    answer = await aureus.http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0,text/plain;q=0.5"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    kinds = {family.name: family.type for family in openmetrics_families(answer.text)}  # type: ignore[no-untyped-call]
    assert kinds["aureus_append_seconds"] == "histogram"
    assert answer.text.endswith("# EOF\n")
    plain = await aureus.http.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert plain.headers["cache-control"] == "no-store"
    told = {family.name for family in families(plain.text) if not SYSTEM.fullmatch(family.name)}
    assert told <= {name.removesuffix("_total") for name in METRICS}
    assert "process_resident_memory_bytes" in plain.text


# -- whom they are for


def application(aureus: Aureus) -> Any:
    return aureus.http._transport.app  # type: ignore[attr-defined]


def scraper(aureus: Aureus, client: str, **headers: str) -> httpx.AsyncClient:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    transport = httpx.ASGITransport(application(aureus), client=(client, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://aureus.test", headers=named)


def refused(answer: httpx.Response, status: int, code: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert "AUREUS_METRICS_TOKEN" in error["details"]["remedy"]


async def test_without_a_token_they_are_for_this_machine_alone(aureus: Aureus) -> None:
    for client in ("127.0.0.1", "::1"):
        async with scraper(aureus, client) as here:
            assert (await here.get("/metrics")).status_code == 200
    async with scraper(aureus, "10.0.0.7") as elsewhere:
        refused(await elsewhere.get("/metrics"), 403, "scraper_elsewhere")
    for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"):
        async with scraper(aureus, "127.0.0.1", **{header: "10.0.0.7"}) as proxied:
            refused(await proxied.get("/metrics"), 403, "scraper_elsewhere")


async def test_with_a_token_they_are_for_whoever_shows_it(aureus: Aureus, monkeypatch: pytest.MonkeyPatch) -> None:
    with_token = replace(aureus.services.settings, observing=Observing(metrics_token=TOKEN))
    monkeypatch.setattr(application(aureus).state, "services", replace(aureus.services, settings=with_token))
    async with scraper(aureus, "10.0.0.7", Authorization=f"Bearer {TOKEN}") as one:
        assert (await one.get("/metrics")).status_code == 200
    for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": f"Bearer {TOKEN}é"}):
        async with scraper(aureus, "127.0.0.1", **shown) as other:
            answer = await other.get("/metrics")
            refused(answer, 401, "scrape_token_needed")
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_worker_serves_its_own_on_this_machine(free_tcp_port: int) -> None:
    appends = Appends()
    appends.committed(3, 1.0, 1.5, [0.25])
    metrics = Metrics("postgresql://nobody@127.0.0.1:1/nowhere", ())
    metrics.add(appends.readings)
    async with metrics_served(metrics, free_tcp_port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{free_tcp_port}") as http:
        answer = await http.get("/metrics")
        assert value(samples(answer.text), "aureus_append_events_total") == 3
        assert (await http.get("/elsewhere")).status_code == 404
        assert (await http.post("/metrics")).status_code == 405
        with pytest.raises(SettingsError, match="cannot be listened on") as taken:
            async with metrics_served(metrics, free_tcp_port):
                pass
        assert taken.value.field == "AUREUS_WORKER_METRICS_PORT"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("AUREUS_METRICS_TOKEN", "short"),
        ("AUREUS_METRICS_TOKEN", "with a space in the middle"),
        ("AUREUS_METRICS_TOKEN_FILE", "/nowhere/at/all"),
        ("AUREUS_WORKER_METRICS_PORT", "70000"),
        ("AUREUS_LOG_FORMAT", "xml"),
        ("AUREUS_ACCESS_LOG", "yes"),
    ],
)
def test_what_cannot_be_observed_so_is_refused_by_name(tmp_path: Path, name: str, wrong: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({"AUREUS_HOME": str(tmp_path), name: wrong})
    assert refusal.value.field == name
    assert refusal.value.remedy


def test_a_token_from_a_file_is_nobody_elses_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    environment = {"AUREUS_HOME": str(tmp_path), "AUREUS_METRICS_TOKEN_FILE": str(tmp_path / "token")}
    found = Settings.from_environment(environment)
    assert found.observing.metrics_token == TOKEN
    assert TOKEN not in repr(found)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(SettingsError, match="open to other accounts"):
        Settings.from_environment(environment)


# -- what is written about them


def documented() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(r"^\| `(aureus_\w+)(?:\{([\w,]+)\})?` \| (\w+) \| (.+) \|$", (ROOT / "docs/operators.md").read_text(), re.MULTILINE)
    return {name: (labels, kind, text) for name, labels, kind, text in rows}


def test_the_operators_guide_names_every_metric_and_no_other() -> None:
    assert documented() == {name: (",".join(kind.labels), kind.type, kind.help) for name, kind in METRICS.items()}


@pytest.mark.parametrize("file", ["docs/dashboards/aureus.json", "docs/dashboards/alerts.yaml"])
def test_dashboards_and_alerts_ask_for_metrics_that_there_are(file: str) -> None:
    text = (ROOT / file).read_text()
    known = {
        f"{name}{part}" for name, kind in METRICS.items() for part in (("_bucket", "_sum", "_count") if kind.type == "histogram" else ("",))
    }
    asked = set(re.findall(r"\baureus_\w+", text))
    assert asked
    assert sorted(asked - known) == []
    if file.endswith(".yaml"):
        rules: list[dict[str, Any]] = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
        assert all(rule["expr"] and rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


# -- what they cost


def test_counting_costs_a_command_next_to_nothing() -> None:
    """At most 3 us of a command's 600 or so; a generous bound, for CI's machines are slow and shared."""
    appends, requests, verdicts = Appends(), Requests(), Distribution(SECONDS)
    rounds = 20_000

    def cost_us() -> float:
        began = perf_counter()
        for _ in range(rounds):
            requests.add("POST", "/v1/budgets", 201, 0.003)
            verdicts.add(0.001)
            appends.committed(2, 0.0, 0.003, (0.001,))
        return (perf_counter() - began) / rounds * 1e6

    assert min(cost_us() for _ in range(3)) < 10
