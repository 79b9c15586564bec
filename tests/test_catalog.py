"""The catalog: what is refused, what follows, and what people read of it."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
import pytest
from pydantic import ValidationError

from api.catalog import dataset_lineage
from api.errors import ApiError
from api.reading import Reader
from commands.catalog import (
    DATASETS,
    TERMS,
    AgreeFreshness,
    AssignOwner,
    ChangeSchema,
    DefineTerm,
    DeprecateDataset,
    DescribeDataset,
    LinkTerm,
    Owner,
    RecordContract,
    RecordLineage,
    RecordOwnerContact,
    RecordRefresh,
    RecordUsage,
    RegisterDataset,
    ReinstateDataset,
    RemoveLineage,
    RemoveOwner,
    ReviseTerm,
    SyncDataset,
    TagDataset,
    UnlinkTerm,
)
from domain.catalog import (
    ColumnChange,
    ColumnLineage,
    ColumnSpec,
    ContractRecorded,
    DatasetDeprecated,
    DatasetDescribed,
    DatasetRefreshed,
    DatasetRegistered,
    DatasetReinstated,
    Environment,
    FreshnessAgreed,
    Jurisdiction,
    LineageRecorded,
    LineageRemoved,
    OwnerAssigned,
    OwnerContactRecorded,
    OwnerRemoved,
    PiiLevel,
    Profile,
    SchemaChanged,
    TagsChanged,
    TermDefined,
    TermLinked,
    TermRevised,
    TermUnlinked,
    Upstream,
    UsageRecorded,
)
from domain.kernel import EVENTS, Event, Recorded
from infra.read_queries import ListQuery, Page
from projections.catalog import PROJECTION, freshness_at
from projections.engine import ReadTable, replay, unread_events
from tests.given import ANALYST, AT, given

PROFILE = Profile(name="Orders", domain="retail", pii_level=PiiLevel.LOW, jurisdiction=Jurisdiction.EU)
ID = ColumnSpec(name="id", type="bigint", primary_key=True)
EMAIL = ColumnSpec(name="email", type="text", pii=PiiLevel.HIGH)
TOTAL = ColumnSpec(name="total", type="int")

REGISTERED = DatasetRegistered(dataset_id="orders", profile=PROFILE)
SCHEMA = SchemaChanged(dataset_id="orders", revision=1, columns=(ID, TOTAL), added=("id", "total"))
FROM_RAW = LineageRecorded(
    dataset_id="orders", upstream=Upstream(dataset_id="raw", columns=(ColumnLineage(column="total", upstream_column="amount"),))
)
LINKED = TermLinked(dataset_id="orders", column="total", term_id="revenue")
OWNED = OwnerAssigned(dataset_id="orders", owner_id="usr-ana", role="owner")
DEPRECATED = DatasetDeprecated(dataset_id="orders", reason="replaced", replaced_by="orders-2")


def test_registering_with_little_known_assumes_what_is_judged_most_strictly() -> None:
    profile = Profile(
        name="Orders",
        domain="unassigned",
        pii_level=PiiLevel.HIGH,
        jurisdiction=Jurisdiction.MULTI,
        environment=Environment.PRODUCTION,
    )
    schema = SchemaChanged(dataset_id="orders", revision=1, columns=(ID, EMAIL), added=("id", "email"))
    command = RegisterDataset(dataset_id="orders", name="Orders", columns=(ID, EMAIL))
    given(DATASETS).when(command).then(DatasetRegistered(dataset_id="orders", profile=profile), schema)


def test_a_dataset_is_registered_once() -> None:
    given(DATASETS, REGISTERED).when(RegisterDataset(dataset_id="orders", name="Again")).refused("dataset_exists", field="dataset_id")


@pytest.mark.parametrize(
    "command",
    [
        DescribeDataset(dataset_id="orders", name="x"),
        ChangeSchema(dataset_id="orders", columns=(ID,)),
        RecordUsage(dataset_id="orders", used_by="usr-ana"),
        ReinstateDataset(dataset_id="orders"),
    ],
)
def test_what_is_not_in_the_catalog_cannot_be_changed(command: Any) -> None:
    given(DATASETS).when(command).refused("dataset_not_found", field="dataset_id")


def test_a_deprecated_dataset_refuses_changes_and_names_its_successor() -> None:
    history = given(DATASETS, REGISTERED, DEPRECATED)
    for command in (
        TagDataset(dataset_id="orders", tags=("a",)),
        SyncDataset(dataset_id="orders"),
        DeprecateDataset(dataset_id="orders", reason="x"),
    ):
        history.when(command).refused("dataset_deprecated", replaced_by="orders-2")
    used = UsageRecorded(dataset_id="orders", used_by="usr-ana", query_count=1)
    history.when(RecordUsage(dataset_id="orders", used_by="usr-ana")).then(used)
    history.when(ReinstateDataset(dataset_id="orders")).then(DatasetReinstated(dataset_id="orders"))
    given(DATASETS, REGISTERED).when(ReinstateDataset(dataset_id="orders")).then()


def test_a_dataset_cannot_replace_itself() -> None:
    command = DeprecateDataset(dataset_id="orders", reason="x", replaced_by="orders")
    given(DATASETS, REGISTERED).when(command).refused("replaced_by_itself", field="replaced_by")


def test_describing_changes_what_is_given_and_nothing_else() -> None:
    described = DatasetDescribed(dataset_id="orders", profile=PROFILE.model_copy(update={"domain": "finance"}))
    given(DATASETS, REGISTERED).when(DescribeDataset(dataset_id="orders", domain="finance")).then(described)
    given(DATASETS, REGISTERED).when(DescribeDataset(dataset_id="orders", domain="retail")).then()


def test_a_schema_change_says_what_was_added_removed_and_changed() -> None:
    wide = ColumnSpec(name="total", type="bigint", description="in cents")
    expected = SchemaChanged(
        dataset_id="orders",
        revision=2,
        columns=(wide, EMAIL),
        added=("email",),
        removed=("id",),
        changed=(ColumnChange(column="total", attributes=("type", "description")),),
    )
    raised = DatasetDescribed(dataset_id="orders", profile=PROFILE.model_copy(update={"pii_level": PiiLevel.HIGH}))
    given(DATASETS, REGISTERED, SCHEMA).when(ChangeSchema(dataset_id="orders", columns=(wide, EMAIL))).then(expected, raised)


def test_links_and_lineage_of_a_column_go_with_it() -> None:
    changed = SchemaChanged(dataset_id="orders", revision=2, columns=(ID,), removed=("total",))
    unlinked = TermUnlinked(dataset_id="orders", column="total", term_id="revenue")
    cut = LineageRecorded(dataset_id="orders", upstream=Upstream(dataset_id="raw"))
    given(DATASETS, REGISTERED, SCHEMA, FROM_RAW, LINKED).when(ChangeSchema(dataset_id="orders", columns=(ID,))).then(
        changed, unlinked, cut
    )


def test_a_column_is_named_once() -> None:
    given(DATASETS, REGISTERED).when(ChangeSchema(dataset_id="orders", columns=(ID, ID))).refused("column_duplicated", columns=["id"])


def test_a_dataset_is_never_less_personal_than_its_columns() -> None:
    raised = DatasetDescribed(dataset_id="orders", profile=PROFILE.model_copy(update={"pii_level": PiiLevel.HIGH}))
    schema = SchemaChanged(dataset_id="orders", revision=1, columns=(EMAIL,), added=("email",))
    lower = DescribeDataset(dataset_id="orders", pii_level=PiiLevel.NONE)
    given(DATASETS, REGISTERED, schema, raised).when(lower).refused("pii_level_below_columns", columns=["email"])


def test_lineage_needs_columns_that_exist_and_another_dataset() -> None:
    unknown = Upstream(dataset_id="raw", columns=(ColumnLineage(column="gone"),))
    history = given(DATASETS, REGISTERED, SCHEMA)
    history.when(RecordLineage(dataset_id="orders", upstream=unknown)).refused("unknown_column", column="gone")
    history.when(RecordLineage(dataset_id="orders", upstream=Upstream(dataset_id="orders"))).refused("lineage_to_itself")
    history.when(RemoveLineage(dataset_id="orders", upstream_id="raw")).refused("lineage_not_found")
    history.when(RecordLineage(dataset_id="orders", upstream=FROM_RAW.upstream)).then(FROM_RAW)
    traced = given(DATASETS, REGISTERED, SCHEMA, FROM_RAW)
    traced.when(RecordLineage(dataset_id="orders", upstream=FROM_RAW.upstream)).then()
    traced.when(RemoveLineage(dataset_id="orders", upstream_id="raw")).then(LineageRemoved(dataset_id="orders", upstream_id="raw"))


def test_terms_are_linked_to_columns_that_exist() -> None:
    history = given(DATASETS, REGISTERED, SCHEMA)
    history.when(LinkTerm(dataset_id="orders", column="gone", term_id="revenue")).refused("unknown_column", field="column")
    history.when(LinkTerm(dataset_id="orders", column="total", term_id="revenue")).then(LINKED)
    unlink = UnlinkTerm(dataset_id="orders", column="total", term_id="revenue")
    history.when(unlink).refused("term_link_not_found")
    given(DATASETS, REGISTERED, SCHEMA, LINKED).when(unlink).then(TermUnlinked(dataset_id="orders", column="total", term_id="revenue"))


def test_owners_come_change_and_go() -> None:
    steward = OwnerAssigned(dataset_id="orders", owner_id="usr-ana", role="steward")
    history = given(DATASETS, REGISTERED, OWNED)
    history.when(AssignOwner(dataset_id="orders", owner_id="usr-ana")).then()
    history.when(AssignOwner(dataset_id="orders", owner_id="usr-ana", role="steward")).then(steward)
    history.when(RemoveOwner(dataset_id="orders", owner_id="usr-bob")).refused("owner_not_found", owners=["usr-ana"])
    history.when(RemoveOwner(dataset_id="orders", owner_id="usr-ana")).then(OwnerRemoved(dataset_id="orders", owner_id="usr-ana"))


def test_a_contact_is_recorded_once_unless_it_is_corrected_and_never_part_of_the_intent() -> None:
    command = RecordOwnerContact(dataset_id="orders", owner_id="usr-ana", contact_name="Ana", contact_email="ana@example.com")
    recorded = OwnerContactRecorded(dataset_id="orders", owner_id="usr-ana", contact_name="Ana", contact_email="ana@example.com")
    given(DATASETS, REGISTERED, OWNED).when(command).then(recorded)
    given(DATASETS, REGISTERED, OWNED, recorded).when(command).then()
    given(DATASETS, REGISTERED, OWNED, recorded).when(command.model_copy(update={"correct": True})).then(recorded)
    given(DATASETS, REGISTERED, OWNED).when(RecordOwnerContact(dataset_id="orders", owner_id="usr-ana")).refused("contact_empty")
    assert "Ana" not in str(command.intent())
    assert set(OwnerContactRecorded.personal) == {"contact_name", "contact_email"}


def test_freshness_is_promised_and_refreshes_are_in_the_past() -> None:
    agreed = FreshnessAgreed(dataset_id="orders", freshness_sla="PT24H")
    history = given(DATASETS, REGISTERED, agreed)
    history.when(AgreeFreshness(dataset_id="orders", freshness_sla="PT24H")).then()
    history.when(AgreeFreshness(dataset_id="orders")).then(FreshnessAgreed(dataset_id="orders"))
    history.when(RecordRefresh(dataset_id="orders", refreshed_at=AT + timedelta(hours=1))).refused("refresh_in_future")
    refreshed = DatasetRefreshed(dataset_id="orders", refreshed_at=AT)
    history.when(RecordRefresh(dataset_id="orders", refreshed_at=AT)).then(refreshed)
    given(DATASETS, REGISTERED, refreshed).when(RecordRefresh(dataset_id="orders", refreshed_at=AT)).then()


def test_commands_that_no_event_could_hold_are_invalid() -> None:
    with pytest.raises(ValidationError, match="at most 1000 items"):
        ChangeSchema(dataset_id="orders", columns=tuple(ColumnSpec(name=f"c{n}") for n in range(1_001)))
    with pytest.raises(ValidationError, match="at most 40000 fit into one signed event"):
        ChangeSchema(dataset_id="orders", columns=tuple(ColumnSpec(name=f"c{n}", description="x" * 100) for n in range(900)))
    with pytest.raises(ValidationError, match="at most 40000 fit"):
        RecordContract(dataset_id="orders", contract={"quality": ["x" * 50_000]})
    with pytest.raises(ValidationError):
        RecordRefresh.model_validate({"dataset_id": "orders", "refreshed_at": "2026-01-01T00:00:00"})


def test_a_schema_change_too_large_for_one_event_is_refused() -> None:
    def wide(prefix: str) -> tuple[ColumnSpec, ...]:
        return tuple(ColumnSpec(name=f"{prefix}{number:_>40}") for number in range(500))

    before = SchemaChanged(dataset_id="orders", revision=1, columns=wide("a"))
    given(DATASETS, REGISTERED, before).when(ChangeSchema(dataset_id="orders", columns=wide("b"))).refused("schema_too_large")


SPEC: dict[str, Any] = {
    "name": "Orders",
    "domain": "retail",
    "columns": (ID, TOTAL),
    "owners": (Owner(owner_id="usr-ana"),),
    "tags": ("b", "a"),
    "upstreams": (Upstream(dataset_id="raw"),),
    "freshness_sla": "P1D",
    "contract": {"quality": []},
}


def test_a_sync_registers_what_is_new_and_changes_only_what_differs() -> None:
    first = given(DATASETS).when(SyncDataset(dataset_id="orders", **SPEC)).events
    kinds = [type(event) for event in first]
    assert kinds == [DatasetRegistered, SchemaChanged, OwnerAssigned, TagsChanged, LineageRecorded, FreshnessAgreed, ContractRecorded]
    given(DATASETS, *first).when(SyncDataset(dataset_id="orders", **SPEC)).then()
    moved = SPEC | {"upstreams": (Upstream(dataset_id="raw-2"),), "owners": (), "tags": ("a",)}
    given(DATASETS, *first).when(SyncDataset(dataset_id="orders", **moved)).then(
        OwnerRemoved(dataset_id="orders", owner_id="usr-ana"),
        TagsChanged(dataset_id="orders", tags=("a",)),
        LineageRemoved(dataset_id="orders", upstream_id="raw"),
        LineageRecorded(dataset_id="orders", upstream=Upstream(dataset_id="raw-2")),
    )


def test_a_sync_keeps_what_its_source_does_not_say() -> None:
    private = SchemaChanged(dataset_id="orders", revision=1, columns=(ID, EMAIL), added=("id", "email"))
    raised = DatasetDescribed(dataset_id="orders", profile=PROFILE.model_copy(update={"pii_level": PiiLevel.HIGH}))
    command = SyncDataset(dataset_id="orders", columns=(ID, ColumnSpec(name="email", type="text")))
    given(DATASETS, REGISTERED, private, raised, OWNED).when(command).then()


def test_policies_see_the_stricter_of_what_is_and_what_would_be() -> None:
    held = DATASETS.replay([REGISTERED])
    standing = {"domain": "retail", "pii_level": "low", "jurisdiction": "EU", "environment": "production"}
    assert DATASETS.facts(held, TagDataset(dataset_id="orders", tags=())) == standing | {"becomes": {}}
    lower = DescribeDataset(dataset_id="orders", pii_level=PiiLevel.NONE, domain="retail")
    assert DATASETS.facts(held, lower) == standing | {"becomes": {"pii_level": "none"}}
    raised = standing | {"pii_level": "high", "becomes": {"pii_level": "high"}}
    assert DATASETS.facts(held, ChangeSchema(dataset_id="orders", columns=(EMAIL,))) == raised
    moved = DescribeDataset(dataset_id="orders", jurisdiction=Jurisdiction.US, environment=Environment.DEV)
    across = standing | {"jurisdiction": "multi", "becomes": {"jurisdiction": "US", "environment": "dev"}}
    assert DATASETS.facts(held, moved) == across
    new = {"domain": "unassigned", "pii_level": "high", "jurisdiction": "multi", "environment": "production"}
    assert DATASETS.facts(None, SyncDataset(dataset_id="orders", columns=(EMAIL,))) == new | {"becomes": new}
    assert DATASETS.facts(None, TagDataset(dataset_id="orders", tags=())) == {}


def test_terms_are_defined_once_and_revised() -> None:
    defined = TermDefined(term_id="revenue", name="Revenue", definition="What was sold.")
    define = DefineTerm(term_id="revenue", name="Revenue", definition="What was sold.")
    given(TERMS).when(define).then(defined)
    given(TERMS, defined).when(define).refused("term_exists")
    given(TERMS).when(ReviseTerm(term_id="revenue", name="x")).refused("term_not_found")
    revised = TermRevised(term_id="revenue", name="Revenue", definition="What was sold, net of tax.")
    given(TERMS, defined).when(ReviseTerm(term_id="revenue", definition="What was sold, net of tax.")).then(revised)
    given(TERMS, defined).when(ReviseTerm(term_id="revenue", name="Revenue")).then()


def recorded(*events: Event) -> list[Recorded[Any]]:
    """The events as the ledger would hold them, one a minute."""
    return [
        Recorded(
            position=position,
            tenant="acme",
            stream=f"dataset:{event.dataset_id}" if hasattr(event, "dataset_id") else f"term:{getattr(event, 'term_id', '')}",
            version=position,
            id=UUID(int=position),
            at=AT + timedelta(minutes=position),
            actor="usr-ana",
            correlation=UUID(int=0),
            causation=None,
            event=event,
        )
        for position, event in enumerate(events, 1)
    ]


def rows(*events: Event) -> dict[tuple[str, str], Any]:
    return {(table, row_id): row for (table, _, row_id), row in replay(PROJECTION, recorded(*events)).items()}


def test_what_people_read_of_a_dataset() -> None:
    second = SchemaChanged(dataset_id="orders", revision=2, columns=(ID,), removed=("total",))
    used = UsageRecorded(dataset_id="orders", used_by="usr-bob", query_count=3)
    contact = OwnerContactRecorded(dataset_id="orders", owner_id="usr-ana", contact_name="Ana")
    east = datetime(2026, 3, 3, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    refreshes = [DatasetRefreshed(dataset_id="orders", refreshed_at=moment) for moment in (east, east - timedelta(days=1))]
    tags = TagsChanged(dataset_id="orders", tags=("gold",))
    found = rows(REGISTERED, SCHEMA, OWNED, contact, FROM_RAW, LINKED, tags, second, used, used, *refreshes, DEPRECATED)
    dataset = found["datasets", "orders"]
    assert (dataset.schema_version, [column["name"] for column in dataset.columns]) == (2, ["id"])
    assert dataset.owners == [{"owner_id": "usr-ana", "role": "owner", "has_contact": True}]
    assert (dataset.owner_ids, dataset.tags, dataset.status, dataset.replaced_by) == (["usr-ana"], ["gold"], "deprecated", "orders-2")
    assert dataset.last_refresh_at == "2026-03-03T12:00:00.000000Z"
    assert found["dataset_schemas", "orders#1"].added == ["id", "total"]
    assert found["dataset_schemas", "orders#2"].removed == ["total"]
    assert found["lineage", "orders<-raw"].columns == [{"column": "total", "upstream_column": "amount"}]
    assert found["dataset_usage", "orders#usr-bob"].query_count == 6
    assert found["term_links", "orders#revenue#total"].column == "total"
    assert "Ana" not in str(found)


def test_what_ends_is_gone_and_what_is_reworded_keeps_its_beginning() -> None:
    unlinked = TermUnlinked(dataset_id="orders", column="total", term_id="revenue")
    defined = TermDefined(term_id="revenue", name="Revenue", definition="What was sold.")
    revised = TermRevised(term_id="revenue", name="Revenue", definition="Net of tax.")
    removed = OwnerRemoved(dataset_id="orders", owner_id="usr-ana")
    agreed = FreshnessAgreed(dataset_id="orders", freshness_sla="P1D")
    signed = ContractRecorded(dataset_id="orders", contract={"standard": "ODCS"})
    untraced = LineageRemoved(dataset_id="orders", upstream_id="raw")
    described = DatasetDescribed(dataset_id="orders", profile=PROFILE.model_copy(update={"domain": "finance"}))
    history = (REGISTERED, SCHEMA, OWNED, LINKED, FROM_RAW, unlinked, untraced, removed, agreed, signed, described)
    found = rows(*history, DEPRECATED, DatasetReinstated(dataset_id="orders"), defined, revised)
    assert {table for table, _ in found} == {"datasets", "dataset_schemas", "terms"}
    dataset = found["datasets", "orders"]
    assert (dataset.status, dataset.owners, dataset.freshness_sla, dataset.domain) == ("active", [], "P1D", "finance")
    assert (found["terms", "revenue"].definition, found["terms", "revenue"].defined_at) == ("Net of tax.", "2026-03-03T14:14:00.000000Z")


def test_every_catalog_event_is_read() -> None:
    assert [name for name in unread_events([PROJECTION]) if name.startswith("catalog.")] == []
    assert {event for event in EVENTS if event.event_name.startswith("catalog.")} == {*DATASETS.events, *TERMS.events}


def test_freshness_is_judged_at_the_moment_asked_about() -> None:
    refreshed_at = "2026-03-03T12:00:00.000000Z"
    noon = datetime(2026, 3, 3, 12, tzinfo=UTC)
    assert freshness_at("orders", "PT24H", refreshed_at, noon + timedelta(hours=24)).fresh is True
    stale = freshness_at("orders", "PT24H", refreshed_at, noon + timedelta(hours=25))
    assert (stale.fresh, stale.age_seconds, stale.due_at) == (False, 90_000, "2026-03-04T12:00:00.000000Z")
    assert freshness_at("orders", "PT24H", None, noon).fresh is False
    assert freshness_at("orders", None, refreshed_at, noon).fresh is None


class FoldedReads:
    """Reads over rows folded in memory, one row a page and nothing masked, as the lineage walk needs them."""

    def __init__(self, *events: Event) -> None:
        self.rows = rows(*events)

    async def many(self, table: ReadTable[Any], _tenant: str, ids: Sequence[str], *_: object) -> dict[str, dict[str, Any]]:
        return {row_id: asdict(self.rows[table.name, row_id]) for row_id in ids if (table.name, row_id) in self.rows}

    async def page(self, table: ReadTable[Any], _tenant: str, asked: ListQuery, *_: object) -> Page:
        found = [asdict(row) for (name, _), row in sorted(self.rows.items()) if name == table.name]
        found = [row for row in found if all(row[name] in values for name, values in asked.where.items())]
        start = int(asked.cursor or 0)
        return Page([orjson.dumps(row).decode() for row in found[start : start + 1]], str(start + 1) if start + 1 < len(found) else None, 0)

    async def masked(self, *_: object) -> frozenset[str]:
        return frozenset()


@pytest.mark.anyio
async def test_lineage_is_walked_both_ways_and_a_circle_ends() -> None:
    def made_from(dataset_id: str, *upstreams: str) -> list[Event]:
        registered = DatasetRegistered(dataset_id=dataset_id, profile=PROFILE)
        edges = [LineageRecorded(dataset_id=dataset_id, upstream=Upstream(dataset_id=upstream)) for upstream in upstreams]
        return [registered, *edges]

    events = [*made_from("mart", "staged", "seed"), *made_from("staged", "raw", "mart"), *made_from("report", "mart")]
    folded = FoldedReads(*events)
    services: Any = SimpleNamespace(reads=folded, fields=folded)
    reader = Reader(services, ANALYST, None)
    up = await dataset_lineage("mart", reader, direction="upstream", depth=5, columns=False)
    assert [(node["dataset_id"], node["distance"], node["registered"]) for node in up.nodes] == [
        ("mart", 0, True),
        ("seed", 1, False),
        ("staged", 1, True),
        ("raw", 2, False),
    ]
    assert [edge["edge_id"] for edge in up.edges] == ["mart<-seed", "mart<-staged", "staged<-mart", "staged<-raw"]
    assert "columns" not in up.edges[0]
    near = await dataset_lineage("mart", reader, direction="both", depth=1, columns=True)
    assert {node["dataset_id"] for node in near.nodes} == {"mart", "seed", "staged", "report"}
    assert near.edges[0]["columns"] == []
    with pytest.raises(ApiError, match="no dataset 'nothing'"):
        await dataset_lineage("nothing", reader, direction="both", depth=1, columns=False)
