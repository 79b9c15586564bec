"""The catalog as people read it: datasets, every version of their schemas, lineage, usage, and the glossary with its links."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel

from domain.catalog import (
    ContractRecorded,
    DatasetDeprecated,
    DatasetDescribed,
    DatasetRefreshed,
    DatasetRegistered,
    DatasetReinstated,
    DatasetRolledBack,
    FreshnessAgreed,
    LineageRecorded,
    LineageRemoved,
    OwnerAssigned,
    OwnerContactRecorded,
    OwnerRemoved,
    Profile,
    SchemaChanged,
    TagsChanged,
    TermDefined,
    TermLinked,
    TermRevised,
    TermUnlinked,
    UsageRecorded,
)
from domain.kernel import JsonObject, Recorded, timestamp
from domain.values import duration_seconds
from projections.engine import Projection, ReadTable, read_row, replace


@read_row
class DatasetRow:
    """One dataset as it stands; `owners` are opaque ids with their roles."""

    dataset_id: str
    name: str
    description: str | None
    domain: str
    pii_level: str
    jurisdiction: str
    environment: str
    columns: list[JsonObject]
    schema_version: int
    owners: list[JsonObject]
    owner_ids: list[str]
    tags: list[str]
    freshness_sla: str | None
    last_refresh_at: str | None
    contract: JsonObject | None
    status: str
    deprecation_reason: str | None
    replaced_by: str | None
    registered_by: str
    registered_at: str
    changed_at: str


@read_row
class SchemaRow:
    """One version of a dataset's schema, and how it differs from the one before."""

    dataset_id: str
    schema_version: int
    columns: list[JsonObject]
    added: list[str]
    removed: list[str]
    changed: list[JsonObject]
    changed_by: str
    changed_at: str


@read_row
class LineageRow:
    """One edge: the downstream dataset is made from the upstream one, column by column where that is known."""

    edge_id: str
    downstream_id: str
    upstream_id: str
    columns: list[JsonObject]
    recorded_by: str
    recorded_at: str


@read_row
class UsageRow:
    """How often one actor read one dataset."""

    dataset_id: str
    used_by: str
    query_count: int
    first_used_at: str
    last_used_at: str


@read_row
class TermRow:
    """One term of the glossary."""

    term_id: str
    name: str
    definition: str
    synonyms: list[str]
    defined_by: str
    defined_at: str
    changed_at: str


@read_row
class TermLinkRow:
    """One column that means what a term says."""

    dataset_id: str
    column: str
    term_id: str
    linked_by: str
    linked_at: str


datasets = ReadTable(
    "datasets",
    DatasetRow,
    filters=("domain", "pii_level", "jurisdiction", "environment", "tags", "owner_ids", "status"),
    sorts=("dataset_id", "name", "changed_at", "registered_at", "last_refresh_at"),
    search=("dataset_id", "name", "description"),
    history="long",
)
dataset_schemas = ReadTable("dataset_schemas", SchemaRow, filters=("dataset_id",), sorts=("schema_version", "changed_at"))
lineage = ReadTable("lineage", LineageRow, filters=("downstream_id", "upstream_id"), sorts=("edge_id", "recorded_at"), ends=True)
usage = ReadTable(
    "dataset_usage",
    UsageRow,
    filters=("dataset_id", "used_by"),
    sorts=("query_count", "last_used_at"),
    search=("dataset_id",),
    history="long",
)
terms = ReadTable("terms", TermRow, sorts=("term_id", "name", "changed_at"), search=("term_id", "name", "definition"))
term_links = ReadTable("term_links", TermLinkRow, filters=("dataset_id", "column", "term_id"), sorts=("linked_at",), ends=True)


def _values(models: Iterable[BaseModel]) -> list[JsonObject]:
    return [model.model_dump(mode="json", exclude_none=True) for model in models]


def _schema_version(recorded: Recorded[SchemaChanged]) -> tuple[str, ...]:
    return (f"{recorded.event.dataset_id}#{recorded.event.revision}",)


def _recorded_edge(recorded: Recorded[LineageRecorded]) -> tuple[str, ...]:
    return (f"{recorded.event.dataset_id}<-{recorded.event.upstream.dataset_id}",)


def _removed_edge(recorded: Recorded[LineageRemoved]) -> tuple[str, ...]:
    return (f"{recorded.event.dataset_id}<-{recorded.event.upstream_id}",)


