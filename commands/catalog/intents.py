"""What may be asked of the catalog's datasets and terms."""

from typing import Annotated, Final, Self

from pydantic import BaseModel, Field, model_validator

from domain.catalog import ColumnSpec, Count, Environment, Jurisdiction, PiiLevel, Upstream, UtcTime
from domain.kernel import Command, JsonObject
from domain.rollback import RollBack
from domain.values import Duration, Identifier, Label, Personal, Role, Text

CURATORS: Final = frozenset({Role.ANALYST, Role.ADMIN, Role.AGENT})
STEWARDS: Final = frozenset({Role.ANALYST, Role.ADMIN})

MAX_COMMAND_BYTES: Final = 40_000
"""What fits into one signed event (64 KiB in its envelope) together with the evidence of the action."""

Columns = Annotated[tuple[ColumnSpec, ...], Field(max_length=1_000)]
Tags = Annotated[tuple[Label, ...], Field(max_length=100)]


class Owner(BaseModel, frozen=True, extra="forbid"):
    """Who answers for a dataset, by opaque id."""

    owner_id: Identifier
    role: Label = "owner"


class _Bounded(BaseModel):
    @model_validator(mode="after")
    def _fits_one_event(self) -> Self:
        size_bytes = len(self.model_dump_json(exclude_none=True).encode())
        if size_bytes > MAX_COMMAND_BYTES:
            raise ValueError(
                f"it is {size_bytes} bytes of JSON, and at most {MAX_COMMAND_BYTES} fit into one signed event; shorten the descriptions, "
                "or keep the contract as an artifact"
            )
        return self


class ProfileChange(BaseModel):
    """The parts of a profile; what is left out stays as it is."""

    name: Label | None = None
    description: Text | None = None
    domain: Identifier | None = None
    pii_level: PiiLevel | None = None
    jurisdiction: Jurisdiction | None = None
    environment: Environment | None = None


class DatasetSpec(ProfileChange, _Bounded):
    """A dataset as it should stand; what is left out stays as it is."""

    columns: Columns | None = None
    owners: Annotated[tuple[Owner, ...], Field(max_length=100)] | None = None
    tags: Tags | None = None
    upstreams: Annotated[tuple[Upstream, ...], Field(max_length=500)] | None = None
    freshness_sla: Duration | None = None
    contract: JsonObject | None = None


class RegisterDataset(Command, DatasetSpec, name="catalog.register_dataset", roles=CURATORS):
    """Put a dataset into the catalog, whole or with as much as is known of it."""

    dataset_id: Identifier
    name: Label


class SyncDataset(Command, DatasetSpec, name="catalog.sync_dataset", roles=CURATORS):
    """Bring a dataset to the state its source describes: registered if it is new, then only what differs is changed."""

    dataset_id: Identifier


class DescribeDataset(Command, ProfileChange, name="catalog.describe_dataset", roles=CURATORS):
    """Change what a dataset's profile says; lowering the PII level below that of a column is refused."""

    dataset_id: Identifier


class ChangeSchema(Command, _Bounded, name="catalog.change_schema", roles=CURATORS):
    """Give a dataset its columns, all of them; the difference becomes a new version of its schema."""

    dataset_id: Identifier
    columns: Columns


class AssignOwner(Command, name="catalog.assign_owner", roles=STEWARDS):
    """Make somebody answer for a dataset, or change the role they do it in."""

    dataset_id: Identifier
    owner_id: Identifier
    role: Label = "owner"


class RemoveOwner(Command, name="catalog.remove_owner", roles=STEWARDS):
    """Relieve an owner."""

    dataset_id: Identifier
    owner_id: Identifier


class RecordOwnerContact(Command, name="catalog.record_owner_contact", roles=CURATORS):
    """Record how to reach an owner who has no account here; what is recorded already stands unless `correct` is set."""

    dataset_id: Identifier
    owner_id: Identifier
    contact_name: Annotated[Annotated[str, Field(max_length=200)] | None, Personal(subject="owner_id")] = None
    contact_email: Annotated[Annotated[str, Field(max_length=320)] | None, Personal(subject="owner_id")] = None
    correct: bool = False


