"""What becomes of a dataset's profile and columns when a source describes them in part, and what policies judge it by."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypedDict

from commands.catalog.intents import (
    ChangeSchema,
    DatasetCommand,
    DatasetSpec,
    DescribeDataset,
    ProfileChange,
    RegisterDataset,
    SyncDataset,
)
from domain.catalog import ColumnChange, ColumnSpec, Dataset, Environment, Jurisdiction, PiiLevel, Profile, highest_pii
from domain.kernel import require

UNASSIGNED_DOMAIN: Final = "unassigned"
_CLASSIFIERS: Final = {"domain", "pii_level", "jurisdiction", "environment"}


def profile_after(before: Profile | None, dataset_id: str, spec: ProfileChange, columns: Iterable[ColumnSpec]) -> Profile:
    """The profile with what `spec` states put in; an unstated PII level follows the columns up, never down."""
    stated = {field: value for field in Profile.model_fields if (value := getattr(spec, field)) is not None}
    stated.setdefault("pii_level", higher(before.pii_level if before else PiiLevel.NONE, highest_pii(columns)))
    if before is not None:
        return before.model_copy(update=stated)
    # What the source does not say of a new dataset is taken for the case that is judged most strictly.
    unstated = {
        "name": dataset_id,
        "domain": UNASSIGNED_DOMAIN,
        "jurisdiction": Jurisdiction.MULTI,
        "environment": Environment.PRODUCTION,
    }
    return Profile.model_validate(unstated | stated)


def higher(one: PiiLevel, other: PiiLevel) -> PiiLevel:
    return max(one, other, key=lambda level: level.rank)


def require_level(dataset_id: str, profile: Profile, columns: Iterable[ColumnSpec]) -> None:
    above = [column.name for column in columns if column.pii and column.pii.rank > profile.pii_level.rank]
    require(
        not above,
        "pii_level_below_columns",
        f"Dataset {dataset_id} has columns more personal than PII level {profile.pii_level}.",
        field="pii_level",
        columns=above,
        remedy="Raise the dataset's level, or lower that of these columns first.",
    )


def columns_after(dataset: Dataset | None, columns: Sequence[ColumnSpec] | None) -> tuple[ColumnSpec, ...]:
    """The columns a source describes, with what it leaves unsaid (a PII level, a description) kept from before."""
    known = {column.name: column for column in dataset.columns} if dataset else {}
    if columns is None:
        return tuple(known.values())
    return tuple(
        known[column.name].model_copy(update=column.model_dump(exclude_none=True)) if column.name in known else column for column in columns
    )


class SchemaDifference(TypedDict):
    """The columns of one schema against those of another."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[ColumnChange, ...]


def schema_difference(before: Sequence[ColumnSpec], after: Sequence[ColumnSpec]) -> SchemaDifference:
    old = {column.name: column for column in before}
    new = {column.name: column for column in after}
    return {
        "added": tuple(name for name in new if name not in old),
        "removed": tuple(name for name in old if name not in new),
        "changed": tuple(_changes(old, after)),
    }


def _changes(before: dict[str, ColumnSpec], columns: Sequence[ColumnSpec]) -> Iterator[ColumnChange]:
    for column in columns:
        old = before.get(column.name, column)
        attributes = tuple(name for name in ColumnSpec.model_fields if getattr(old, name) != getattr(column, name))
        if attributes:
            yield ColumnChange(column=column.name, attributes=attributes)


def facts(dataset: Dataset | None, command: DatasetCommand) -> dict[str, Any]:
    """What policies judge by: the stricter of how the dataset stands and how it would, and what of that would be new.

    Judged by one of the two alone, a dataset could be declassified by those who may touch unclassified ones, or be
    classified without anybody being asked. `becomes` is all of it for a new dataset, and empty when nothing changes.
    """
    after = _profile_after(dataset, command)
    return {} if after is None else _judged(dataset.profile if dataset else None, after)


def domains(dataset: Dataset | None, command: DatasetCommand | None) -> frozenset[str]:
    """The domain that the dataset belongs to, and the one it would be moved to."""
    profiles = (dataset.profile if dataset else None, None if command is None else _profile_after(dataset, command))
    return frozenset(profile.domain for profile in profiles if profile is not None)


def past_facts(dataset: Dataset | None, past: Dataset | None) -> dict[str, Any]:
    """What policies judge by when a past state comes back; whether a deprecation comes or goes with it is a change too."""
    assert dataset is not None, "what has a past is there"
    assert past is not None, "a dataset's first event registers it"
    judged = _judged(dataset.profile, past.profile)
    if dataset.deprecated != past.deprecated:
        judged["becomes"]["deprecated"] = past.deprecated
    return judged


def _judged(before: Profile | None, after: Profile) -> dict[str, Any]:
    becomes = after.model_dump(mode="json", include=_CLASSIFIERS)
    if before is None:
        return {**becomes, "becomes": becomes}
    held = before.model_dump(mode="json", include=_CLASSIFIERS)
    stricter = {
        "domain": before.domain,
        "pii_level": higher(before.pii_level, after.pii_level).value,
        "jurisdiction": (before.jurisdiction if before.jurisdiction is after.jurisdiction else Jurisdiction.MULTI).value,
        "environment": (before.environment if after.environment is not Environment.PRODUCTION else Environment.PRODUCTION).value,
    }
    return {**stricter, "becomes": {name: value for name, value in becomes.items() if value != held[name]}}


def _profile_after(dataset: Dataset | None, command: DatasetCommand) -> Profile | None:
    before = dataset.profile if dataset else None
    match command:
        case RegisterDataset() | SyncDataset() | DescribeDataset():
            columns = columns_after(dataset, command.columns if isinstance(command, DatasetSpec) else None)
            return profile_after(before, command.dataset_id, command, columns)
        case ChangeSchema() if before:
            return before.model_copy(update={"pii_level": higher(before.pii_level, highest_pii(command.columns))})
        case _:
            return before