def _use(recorded: Recorded[UsageRecorded]) -> tuple[str, ...]:
    return (f"{recorded.event.dataset_id}#{recorded.event.used_by}",)


def _restored_schema(recorded: Recorded[DatasetRolledBack]) -> tuple[str, ...]:
    return () if recorded.event.revision is None else (f"{recorded.event.dataset_id}#{recorded.event.revision}",)


def _restored_edges(recorded: Recorded[DatasetRolledBack]) -> list[str]:
    event = recorded.event
    upstreams = (*event.upstreams_removed, *(upstream.dataset_id for upstream in event.snapshot.upstreams))
    return [f"{event.dataset_id}<-{upstream_id}" for upstream_id in upstreams]


def _restored_links(recorded: Recorded[DatasetRolledBack]) -> list[str]:
    event = recorded.event
    return [f"{event.dataset_id}#{meaning.term_id}#{meaning.column}" for meaning in (*event.meanings_removed, *event.snapshot.meanings)]


def _link(recorded: Recorded[TermLinked | TermUnlinked]) -> tuple[str, ...]:
    event = recorded.event
    return (f"{event.dataset_id}#{event.term_id}#{event.column}",)


@datasets.on(DatasetRegistered)
def registered(_row: None, recorded: Recorded[DatasetRegistered], dataset_id: str) -> DatasetRow:
    profile = recorded.event.profile
    return DatasetRow(
        dataset_id=dataset_id,
        name=profile.name,
        description=profile.description,
        domain=profile.domain,
        pii_level=profile.pii_level.value,
        jurisdiction=profile.jurisdiction.value,
        environment=profile.environment.value,
        columns=[],
        schema_version=0,
        owners=[],
        owner_ids=[],
        tags=[],
        freshness_sla=None,
        last_refresh_at=None,
        contract=None,
        status="active",
        deprecation_reason=None,
        replaced_by=None,
        registered_by=recorded.actor,
        registered_at=recorded.at_text,
        changed_at=recorded.at_text,
    )


@datasets.on(DatasetDescribed)
def described(row: DatasetRow, recorded: Recorded[DatasetDescribed], _dataset_id: str) -> DatasetRow:
    return _profiled(row, recorded.event.profile, recorded.at_text)


def _profiled(row: DatasetRow, profile: Profile, at: str) -> DatasetRow:
    return replace(
        row,
        name=profile.name,
        description=profile.description,
        domain=profile.domain,
        pii_level=profile.pii_level.value,
        jurisdiction=profile.jurisdiction.value,
        environment=profile.environment.value,
        changed_at=at,
    )


@datasets.on(SchemaChanged)
def schema_changed(row: DatasetRow, recorded: Recorded[SchemaChanged], _dataset_id: str) -> DatasetRow:
    event = recorded.event
    return replace(row, columns=_values(event.columns), schema_version=event.revision, changed_at=recorded.at_text)


def _owned(row: DatasetRow, recorded: Recorded[OwnerAssigned | OwnerRemoved | OwnerContactRecorded], *owner: JsonObject) -> DatasetRow:
    others = [entry for entry in row.owners if entry["owner_id"] != recorded.event.owner_id]
    owners = sorted([*others, *owner], key=lambda entry: str(entry["owner_id"]))
    return replace(row, owners=owners, owner_ids=[entry["owner_id"] for entry in owners], changed_at=recorded.at_text)


def _owner(row: DatasetRow, owner_id: str) -> JsonObject:
    return next((entry for entry in row.owners if entry["owner_id"] == owner_id), {"owner_id": owner_id, "has_contact": False})


@datasets.on(OwnerAssigned)
def owner_assigned(row: DatasetRow, recorded: Recorded[OwnerAssigned], _dataset_id: str) -> DatasetRow:
    event = recorded.event
    return _owned(row, recorded, _owner(row, event.owner_id) | {"role": event.role})


@datasets.on(OwnerContactRecorded)
def owner_contact_recorded(row: DatasetRow, recorded: Recorded[OwnerContactRecorded], _dataset_id: str) -> DatasetRow:
    return _owned(row, recorded, _owner(row, recorded.event.owner_id) | {"has_contact": True})


@datasets.on(OwnerRemoved)
def owner_removed(row: DatasetRow, recorded: Recorded[OwnerRemoved], _dataset_id: str) -> DatasetRow:
    return _owned(row, recorded)


