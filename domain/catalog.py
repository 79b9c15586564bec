"""The catalog: datasets with their schema, owners, classification, lineage and freshness, and the glossary's terms.

A dataset's terms are linked on the dataset's own stream, for only there is it known which columns it has.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, assert_never

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from domain.kernel import Event, JsonObject
from domain.rollback import RolledBack, settings_json
from domain.values import MAX_SAFE_INTEGER, Duration, Identifier, Label, Personal, Text

Count = Annotated[int, Field(ge=0, le=MAX_SAFE_INTEGER, strict=True)]
UtcTime = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class PiiLevel(StrEnum):
    """How much personal data: none, indirect (low), or directly identifying or sensitive (high)."""

    NONE = "none"
    LOW = "low"
    HIGH = "high"

    @property
    def rank(self) -> int:
        return ("none", "low", "high").index(self.value)


class Jurisdiction(StrEnum):
    """Whose law the data stands under; `multi` is more than one, or not yet known, and is judged most strictly."""

    US = "US"
    EU = "EU"
    UK = "UK"
    APAC = "APAC"
    MULTI = "multi"


class Environment(StrEnum):
    """Where the dataset lives on its way to the people who rely on it."""

    DEV = "dev"
    STAGING = "staging"
    PRODUCTION = "production"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(_Value):
    """What a dataset is, and what policies judge it by."""

    name: Label
    description: Text | None = None
    domain: Identifier
    pii_level: PiiLevel
    jurisdiction: Jurisdiction
    environment: Environment = Environment.PRODUCTION


class ColumnSpec(_Value):
    """One column; what is not known of it is left out. `pii` and `classification` are its privacy tags."""

    name: Label
    type: Label | None = None
    description: Text | None = None
    nullable: bool | None = None
    unique: bool | None = None
    primary_key: bool = False
    pii: PiiLevel | None = None
    classification: Label | None = None


class ColumnChange(_Value):
    """A column that stayed, and which of its attributes did not."""

    column: Label
    attributes: tuple[str, ...]


class ColumnLineage(_Value):
    """A column and the upstream column it is made from; without the latter, from the upstream dataset as a whole."""

    column: Label
    upstream_column: Label | None = None


class Upstream(_Value):
    """A dataset another is made from."""

    dataset_id: Identifier
    columns: Annotated[tuple[ColumnLineage, ...], Field(max_length=1_000)] = ()


class ColumnMeaning(_Value):
    """A column, and the term that says what it means."""

    column: Label
    term_id: Identifier


class Deprecation(_Value):
    """Why nobody should build on a dataset any more, and what to use in its place."""

    reason: Text
    replaced_by: Identifier | None = None


class DatasetSettings(_Value):
    """What of a dataset is decided by people, and what a rollback restores; refreshes and usage happened, and stay."""

    profile: Profile
    columns: tuple[ColumnSpec, ...] = ()
    owners: dict[Identifier, Label] = {}
    tags: tuple[Label, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    meanings: tuple[ColumnMeaning, ...] = ()
    freshness_sla: Duration | None = None
    contract: JsonObject | None = None
    deprecation: Deprecation | None = None


def highest_pii(columns: Iterable[ColumnSpec]) -> PiiLevel:
    """The level of the most personal column."""
    return max((column.pii for column in columns if column.pii), key=lambda level: level.rank, default=PiiLevel.NONE)


class DatasetRegistered(Event, name="catalog.dataset_registered"):
    """The dataset is in the catalog from now on."""

    dataset_id: Identifier
    profile: Profile


class DatasetDescribed(Event, name="catalog.dataset_described"):
    """The dataset's profile reads like this from now on."""

    dataset_id: Identifier
    profile: Profile


class SchemaChanged(Event, name="catalog.schema_changed"):
    """The dataset has these columns from now on, its schema's `revision`; against the one before, some were added, removed or changed."""

    dataset_id: Identifier
    revision: Count
    columns: tuple[ColumnSpec, ...]
    added: tuple[Label, ...] = ()
    removed: tuple[Label, ...] = ()
    changed: tuple[ColumnChange, ...] = ()


class OwnerAssigned(Event, name="catalog.owner_assigned"):
    """Somebody answers for the dataset, in a role."""

    dataset_id: Identifier
    owner_id: Identifier
    role: Label


class OwnerRemoved(Event, name="catalog.owner_removed"):
    """Somebody no longer answers for the dataset."""

    dataset_id: Identifier
    owner_id: Identifier


class OwnerContactRecorded(Event, name="catalog.owner_contact_recorded"):
    """How to reach an owner who has no account here; name and address stay erasable."""

    dataset_id: Identifier
    owner_id: Identifier
    contact_name: Annotated[str | None, Personal(subject="owner_id")] = None
    contact_email: Annotated[str | None, Personal(subject="owner_id")] = None


