"""Renderings of an export: the same events give the same bytes, whatever happened is in them, and rows can be counted and joined."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, get_type_hints

import duckdb
import pytest

from domain.kernel import JsonObject
from infra.canonical import canonical
from infra.views import VIEWS, View, ViewEvent
from infra.views.openlineage import TOLD_OF
from infra.views.parquet import table_path, write_table
from projections.budgets import BudgetRow
from projections.catalog import DatasetRow
from tests.support.exported import HOSTILE, about, governed, one_of_each, view_event
from tests.support.kernel import policies

pytestmark = pytest.mark.anyio

NAMES: Final = ["parquet", "openlineage", "prov", "ocsf", "cloudevents", "html", "pdf"]
BY_NAME: Final = {view.name: view for view in VIEWS}


@pytest.fixture(scope="module")
async def events(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[ViewEvent]]:
    folder = tmp_path_factory.mktemp("governed")
    async with policies(folder / "policies") as engine:
        yield await governed(folder, engine)


def rendered(view: View, target: Path, events: Sequence[ViewEvent], batch: int = 1_000, **said: Any) -> bytes:
    """The bytes of a rendering that was given its events in batches."""
    writing = view.open(about(list(events), **said), target)
    for start in range(0, len(events), batch):
        writing.add(events[start : start + batch])
    writing.close()
    return target.read_bytes()


def lines(view: str, target: Path, *events: ViewEvent) -> list[JsonObject]:
    """The lines that a rendering makes of some events."""
    return [json.loads(line) for line in rendered(BY_NAME[view], target, events).splitlines()]


def query(sql: str, file: Path) -> list[tuple[Any, ...]]:
    """Rows of a Parquet file; `rows` in the query stands for it."""
    with duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        return database.execute(sql.replace("rows", "read_parquet($1)"), [str(file)]).fetchall()


def test_each_rendering_has_its_name_and_its_place_in_the_pack() -> None:
    assert [view.name for view in VIEWS] == NAMES
    assert len({view.path for view in VIEWS}) == len(VIEWS)
    assert all(view.path.startswith("views/") for view in VIEWS)


@pytest.mark.parametrize("name", NAMES)
async def test_the_same_events_give_the_same_bytes_however_they_come(events: list[ViewEvent], name: str, tmp_path: Path) -> None:
    once = rendered(BY_NAME[name], tmp_path / "once", events)
    again = rendered(BY_NAME[name], tmp_path / "again", events, batch=1)
    assert once == again


def test_nothing_spooled_is_left_behind(tmp_path: Path) -> None:
    for view in VIEWS:
        rendered(view, tmp_path / view.name, one_of_each())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_event_there_ever_was_can_be_rendered_and_so_can_unknown_ones(name: str, tmp_path: Path) -> None:
    told = one_of_each()
    document = rendered(BY_NAME[name], tmp_path / name, told)
    if name in ("ocsf", "cloudevents"):
        assert len(document.splitlines()) == len(told)
    assert document == rendered(BY_NAME[name], tmp_path / "again", told)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_without_events_is_rendered_too(name: str, tmp_path: Path) -> None:
    document = rendered(BY_NAME[name], tmp_path / name, [])
    assert document or name in ("openlineage", "ocsf", "cloudevents")


# -- Parquet


async def test_every_event_is_a_row_with_its_data_as_it_was_signed(events: list[ViewEvent], tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    rendered(BY_NAME["parquet"], file, events)
    rows = query("SELECT position, strftime(\"at\", '%Y-%m-%dT%H:%M:%S.%fZ'), event_id, leaf, data, actor, version FROM rows", file)
    assert rows == [
        (
            event.position,
            event.body["at"],
            event.body["id"],
            event.leaf.hex(),
            canonical(event.body["data"]).decode(),
            event.body["actor"],
            event.body["version"],
        )
        for event in events
    ]


async def test_columns_have_types_that_can_be_counted_and_compared(events: list[ViewEvent], tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    rendered(BY_NAME["parquet"], file, events)
    kinds = {name: kind for name, kind, *_ in query("DESCRIBE FROM rows", file)}
    assert (kinds["position"], kinds["at"], kinds["schema"], kinds["data"]) == ("BIGINT", "TIMESTAMP WITH TIME ZONE", "INTEGER", "VARCHAR")
    spent = query("SELECT sum((data->>'$.spent_minor')::BIGINT)::BIGINT FROM rows WHERE type = 'budgets.funds_committed'", file)
    assert spent == [(45_000,)]


def test_read_models_become_typed_tables(tmp_path: Path) -> None:
    file = tmp_path / "budgets.parquet"
    row = dict.fromkeys(get_type_hints(BudgetRow)) | {"budget_id": HOSTILE, "limit_minor": 2**53 - 1, "thresholds_percent": [80, 100]}
    assert write_table(file, BudgetRow, iter([row, row | {"budget_id": "b"}])) == 2
    kinds = {name: kind for name, kind, *_ in query("DESCRIBE FROM rows", file)}
    assert list(kinds) == list(get_type_hints(BudgetRow))
    assert (kinds["budget_id"], kinds["limit_minor"], kinds["thresholds_percent"]) == ("VARCHAR", "BIGINT", "BIGINT[]")
    assert query("SELECT budget_id, limit_minor, thresholds_percent, label FROM rows LIMIT 1", file) == [
        (HOSTILE, 2**53 - 1, [80, 100], None)
    ]
    assert table_path("budgets.budgets") == "views/tables/budgets.budgets.parquet"


def test_what_has_no_column_type_becomes_json_text_and_no_rows_leave_the_columns(tmp_path: Path) -> None:
    file = tmp_path / "datasets.parquet"
    row = dict.fromkeys(get_type_hints(DatasetRow)) | {"dataset_id": "d", "contract": {"b": 1, "a": "é"}, "tags": ["x"]}
    write_table(file, DatasetRow, [row])
    assert query("SELECT contract, tags FROM rows", file) == [('{"a":"é","b":1}', ["x"])]
    assert write_table(file, DatasetRow, []) == 0
    assert query("SELECT count(*) FROM rows", file) == [(0,)]
    assert len(query("DESCRIBE FROM rows", file)) == len(get_type_hints(DatasetRow))


# -- wire samples: what consumers build on


RESERVED: Final = view_event(
    7,
    "budgets.funds_reserved",
    {"budget_id": "lake", "reservation_id": "r1", "amount_minor": 500, "path": ["lake"]},
    stream="budget:lake",
    version=3,
)
LEAF: Final = (7).to_bytes(32, "big").hex()


def test_a_cloud_event(tmp_path: Path) -> None:
    assert lines("cloudevents", tmp_path / "c", RESERVED) == [
        {
            "specversion": "1.0",
            "id": "01990000-0000-7000-9000-000000000007",
            "source": "aureus.example/views/acme",
            "type": "aureus.budgets.funds_reserved.v1",
            "subject": "budget:lake",
            "time": "2026-03-03T14:00:07.000000Z",
            "datacontenttype": "application/json",
            "position": "7",
            "streamversion": "3",
            "leaf": LEAF,
            "actor": "usr-ana",
            "correlationid": "01990000-0000-7000-8000-000000000007",
            "causationid": "01990000-0000-7000-8000-000000000007",
            "data": {"budget_id": "lake", "reservation_id": "r1", "amount_minor": 500, "path": ["lake"]},
        }
    ]


def test_an_ocsf_event(tmp_path: Path) -> None:
    (told,) = lines("ocsf", tmp_path / "o", RESERVED)
    assert told.pop("metadata") == {
        "version": "1.8.0",
        "product": {"name": "Aureus", "vendor_name": "Aureus"},
        "log_name": "aureus.example/views",
        "uid": "01990000-0000-7000-9000-000000000007",
        "event_code": "budgets.funds_reserved",
        "sequence": 7,
        "original_time": "2026-03-03T14:00:07.000000Z",
        "correlation_uid": "01990000-0000-7000-8000-000000000007",
        "tenant_uid": "acme",
    }
    assert told == {
        "activity_id": 3,
        "activity_name": "Update",
        "category_uid": 3,
        "category_name": "Identity & Access Management",
        "class_uid": 3004,
        "class_name": "Entity Management",
        "type_uid": 300403,
        "type_name": "Entity Management: Update",
        "severity_id": 1,
        "severity": "Informational",
        "time": 1772546407000,
        "actor": {"user": {"uid": "usr-ana", "type_id": 1, "type": "User"}},
        "unmapped": {"stream": "budget:lake", "version": 3, "leaf": LEAF, "data": RESERVED.body["data"]},
        "status_id": 1,
        "status": "Success",
        "entity": {"uid": "budget:lake", "name": "lake", "version": "3", "type_id": 99, "type": "budget"},
    }


def test_provenance_of_one_event(tmp_path: Path) -> None:
    told = json.loads(rendered(BY_NAME["prov"], tmp_path / "p", [RESERVED]))
    version, activity = "log:acme/stream/budget:lake@3", "log:acme/activity/01990000-0000-7000-8000-000000000007"
    assert told == {
        "prefix": {"log": "https://aureus.example/views/", "aureus": "https://aureus.example/ns#"},
        "entity": {
            version: {
                "prov:type": {"$": "aureus:StreamVersion", "type": "prov:QUALIFIED_NAME"},
                "prov:label": "budgets.funds_reserved",
                "aureus:position": {"$": "7", "type": "xsd:long"},
                "aureus:leaf": LEAF,
            }
        },
        "wasGeneratedBy": {"_:r1": {"prov:entity": version, "prov:activity": activity, "prov:time": "2026-03-03T14:00:07.000000Z"}},
        "wasDerivedFrom": {"_:r2": {"prov:generatedEntity": version, "prov:usedEntity": "log:acme/stream/budget:lake@2"}},
    }


def test_only_what_speaks_of_lineage_is_told_as_lineage(tmp_path: Path) -> None:
    told = {event.body["type"] for event in one_of_each() if lines("openlineage", tmp_path / "l", event)}
    assert told <= set(TOLD_OF)
    assert lines("openlineage", tmp_path / "l", RESERVED) == []