@datasets.on(TagsChanged)
def tags_changed(row: DatasetRow, recorded: Recorded[TagsChanged], _dataset_id: str) -> DatasetRow:
    return replace(row, tags=list(recorded.event.tags), changed_at=recorded.at_text)


@datasets.on(FreshnessAgreed)
def freshness_agreed(row: DatasetRow, recorded: Recorded[FreshnessAgreed], _dataset_id: str) -> DatasetRow:
    return replace(row, freshness_sla=recorded.event.freshness_sla, changed_at=recorded.at_text)


@datasets.on(DatasetRefreshed)
def refreshed(row: DatasetRow, recorded: Recorded[DatasetRefreshed], _dataset_id: str) -> DatasetRow:
    refreshed_at = timestamp(recorded.event.refreshed_at)
    return replace(row, last_refresh_at=max(refreshed_at, row.last_refresh_at or refreshed_at))


@datasets.on(ContractRecorded)
def contract_recorded(row: DatasetRow, recorded: Recorded[ContractRecorded], _dataset_id: str) -> DatasetRow:
    return replace(row, contract=recorded.event.contract, changed_at=recorded.at_text)


@datasets.on(DatasetDeprecated)
def deprecated(row: DatasetRow, recorded: Recorded[DatasetDeprecated], _dataset_id: str) -> DatasetRow:
    event = recorded.event
    return replace(row, status="deprecated", deprecation_reason=event.reason, replaced_by=event.replaced_by, changed_at=recorded.at_text)


@datasets.on(DatasetReinstated)
def reinstated(row: DatasetRow, recorded: Recorded[DatasetReinstated], _dataset_id: str) -> DatasetRow:
    return replace(row, status="active", deprecation_reason=None, replaced_by=None, changed_at=recorded.at_text)


@datasets.on(DatasetRolledBack)
def rolled_back(row: DatasetRow, recorded: Recorded[DatasetRolledBack], _dataset_id: str) -> DatasetRow:
    settings, revision = recorded.event.snapshot, recorded.event.revision
    deprecation = settings.deprecation
    return replace(
        _profiled(row, settings.profile, recorded.at_text),
        columns=_values(settings.columns),
        schema_version=row.schema_version if revision is None else revision,
        owners=[_owner(row, owner_id) | {"role": role} for owner_id, role in sorted(settings.owners.items())],
        owner_ids=sorted(settings.owners),
        tags=list(settings.tags),
        freshness_sla=settings.freshness_sla,
        contract=settings.contract,
        status="deprecated" if deprecation else "active",
        deprecation_reason=deprecation.reason if deprecation else None,
        replaced_by=deprecation.replaced_by if deprecation else None,
    )


@dataset_schemas.on(SchemaChanged, keys=_schema_version)
@dataset_schemas.on(DatasetRolledBack, keys=_restored_schema)
def schema_versioned(_row: None, recorded: Recorded[SchemaChanged | DatasetRolledBack], _version_id: str) -> SchemaRow:
    event = recorded.event
    assert event.revision is not None, "a schema that stayed as it was has no row of its own"
    return SchemaRow(
        dataset_id=event.dataset_id,
        schema_version=event.revision,
        columns=_values(event.columns if isinstance(event, SchemaChanged) else event.snapshot.columns),
        added=list(event.added),
        removed=list(event.removed),
        changed=_values(event.changed),
        changed_by=recorded.actor,
        changed_at=recorded.at_text,
    )


@lineage.on(LineageRecorded, keys=_recorded_edge)
def lineage_recorded(_row: LineageRow | None, recorded: Recorded[LineageRecorded], edge_id: str) -> LineageRow:
    upstream = recorded.event.upstream
    return LineageRow(
        edge_id=edge_id,
        downstream_id=recorded.event.dataset_id,
        upstream_id=upstream.dataset_id,
        columns=_values(upstream.columns),
        recorded_by=recorded.actor,
        recorded_at=recorded.at_text,
    )


@lineage.on(LineageRemoved, keys=_removed_edge)
def lineage_removed(_row: LineageRow, _recorded: Recorded[LineageRemoved], _edge_id: str) -> None:
    return None