class TagDataset(Command, name="catalog.tag_dataset", roles=CURATORS):
    """Give a dataset its tags, all of them."""

    dataset_id: Identifier
    tags: Tags


class RecordLineage(Command, name="catalog.record_lineage", roles=CURATORS):
    """Record that a dataset is made from another, column by column where that is known."""

    dataset_id: Identifier
    upstream: Upstream


class RemoveLineage(Command, name="catalog.remove_lineage", roles=CURATORS):
    """Take back that a dataset is made from another."""

    dataset_id: Identifier
    upstream_id: Identifier


class AgreeFreshness(Command, name="catalog.agree_freshness", roles=STEWARDS):
    """Promise the longest a dataset goes without a refresh; without a duration the promise ends."""

    dataset_id: Identifier
    freshness_sla: Duration | None = None


class RecordRefresh(Command, name="catalog.record_refresh", roles=CURATORS):
    """Record that a dataset was brought up to date."""

    dataset_id: Identifier
    refreshed_at: UtcTime
    row_count: Count | None = None


class RecordUsage(Command, name="catalog.record_usage", roles=CURATORS):
    """Record that somebody read a dataset; deprecated ones too, for that is when it matters who still does."""

    dataset_id: Identifier
    used_by: Identifier
    query_count: Annotated[Count, Field(gt=0)] = 1


class RecordContract(Command, _Bounded, name="catalog.record_contract", roles=CURATORS):
    """Record the terms a dataset is offered under, as its contract states them."""

    dataset_id: Identifier
    contract: JsonObject


class LinkTerm(Command, name="catalog.link_term", roles=CURATORS):
    """Say that a column means what a glossary term says."""

    dataset_id: Identifier
    column: Label
    term_id: Identifier


class UnlinkTerm(Command, name="catalog.unlink_term", roles=CURATORS):
    """Take back that a column means what a glossary term says."""

    dataset_id: Identifier
    column: Label
    term_id: Identifier


class DeprecateDataset(Command, name="catalog.deprecate_dataset", roles=STEWARDS):
    """Tell people to stop building on a dataset; it stays readable, and can only be used or reinstated."""

    dataset_id: Identifier
    reason: Text
    replaced_by: Identifier | None = None


class ReinstateDataset(Command, name="catalog.reinstate_dataset", roles=STEWARDS):
    """Take a deprecation back."""

    dataset_id: Identifier


class RollBackDataset(RollBack, Command, name="catalog.roll_back_dataset", roles=STEWARDS):
    """Give a dataset the settings back that it had at an earlier version: profile, schema, owners, lineage and all."""

    dataset_id: Identifier


class DefineTerm(Command, name="catalog.define_term", roles=STEWARDS):
    """Give a business term its meaning."""

    term_id: Identifier
    name: Label
    definition: Text
    synonyms: Tags = ()


class ReviseTerm(Command, name="catalog.revise_term", roles=STEWARDS):
    """Reword a business term; what is left out stays as it is."""

    term_id: Identifier
    name: Label | None = None
    definition: Text | None = None
    synonyms: Tags | None = None


EditCommand = (
    DescribeDataset
    | ChangeSchema
    | AssignOwner
    | RemoveOwner
    | RecordOwnerContact
    | TagDataset
    | RecordLineage
    | RemoveLineage
    | AgreeFreshness
    | RecordRefresh
    | RecordContract
    | LinkTerm
    | UnlinkTerm
    | DeprecateDataset
)
"""What can be asked of a dataset that is there and not deprecated."""
DatasetCommand = RegisterDataset | SyncDataset | ReinstateDataset | RollBackDataset | RecordUsage | EditCommand
TermCommand = DefineTerm | ReviseTerm