class TagsChanged(Event, name="catalog.tags_changed"):
    """The dataset carries these tags from now on."""

    dataset_id: Identifier
    tags: tuple[Label, ...]


class LineageRecorded(Event, name="catalog.lineage_recorded"):
    """The dataset is made from another; a later record of the same edge replaces its columns."""

    dataset_id: Identifier
    upstream: Upstream


class LineageRemoved(Event, name="catalog.lineage_removed"):
    """The dataset is no longer made from that one."""

    dataset_id: Identifier
    upstream_id: Identifier


class FreshnessAgreed(Event, name="catalog.freshness_agreed"):
    """The longest the dataset may go without a refresh; without a duration nothing is promised any more."""

    dataset_id: Identifier
    freshness_sla: Duration | None = None


class DatasetRefreshed(Event, name="catalog.dataset_refreshed"):
    """The data was brought up to date at that moment."""

    dataset_id: Identifier
    refreshed_at: UtcTime
    row_count: Count | None = None


class UsageRecorded(Event, name="catalog.usage_recorded"):
    """An actor read the dataset that many times more."""

    dataset_id: Identifier
    used_by: Identifier
    query_count: Count


class ContractRecorded(Event, name="catalog.contract_recorded"):
    """The terms the dataset is offered under: quality rules, access roles, service levels, as its contract states them."""

    dataset_id: Identifier
    contract: JsonObject


class TermLinked(Event, name="catalog.term_linked"):
    """A column means what a glossary term says."""

    dataset_id: Identifier
    column: Label
    term_id: Identifier


class TermUnlinked(Event, name="catalog.term_unlinked"):
    """A column no longer means what that term says."""

    dataset_id: Identifier
    column: Label
    term_id: Identifier


class DatasetDeprecated(Event, name="catalog.dataset_deprecated"):
    """Nobody should build on the dataset any more."""

    dataset_id: Identifier
    reason: Text
    replaced_by: Identifier | None = None


class DatasetReinstated(Event, name="catalog.dataset_reinstated"):
    """The dataset may be built on again."""

    dataset_id: Identifier


class DatasetRolledBack(RolledBack, Event, name="catalog.dataset_rolled_back"):
    """The dataset's settings are again those of an earlier version.

    Where its columns differ, its schema has a new `revision`; `added`, `removed` and `changed` say how. `upstreams_removed` and
    `meanings_removed` are what is no longer so besides.
    """

    dataset_id: Identifier
    snapshot: DatasetSettings
    revision: Count | None = None
    added: tuple[Label, ...] = ()
    removed: tuple[Label, ...] = ()
    changed: tuple[ColumnChange, ...] = ()
    upstreams_removed: tuple[Identifier, ...] = ()
    meanings_removed: tuple[ColumnMeaning, ...] = ()


class TermDefined(Event, name="catalog.term_defined"):
    """A business term has a meaning from now on."""

    term_id: Identifier
    name: Label
    definition: Text
    synonyms: tuple[Label, ...] = ()


class TermRevised(Event, name="catalog.term_revised"):
    """A business term reads like this from now on."""

    term_id: Identifier
    name: Label
    definition: Text
    synonyms: tuple[Label, ...] = ()


RelationEvent = OwnerAssigned | OwnerRemoved | OwnerContactRecorded | LineageRecorded | LineageRemoved | TermLinked | TermUnlinked
StandingEvent = DatasetDeprecated | DatasetReinstated | DatasetRolledBack
DatasetEvent = (
    DatasetRegistered
    | DatasetDescribed
    | SchemaChanged
    | TagsChanged
    | FreshnessAgreed
    | DatasetRefreshed
    | UsageRecorded
    | ContractRecorded
    | StandingEvent
    | RelationEvent
)
TermEvent = TermDefined | TermRevised


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as the rules see it. Usage is not part of it: no rule asks for it."""

    dataset_id: str
    profile: Profile
    columns: tuple[ColumnSpec, ...] = ()
    schema_version: int = 0
    owners: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Owner id -> role."""
    contacts: frozenset[str] = frozenset()
    """Owners whose contact was recorded; what it was is personal, and not remembered here."""
    tags: tuple[str, ...] = ()
    upstreams: Mapping[str, Upstream] = field(default_factory=lambda: MappingProxyType({}))
    term_links: frozenset[tuple[str, str]] = frozenset()
    """(column, term id)"""
    freshness_sla: str | None = None
    last_refresh_at: datetime | None = None
    contract: JsonObject | None = None
    deprecation: Deprecation | None = None

    @property
    def deprecated(self) -> bool:
        return self.deprecation is not None

    @property
    def replaced_by(self) -> str | None:
        return self.deprecation.replaced_by if self.deprecation else None

    @property
    def settings(self) -> DatasetSettings:
        return DatasetSettings(
            profile=self.profile,
            columns=self.columns,
            owners=dict(self.owners),
            tags=self.tags,
            upstreams=tuple(self.upstreams[dataset_id] for dataset_id in sorted(self.upstreams)),
            meanings=tuple(ColumnMeaning(column=column, term_id=term_id) for column, term_id in sorted(self.term_links)),
            freshness_sla=self.freshness_sla,
            contract=self.contract,
            deprecation=self.deprecation,
        )

    def has_column(self, name: str) -> bool:
        return any(column.name == name for column in self.columns)