@lineage.on(DatasetRolledBack, keys=_restored_edges)
def lineage_restored(row: LineageRow | None, recorded: Recorded[DatasetRolledBack], edge_id: str) -> LineageRow | None:
    event = recorded.event
    upstream = next((each for each in event.snapshot.upstreams if f"{event.dataset_id}<-{each.dataset_id}" == edge_id), None)
    if upstream is None:
        return None
    columns = _values(upstream.columns)
    if row is not None and row.columns == columns:
        return row
    return LineageRow(edge_id, event.dataset_id, upstream.dataset_id, columns, recorded.actor, recorded.at_text)


@usage.on(UsageRecorded, keys=_use)
def used(row: UsageRow | None, recorded: Recorded[UsageRecorded], _usage_id: str) -> UsageRow:
    event = recorded.event
    if row is not None:
        return replace(row, query_count=row.query_count + event.query_count, last_used_at=recorded.at_text)
    return UsageRow(event.dataset_id, event.used_by, event.query_count, recorded.at_text, recorded.at_text)


@terms.on(TermDefined, TermRevised)
def term_worded(row: TermRow | None, recorded: Recorded[TermDefined | TermRevised], term_id: str) -> TermRow:
    event = recorded.event
    return TermRow(
        term_id=term_id,
        name=event.name,
        definition=event.definition,
        synonyms=list(event.synonyms),
        defined_by=row.defined_by if row else recorded.actor,
        defined_at=row.defined_at if row else recorded.at_text,
        changed_at=recorded.at_text,
    )


@term_links.on(TermLinked, keys=_link)
def term_linked(_row: None, recorded: Recorded[TermLinked], _link_id: str) -> TermLinkRow:
    event = recorded.event
    return TermLinkRow(event.dataset_id, event.column, event.term_id, recorded.actor, recorded.at_text)


@term_links.on(TermUnlinked, keys=_link)
def term_unlinked(_row: TermLinkRow, _recorded: Recorded[TermUnlinked], _link_id: str) -> None:
    return None


@term_links.on(DatasetRolledBack, keys=_restored_links)
def term_links_restored(row: TermLinkRow | None, recorded: Recorded[DatasetRolledBack], link_id: str) -> TermLinkRow | None:
    dataset_id = recorded.event.dataset_id
    for meaning in recorded.event.snapshot.meanings:
        if f"{dataset_id}#{meaning.term_id}#{meaning.column}" == link_id:
            return row or TermLinkRow(dataset_id, meaning.column, meaning.term_id, recorded.actor, recorded.at_text)
    return None


PROJECTION = Projection("catalog", (datasets, dataset_schemas, lineage, usage, terms, term_links), ordering="stream")


class Freshness(BaseModel):
    """How a dataset stands against its freshness promise at one moment; `fresh` is null where nothing is promised."""

    dataset_id: str
    freshness_sla: str | None
    last_refresh_at: str | None
    now: str
    age_seconds: int | None
    due_at: str | None
    fresh: bool | None


def freshness_at(dataset_id: str, freshness_sla: str | None, last_refresh_at: str | None, now: datetime) -> Freshness:
    """Judged when it is asked, never stored: a dataset goes stale without anything happening to it."""
    last = datetime.fromisoformat(last_refresh_at) if last_refresh_at else None
    due = last + timedelta(seconds=duration_seconds(freshness_sla)) if last and freshness_sla else None
    return Freshness(
        dataset_id=dataset_id,
        freshness_sla=freshness_sla,
        last_refresh_at=last_refresh_at,
        now=timestamp(now),
        age_seconds=int((now - last).total_seconds()) if last else None,
        due_at=timestamp(due) if due else None,
        fresh=None if freshness_sla is None else due is not None and now <= due,
    )


class Lineage(BaseModel):
    """A part of the lineage graph: the datasets in it, nearest first, and the edges between them."""

    dataset_id: str
    nodes: list[JsonObject]
    edges: list[JsonObject]


def lineage_node(dataset_id: str, distance: int, row: JsonObject | None) -> JsonObject:
    """A dataset as a node; one that lineage names and the catalog does not know is `registered: false`."""
    known = {name: row[name] for name in ("name", "domain", "pii_level", "jurisdiction", "status")} if row else {}
    return {"dataset_id": dataset_id, "distance": distance, "registered": row is not None, **known}


def without_columns(edges: Sequence[JsonObject]) -> list[JsonObject]:
    """The edges between datasets alone."""
    return [{name: value for name, value in edge.items() if name != "columns"} for edge in edges]
