"""When the catalog says yes, and what follows: each part of a dataset moves to what is wanted by the events that are missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, assert_never

from commands.catalog.intents import (
    MAX_COMMAND_BYTES,
    AgreeFreshness,
    AssignOwner,
    ChangeSchema,
    DatasetCommand,
    DatasetSpec,
    DeprecateDataset,
    DescribeDataset,
    EditCommand,
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
    RollBackDataset,
    SyncDataset,
    TagDataset,
    UnlinkTerm,
)
from commands.catalog.profiles import columns_after, higher, profile_after, require_level, schema_difference
from commands.catalog.rollback import rolled_back
from domain.catalog import (
    ColumnSpec,
    ContractRecorded,
    Dataset,
    DatasetDeprecated,
    DatasetDescribed,
    DatasetEvent,
    DatasetRefreshed,
    DatasetRegistered,
    DatasetReinstated,
    FreshnessAgreed,
    LineageRecorded,
    LineageRemoved,
    OwnerAssigned,
    OwnerContactRecorded,
    OwnerRemoved,
    Profile,
    SchemaChanged,
    TagsChanged,
    TermLinked,
    TermUnlinked,
    Upstream,
    UsageRecorded,
    evolve,
    highest_pii,
)
from domain.kernel import Asked, JsonObject, require

_CLOCK_SKEW: Final = timedelta(minutes=5)
_MAX_SCHEMA_BYTES: Final = MAX_COMMAND_BYTES + 4_000

Step = Callable[[Dataset], Iterable[DatasetEvent]]


def decide(dataset: Dataset | None, command: DatasetCommand, asked: Asked) -> Sequence[DatasetEvent]:
    match command:
        case RegisterDataset():
            require(
                dataset is None,
                "dataset_exists",
                f"Dataset {command.dataset_id} is in the catalog already.",
                field="dataset_id",
                remedy="Choose another id, or describe or sync the one that is there.",
            )
            return _reach(None, command.dataset_id, command)
        case SyncDataset():
            if dataset is not None:
                _live(dataset, command.dataset_id)
            return _reach(dataset, command.dataset_id, command)
        case RecordUsage():
            _known(dataset, command.dataset_id)
            return [UsageRecorded(**command.model_dump())]
        case ReinstateDataset():
            known = _known(dataset, command.dataset_id)
            return [DatasetReinstated(dataset_id=command.dataset_id)] if known.deprecated else []
        case RollBackDataset():
            return [rolled_back(_known(dataset, command.dataset_id), command, asked)]
        case _:
            return list(_edit(_live(dataset, command.dataset_id), command, asked))


def _edit(dataset: Dataset, command: EditCommand, asked: Asked) -> Iterable[DatasetEvent]:
    """What an edit of one part leads to; a part that stands as asked already needs no event."""
    match command:
        case DescribeDataset():
            profile = profile_after(dataset.profile, dataset.dataset_id, command, dataset.columns)
            require_level(dataset.dataset_id, profile, dataset.columns)
            return _describe(dataset, profile)
        case ChangeSchema():
            return _schema(dataset, command.columns)
        case TagDataset():
            return _tag(dataset, command.tags)
        case RecordLineage():
            return _trace(dataset, command.upstream)
        case RemoveLineage():
            return _untrace(dataset, command.upstream_id)
        case AgreeFreshness():
            changed = command.freshness_sla != dataset.freshness_sla
            return [FreshnessAgreed(dataset_id=dataset.dataset_id, freshness_sla=command.freshness_sla)] if changed else []
        case RecordRefresh():
            return _refresh(dataset, command, asked)
        case RecordContract():
            return _contract(dataset, command.contract)
        case DeprecateDataset():
            _require_other(dataset, command.replaced_by, "replaced_by", "replaced_by_itself", "cannot replace itself")
            return [DatasetDeprecated(**command.model_dump())]
        case AssignOwner() | RemoveOwner() | RecordOwnerContact():
            return _own(dataset, command)
        case LinkTerm() | UnlinkTerm():
            return _mean(dataset, command)
        case _:
            assert_never(command)


def _reach(dataset: Dataset | None, dataset_id: str, spec: DatasetSpec) -> list[DatasetEvent]:
    """The events that lead from a dataset as it stands, or from none, to the one described; none when nothing differs."""
    columns = columns_after(dataset, spec.columns)
    profile = profile_after(dataset.profile if dataset else None, dataset_id, spec, columns)
    require_level(dataset_id, profile, columns)
    events: list[DatasetEvent] = []
    if dataset is None:
        registered = DatasetRegistered(dataset_id=dataset_id, profile=profile)
        events, dataset = [registered], evolve(None, registered)
    steps: list[Step] = [lambda now: _describe(now, profile), lambda now: _schema(now, columns)]
    if (owners := spec.owners) is not None:
        steps.append(lambda now: _owners(now, owners))
    if (tags := spec.tags) is not None:
        steps.append(lambda now: _tag(now, tags))
    if (upstreams := spec.upstreams) is not None:
        steps.append(lambda now: _lineage(now, upstreams))
    if (freshness_sla := spec.freshness_sla) is not None and freshness_sla != dataset.freshness_sla:
        steps.append(lambda now: [FreshnessAgreed(dataset_id=now.dataset_id, freshness_sla=freshness_sla)])
    if (contract := spec.contract) is not None:
        steps.append(lambda now: _contract(now, contract))
    for step in steps:
        for event in list(step(dataset)):
            events.append(event)
            dataset = evolve(dataset, event)
    return events


def _describe(dataset: Dataset, profile: Profile) -> Iterator[DatasetEvent]:
    if profile != dataset.profile:
        yield DatasetDescribed(dataset_id=dataset.dataset_id, profile=profile)


def _schema(dataset: Dataset, columns: tuple[ColumnSpec, ...]) -> Iterator[DatasetEvent]:
    """The new version of the schema, and what it takes along: links and lineage of columns that went, a PII level that rose."""
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    require(
        not twice,
        "column_duplicated",
        f"A dataset has a column once; {', '.join(twice)} stands there more than once.",
        field="columns",
        columns=twice,
        remedy="Name each column once.",
    )
    if columns == dataset.columns:
        return
    difference = schema_difference(dataset.columns, columns)
    event = SchemaChanged(dataset_id=dataset.dataset_id, revision=dataset.schema_version + 1, columns=columns, **difference)
    size_bytes = len(event.model_dump_json(exclude_none=True).encode())
    require(
        size_bytes <= _MAX_SCHEMA_BYTES,
        "schema_too_large",
        f"The schema and what it changes are {size_bytes} bytes of JSON; one signed event holds {_MAX_SCHEMA_BYTES}.",
        field="columns",
        size_bytes=size_bytes,
        remedy="Shorten the descriptions, or take columns out in a first step and put the new ones in by a second.",
    )
    yield event
    pii_level = higher(dataset.profile.pii_level, highest_pii(columns))
    yield from _describe(dataset, dataset.profile.model_copy(update={"pii_level": pii_level}))
    gone = set(event.removed)
    for column, term_id in sorted(dataset.term_links):
        if column in gone:
            yield TermUnlinked(dataset_id=dataset.dataset_id, column=column, term_id=term_id)
    for edge in dataset.upstreams.values():
        kept = tuple(link for link in edge.columns if link.column not in gone)
        if kept != edge.columns:
            yield LineageRecorded(dataset_id=dataset.dataset_id, upstream=edge.model_copy(update={"columns": kept}))


def _owners(dataset: Dataset, owners: Iterable[Owner]) -> Iterator[DatasetEvent]:
    wanted = {owner.owner_id: owner.role for owner in owners}
    for owner_id in dataset.owners:
        if owner_id not in wanted:
            yield OwnerRemoved(dataset_id=dataset.dataset_id, owner_id=owner_id)
    for owner_id, role in wanted.items():
        if dataset.owners.get(owner_id) != role:
            yield OwnerAssigned(dataset_id=dataset.dataset_id, owner_id=owner_id, role=role)


def _own(dataset: Dataset, command: AssignOwner | RemoveOwner | RecordOwnerContact) -> Iterator[DatasetEvent]:
    dataset_id, owner_id = dataset.dataset_id, command.owner_id
    if isinstance(command, AssignOwner):
        if dataset.owners.get(owner_id) != command.role:
            yield OwnerAssigned(dataset_id=dataset_id, owner_id=owner_id, role=command.role)
        return
    require(
        owner_id in dataset.owners,
        "owner_not_found",
        f"{owner_id} is not an owner of dataset {dataset_id}.",
        field="owner_id",
        owners=sorted(dataset.owners),
        remedy="Name one of its owners, or assign this one first.",
    )
    if isinstance(command, RemoveOwner):
        yield OwnerRemoved(dataset_id=dataset_id, owner_id=owner_id)
    elif command.correct or owner_id not in dataset.contacts:
        require(
            bool(command.contact_name or command.contact_email),
            "contact_empty",
            "A contact has a name or an e-mail address.",
            field="contact_name",
            remedy="Give at least one of contact_name and contact_email.",
        )
        yield OwnerContactRecorded(
            dataset_id=dataset_id, owner_id=owner_id, contact_name=command.contact_name, contact_email=command.contact_email
        )


def _tag(dataset: Dataset, tags: Iterable[str]) -> Iterator[DatasetEvent]:
    wanted = tuple(sorted(set(tags)))
    if wanted != dataset.tags:
        yield TagsChanged(dataset_id=dataset.dataset_id, tags=wanted)


def _lineage(dataset: Dataset, upstreams: Sequence[Upstream]) -> Iterator[DatasetEvent]:
    wanted = {upstream.dataset_id for upstream in upstreams}
    for upstream_id in dataset.upstreams:
        if upstream_id not in wanted:
            yield LineageRemoved(dataset_id=dataset.dataset_id, upstream_id=upstream_id)
    for upstream in upstreams:
        yield from _trace(dataset, upstream)


def _trace(dataset: Dataset, upstream: Upstream) -> Iterator[DatasetEvent]:
    _require_other(dataset, upstream.dataset_id, "upstream.dataset_id", "lineage_to_itself", "is not made from itself")
    for link in upstream.columns:
        _require_column(dataset, link.column, "upstream.columns")
    if dataset.upstreams.get(upstream.dataset_id) != upstream:
        yield LineageRecorded(dataset_id=dataset.dataset_id, upstream=upstream)


def _untrace(dataset: Dataset, upstream_id: str) -> Iterator[DatasetEvent]:
    require(
        upstream_id in dataset.upstreams,
        "lineage_not_found",
        f"Dataset {dataset.dataset_id} is not recorded as made from {upstream_id}.",
        field="upstream_id",
        upstreams=sorted(dataset.upstreams),
        remedy="Name one of its upstreams.",
    )
    yield LineageRemoved(dataset_id=dataset.dataset_id, upstream_id=upstream_id)


def _refresh(dataset: Dataset, command: RecordRefresh, asked: Asked) -> Iterator[DatasetEvent]:
    require(
        command.refreshed_at <= asked.at + _CLOCK_SKEW,
        "refresh_in_future",
        "A refresh is recorded once it has happened.",
        field="refreshed_at",
        now=asked.at.isoformat(),
        remedy="Send the moment at which the refresh ended, with its time zone.",
    )
    if command.refreshed_at != dataset.last_refresh_at:
        yield DatasetRefreshed(dataset_id=dataset.dataset_id, refreshed_at=command.refreshed_at, row_count=command.row_count)


def _contract(dataset: Dataset, contract: JsonObject) -> Iterator[DatasetEvent]:
    if contract != dataset.contract:
        yield ContractRecorded(dataset_id=dataset.dataset_id, contract=contract)


def _mean(dataset: Dataset, command: LinkTerm | UnlinkTerm) -> Iterator[DatasetEvent]:
    link = (command.column, command.term_id)
    if isinstance(command, LinkTerm):
        _require_column(dataset, command.column, "column")
        if link not in dataset.term_links:
            yield TermLinked(**command.model_dump())
        return
    require(
        link in dataset.term_links,
        "term_link_not_found",
        f"Column {command.column} of {dataset.dataset_id} is not linked to term {command.term_id}.",
        field="term_id",
        remedy="Look at the dataset's term links.",
    )
    yield TermUnlinked(**command.model_dump())


def _known(dataset: Dataset | None, dataset_id: str) -> Dataset:
    require(
        dataset is not None,
        "dataset_not_found",
        f"No dataset {dataset_id} is in the catalog.",
        field="dataset_id",
        remedy="Register it first.",
    )
    assert dataset is not None
    return dataset


def _live(dataset: Dataset | None, dataset_id: str) -> Dataset:
    known = _known(dataset, dataset_id)
    successor = f"Use {known.replaced_by}" if known.replaced_by else "Use another dataset"
    require(
        not known.deprecated,
        "dataset_deprecated",
        f"Dataset {dataset_id} is deprecated.",
        field="dataset_id",
        replaced_by=known.replaced_by,
        remedy=f"{successor}, or reinstate this one first.",
    )
    return known


def _require_column(dataset: Dataset, column: str, field: str) -> None:
    require(
        dataset.has_column(column),
        "unknown_column",
        f"Dataset {dataset.dataset_id} has no column {column}.",
        field=field,
        column=column,
        schema_version=dataset.schema_version,
        remedy="Name a column of its present schema, or change the schema first.",
    )


def _require_other(dataset: Dataset, other_id: str | None, field: str, code: str, rule: str) -> None:
    require(
        other_id != dataset.dataset_id, code, f"Dataset {dataset.dataset_id} {rule}.", field=field, remedy="Name another dataset, or none."
    )