@dataclass(frozen=True, slots=True)
class Term:
    """A term of the glossary."""

    term_id: str
    name: str
    definition: str
    synonyms: tuple[str, ...]


def evolve(dataset: Dataset | None, event: DatasetEvent) -> Dataset:
    if isinstance(event, DatasetRegistered):
        return Dataset(event.dataset_id, event.profile)
    assert dataset is not None, "a dataset's first event registers it"
    if isinstance(event, RelationEvent):
        return _relate(dataset, event)
    if isinstance(event, StandingEvent):
        return _stand(dataset, event)
    match event:
        case DatasetDescribed():
            return replace(dataset, profile=event.profile)
        case SchemaChanged():
            return replace(dataset, columns=event.columns, schema_version=event.revision)
        case TagsChanged():
            return replace(dataset, tags=event.tags)
        case FreshnessAgreed():
            return replace(dataset, freshness_sla=event.freshness_sla)
        case DatasetRefreshed():
            return replace(dataset, last_refresh_at=max(event.refreshed_at, dataset.last_refresh_at or event.refreshed_at))
        case UsageRecorded():
            return dataset
        case ContractRecorded():
            return replace(dataset, contract=event.contract)
        case _:
            assert_never(event)


def _relate(dataset: Dataset, event: RelationEvent) -> Dataset:
    match event:
        case OwnerAssigned():
            return replace(dataset, owners={**dataset.owners, event.owner_id: event.role})
        case OwnerRemoved():
            owners = {owner_id: role for owner_id, role in dataset.owners.items() if owner_id != event.owner_id}
            return replace(dataset, owners=owners, contacts=dataset.contacts - {event.owner_id})
        case OwnerContactRecorded():
            return replace(dataset, contacts=dataset.contacts | {event.owner_id})
        case LineageRecorded():
            return replace(dataset, upstreams={**dataset.upstreams, event.upstream.dataset_id: event.upstream})
        case LineageRemoved():
            return replace(dataset, upstreams={key: edge for key, edge in dataset.upstreams.items() if key != event.upstream_id})
        case TermLinked():
            return replace(dataset, term_links=dataset.term_links | {(event.column, event.term_id)})
        case TermUnlinked():
            return replace(dataset, term_links=dataset.term_links - {(event.column, event.term_id)})
        case _:
            assert_never(event)


def _stand(dataset: Dataset, event: StandingEvent) -> Dataset:
    match event:
        case DatasetDeprecated():
            return replace(dataset, deprecation=Deprecation(reason=event.reason, replaced_by=event.replaced_by))
        case DatasetReinstated():
            return replace(dataset, deprecation=None)
        case DatasetRolledBack():
            return _restored(dataset, event)
        case _:
            assert_never(event)


def _restored(dataset: Dataset, event: DatasetRolledBack) -> Dataset:
    settings = event.snapshot
    return replace(
        dataset,
        profile=settings.profile,
        columns=settings.columns,
        schema_version=event.revision or dataset.schema_version,
        owners=settings.owners,
        contacts=dataset.contacts & settings.owners.keys(),
        tags=settings.tags,
        upstreams={upstream.dataset_id: upstream for upstream in settings.upstreams},
        term_links=frozenset((meaning.column, meaning.term_id) for meaning in settings.meanings),
        freshness_sla=settings.freshness_sla,
        contract=settings.contract,
        deprecation=settings.deprecation,
    )


def snapshot(dataset: Dataset | None) -> JsonObject | None:
    """The settings that a rollback restores, as JSON."""
    return settings_json(dataset.settings) if dataset else None


def evolve_term(_term: Term | None, event: TermEvent) -> Term:
    match event:
        case TermDefined() | TermRevised():
            return Term(event.term_id, event.name, event.definition, event.synonyms)
        case _:
            assert_never(event)
