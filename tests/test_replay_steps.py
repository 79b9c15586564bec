"""A stream walked step by step: who, when and why, the state after each event, and in words what the event changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import orjson
import pytest

from api.services import deciders
from commands.budgets import DECIDER
from commands.catalog import DECIDERS as CATALOG
from domain.budgets import BudgetFunded, BudgetOpened, BudgetTree, FundsReserved
from domain.catalog import ColumnSpec, DatasetDescribed, DatasetRegistered, PiiLevel, Profile, SchemaChanged
from domain.kernel import EVENTS, Decider, Event, Recorded
from infra.explaining import ENTRIES_MAX, differences, sentences, state_json, steps
from tests.golden import EVENT_SAMPLES
from tests.support.kernel import ADM, ANA
from tests.support.replays import AUD, FOREIGN, lived_in
from tests.support.running import Aureus, running

pytestmark = pytest.mark.anyio
ID: Final = UUID("01990000-0000-7000-8000-000000000001")
BUDGETS: Final[Decider[Any, Any, Any]] = DECIDER
DATASETS: Final[Decider[Any, Any, Any]] = next(one for one in CATALOG if one.category == "dataset")
LOW: Final = Profile.model_validate({"name": "People", "domain": "crm", "pii_level": "low", "jurisdiction": "EU"})
HIGH: Final = LOW.model_validate({**LOW.model_dump(), "pii_level": "high"})


def told(decider: Decider[Any, Any, Any], *history: Event) -> list[list[str]]:
    """What is said of each event."""
    at = datetime(2026, 3, 3, 14, 0, tzinfo=UTC)
    lived = [Recorded(number, "acme", "x:y", number, ID, at, "usr-ana", ID, ID, event) for number, event in enumerate(history, start=1)]
    return [step.sentences for step in steps(decider, decider.initial, lived, explain=True)]


# -- in words


def test_a_dataset_is_explained_as_people_would_say_it() -> None:
    columns = (ColumnSpec(name="id"), ColumnSpec(name="email"), ColumnSpec(name="phone"))
    assert told(
        DATASETS,
        DatasetRegistered(dataset_id="crm.people", profile=LOW),
        SchemaChanged(dataset_id="crm.people", revision=1, columns=columns[:1], added=("id",)),
        SchemaChanged(dataset_id="crm.people", revision=2, columns=columns, added=("email", "phone")),
        DatasetDescribed(dataset_id="crm.people", profile=HIGH),
        SchemaChanged(dataset_id="crm.people", revision=3, columns=(ColumnSpec(name="id", pii=PiiLevel.HIGH), *columns[:0:-1])),
    ) == [
        [
            "dataset_id: nothing -> crm.people",
            "name: nothing -> People",
            "domain: nothing -> crm",
            "pii_level: nothing -> low",
            "jurisdiction: nothing -> EU",
            "environment: nothing -> production",
            "schema_version: nothing -> 0",
        ],
        ["schema_version: 0 -> 1", "1 column added: id"],
        ["schema_version: 1 -> 2", "2 columns added: email, phone"],
        ["pii_level: low -> high"],
        ["columns.id.pii: nothing -> high", "schema_version: 2 -> 3"],
    ]


def test_a_budget_is_explained_down_to_the_reservation() -> None:
    opened = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=1_000)
    reserved = FundsReserved(budget_id="lake", reservation_id="r1", amount_minor=900, path=("lake",))
    assert told(BUDGETS, opened, reserved, BudgetFunded(budget_id="lake", amount_minor=1, limit_minor=1_001)) == [
        ["1 budget added: lake", "1 setting added: lake"],
        ["budgets.lake.reserved_minor: 0 -> 900", "1 reservation added: r1"],
        ["budgets.lake.limit_minor: 1000 -> 1001"],
    ]


def test_what_is_removed_reordered_or_nothing_is_said_too() -> None:
    tree = BUDGETS.replay([BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=1)])
    assert sentences(differences(tree, BudgetTree())) == ["1 budget removed: lake", "1 setting removed: lake"]
    assert list(differences(tree, tree)) == []
    dataset = DATASETS.replay([DatasetRegistered(dataset_id="d", profile=LOW)])
    tagged, turned = (replace(dataset, tags=tags) for tags in (("a", "b"), ("b", "a")))
    assert sentences(differences(tagged, turned)) == ["order of tags: a, b -> b, a"]
    assert sentences(differences(tagged, dataset)) == ["2 tags removed: a, b"]


def test_a_state_of_any_size_is_shown_within_bounds_and_its_change_in_full() -> None:
    opened = BudgetOpened(budget_id="lake", label="Lake", currency="EUR", limit_minor=10_000)
    many = [FundsReserved(budget_id="lake", reservation_id=f"r{n}", amount_minor=1, path=("lake",)) for n in range(ENTRIES_MAX + 50)]
    before = BUDGETS.replay([opened, *many[:-1]])
    after = BUDGETS.evolve(before, many[-1])
    shown = state_json(after)["reservations"]
    assert len(shown) == ENTRIES_MAX + 1
    assert shown["..."] == f"{ENTRIES_MAX + 50} entries in all"
    assert sentences(differences(before, after)) == [
        f"budgets.lake.reserved_minor: {len(many) - 1} -> {len(many)}",
        f"1 reservation added: {many[-1].reservation_id}",
    ]


def test_the_state_after_every_event_ever_shipped_is_json_and_explained() -> None:
    """Those of older schemas included: each is upcast, and shown as it counts today."""
    by_event = {event: decider for decider in deciders() for event in decider.events}
    explained = 0
    for sample in sorted(EVENT_SAMPLES.glob("*.json")):
        name, _, schema = sample.stem.rpartition(".v")
        event = EVENTS.load(name, int(schema), orjson.loads(sample.read_bytes()))
        decider = by_event.get(type(event))
        if decider is None or not _begins(decider, event):
            continue
        before, after = decider.initial, decider.evolve(decider.initial, event)
        orjson.dumps(state_json(after))
        assert (after == before) == (not sentences(differences(before, after))), sample.stem
        explained += 1
    assert explained > 40


def _begins(decider: Decider[Any, Any, Any], event: Event) -> bool:
    """Whether it can be the first event of its stream."""
    try:
        decider.evolve(decider.initial, event)
    except (KeyError, IndexError, AssertionError, AttributeError, TypeError):
        return False
    return True


# -- over REST


@pytest.fixture(scope="module")
async def bank(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory, anyio_backend: object) -> AsyncIterator[Aureus]:
    async with running(shared_database_url, tmp_path_factory.mktemp("home")) as aureus:
        await lived_in(aureus)
        contact = {"contact_name": "Berta Huber", "contact_email": "berta@example.org"}
        last = await aureus.post("/v1/datasets/crm.people/owners/usr-ana/contact", contact, ANA, Aureus_Reason="She moved")
        await aureus.services.wait_for(last.json()["position"])
        yield aureus


async def walk(bank: Aureus, stream: str, by: Any = AUD, **parameters: Any) -> dict[str, Any]:
    answer = await bank.get(f"/v1/replay/{stream}", by, **parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_each_step_says_who_when_why_and_what_it_changed(bank: Aureus) -> None:
    found = await walk(bank, "dataset:crm.people", explain=True)
    assert [step["type"] for step in found["steps"]] == [
        "catalog.dataset_registered",
        "catalog.schema_changed",
        "catalog.owner_assigned",
        "catalog.dataset_described",
        "catalog.owner_contact_recorded",
    ]
    described, contact = found["steps"][3:]
    assert described["explanation"] == ["pii_level: low -> high"]
    assert described["changes"] == [{"field": "profile.pii_level", "kind": "changed", "before": "low", "after": "high"}]
    assert described["state"]["profile"]["pii_level"] == "high"
    assert described["actor"] == "usr-ana"
    assert described["why"]["action"] == "catalog.describe_dataset"
    assert [(one["policy"], one["outcome"]) for one in described["why"]["policy_results"]] == [("rest", "allow")]
    assert contact["why"]["reason"] == "She moved"
    assert contact["explanation"] == ["1 contact added: usr-ana"]
    assert "Berta" not in orjson.dumps(found).decode()


async def test_the_state_is_the_one_that_decisions_were_made_on(bank: Aureus) -> None:
    found = await walk(bank, "budget:lake")
    history = await bank.services.ledger.read_stream("acme", "budget:lake")
    for number, step in enumerate(found["steps"], start=1):
        assert step["state"] == orjson.loads(orjson.dumps(state_json(BUDGETS.replay(one.event for one in history[:number]))))
        assert step["changes"] is step["explanation"] is None


async def test_pages_go_on_with_the_state_they_came_to(bank: Aureus) -> None:
    whole = await walk(bank, "dataset:crm.people", explain=True)
    steps_, cursor = [], None
    while True:
        page = await walk(bank, "dataset:crm.people", explain=True, limit=2, **({"cursor": cursor} if cursor else {}))
        assert len(page["steps"]) <= 2
        steps_ += page["steps"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert steps_ == whole["steps"]
    third = whole["steps"][2]
    assert (await walk(bank, "dataset:crm.people", explain=True, after=third["position"]))["steps"] == whole["steps"][3:]
    assert (await walk(bank, "dataset:crm.people", explain=True, until=third["position"]))["steps"] == whole["steps"][:3]
    assert (await walk(bank, "dataset:crm.people", explain=True, until=third["at"]))["steps"] == whole["steps"][:3]


async def test_the_rows_it_makes_are_those_that_are_read(bank: Aureus) -> None:
    for table in ("budgets", "budgets.budgets"):
        found = await walk(bank, "budget:lake", table=table)
        assert found["rows"] == {"lake": (await bank.get("/v1/budgets/lake", AUD)).json()}
    early = await walk(bank, "dataset:crm.people", table="datasets", limit=1)
    assert early["rows"]["crm.people"]["pii_level"] == "low"
    assert (await walk(bank, "budget:lake", table="approvals"))["rows"] == {}


async def test_a_stream_without_decisions_speaks_for_itself(bank: Aureus) -> None:
    action = (await walk(bank, "budget:lake"))["steps"][0]["why"]["action_id"]
    (step,) = (await walk(bank, f"action:{action}", explain=True))["steps"]
    assert step["type"] == "actions.action_allowed"
    assert (step["state"], step["explanation"]) == (None, None)


async def test_what_is_unknown_malformed_or_anothers_is_refused(bank: Aureus) -> None:
    async def refused(stream: str, by: Any = AUD, **parameters: Any) -> tuple[int, str, str | None]:
        answer: httpx.Response = await bank.get(f"/v1/replay/{stream}", by, **parameters)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["details"].get("field")

    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert await refused("dataset:nowhere") == (404, "stream_not_found", "stream")
    assert await refused("budget:lake", until=1) == (404, "stream_not_found", "stream")
    for stream in ("dataset", "dataset:", ":x", "Dataset:x", "dataset:x y", "dataset:" + "x" * 400):
        assert await refused(stream) == (422, "invalid_parameter", "stream"), stream
    for name, value in (("until", "soon"), ("until", "-1"), ("until", "999999"), ("until", tomorrow), ("after", "1.5"), ("cursor", "x")):
        assert await refused("budget:lake", **{name: value}) == (422, "invalid_parameter", name), (name, value)
    assert await refused("budget:lake", after=9, until=8) == (422, "invalid_parameter", "after")
    assert await refused("budget:lake", table="nowhere") == (422, "invalid_parameter", "table")
    assert await refused("budget:lake", table="catalog.budgets") == (422, "invalid_parameter", "table")
    assert (await refused("budget:lake", ANA))[:2] == (403, "role_missing")
    assert (await refused("budget:lake", as_of=3))[:2] == (422, "invalid_parameter")
    assert (await refused("budget:lake", FOREIGN))[0] == 401, "nobody of another tenant is known here"
    assert (await walk(bank, "budget:lake", ADM))["steps"]
