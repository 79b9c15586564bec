"""An Open Data Contract Standard v3 contract, read into datasets: one for each object of its schema."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pydantic import Field

from commands.catalog import Owner
from commands.importing import (
    DocumentRefused,
    ImportCommand,
    Problem,
    Source,
    build,
    contact,
    ext_id,
    identifier,
    parse,
    pointer,
    portable,
    refuse_duplicates,
    seconds_as_duration,
    text_in_nfc,
)
from domain.catalog import ColumnLineage, ColumnSpec, PiiLevel, Upstream
from domain.kernel import JsonObject
from domain.values import Label, Text

CONTRACT: Final = "ODCS contract"
_REMEDY: Final = "Follow the Open Data Contract Standard v3: https://bitol-io.github.io/open-data-contract-standard/"
_UNIT_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "wk", "week", "weeks"), 7 * 86_400),
    **dict.fromkeys(("mo", "month", "months"), 30 * 86_400),
    **dict.fromkeys(("y", "yr", "year", "years"), 365 * 86_400),
}
_FRESHNESS_PROPERTIES: Final = ("freshness", "latency", "frequency")
"""What says how old the data may be, the plainest first."""


class _Element(Source):
    name: Label = "items"
    logicalType: Label | None = None  # noqa: N815 - the standard's own word, as are those below
    physicalType: Label | None = None  # noqa: N815
    description: Text | None = None
    required: bool | None = None
    unique: bool | None = None
    primaryKey: bool = False  # noqa: N815
    classification: Label | None = None
    tags: tuple[Label, ...] = ()
    transformSourceObjects: tuple[str, ...] = ()  # noqa: N815
    quality: tuple[dict[str, Any], ...] = ()
    properties: "tuple[_Element, ...]" = ()
    items: "_Element | None" = None


class _Object(_Element):
    name: Label
    physicalName: str | None = None  # noqa: N815


class _Description(Source):
    purpose: Text | None = None


class _Member(Source):
    username: Label
    name: Label | None = None
    role: Label = "owner"
    dateOut: str | None = None  # noqa: N815


class _Team(Source):
    members: tuple[_Member, ...] = ()


class _Role(Source):
    role: str
    access: str | None = None
    description: str | None = None
    firstLevelApprovers: str | None = None  # noqa: N815
    secondLevelApprovers: str | None = None  # noqa: N815


class _ServiceLevel(Source):
    property: str
    value: Any = None
    unit: str | None = None
    element: str | None = None


class _Contract(Source):
    apiVersion: str = Field(pattern=r"^v3\.")  # noqa: N815
    id: Label
    name: Label | None = None
    version: Label
    status: Label
    domain: Label | None = None
    dataProduct: Label | None = None  # noqa: N815
    description: _Description = _Description()
    tags: tuple[Label, ...] = ()
    objects: tuple[_Object, ...] = Field(default=(), alias="schema")
    team: _Team | tuple[_Member, ...] = ()
    roles: tuple[_Role, ...] = ()
    slaProperties: tuple[_ServiceLevel, ...] = ()  # noqa: N815

    @property
    def members(self) -> Sequence[_Member]:
        """Those who are on the team: an entry with a last day is kept in the contract as history."""
        members = self.team.members if isinstance(self.team, _Team) else self.team
        return [member for member in members if member.dateOut is None]


def read(document: object) -> list[ImportCommand]:
    """The commands that bring the catalog to what a contract describes. Check it against the standard's JSON Schema before."""
    contract = parse(_Contract, text_in_nfc(document), CONTRACT, _REMEDY)
    if not contract.objects:
        rule = "it has no schema object, and so describes no dataset"
        raise DocumentRefused(CONTRACT, [Problem("/schema", rule, "Describe at least one object, such as a table.")])
    ids = [f"odcs.{identifier(contract.id)}.{identifier(item.name)}" for item in contract.objects]
    refuse_duplicates(CONTRACT, ((pointer("schema", index), dataset_id) for index, dataset_id in enumerate(ids)))
    known = {
        name: dataset_id for item, dataset_id in zip(contract.objects, ids, strict=True) for name in (item.physicalName, item.name) if name
    }
    commands: list[ImportCommand] = []
    for index, (item, dataset_id) in enumerate(zip(contract.objects, ids, strict=True)):
        commands += _dataset(contract, item, dataset_id, known, pointer("schema", index))
    return commands


def _dataset(contract: _Contract, item: _Object, dataset_id: str, known: dict[str, str], place: str) -> Iterator[ImportCommand]:
    owners = {ext_id(member.username): member for member in contract.members}
    yield build(
        CONTRACT,
        place,
        dataset_id=dataset_id,
        name=item.name,
        description=item.description or contract.description.purpose,
        domain=identifier(contract.domain) if contract.domain else None,
        columns=tuple(_columns(item.properties)),
        tags=(*contract.tags, *item.tags),
        owners=tuple(Owner(owner_id=owner_id, role=member.role) for owner_id, member in owners.items()),
        upstreams=tuple(_upstreams(contract, item, dataset_id, known)),
        freshness_sla=_freshness(contract, item, known),
        contract=_terms(contract, item),
    )
    for owner_id, member in owners.items():
        email = member.username if "@" in member.username else None
        yield contact(dataset_id, owner_id, member.name or member.username, email if member.name else None)


def _walk(elements: Iterable[_Element], above: str = "") -> Iterator[tuple[str, _Element]]:
    """Every property by its path: `address.street`, and `orders[].id` inside an array."""
    for element in elements:
        path = above + element.name
        yield path, element
        yield from _walk(element.properties, f"{path}.")
        if element.items is not None:
            yield from _walk(element.items.properties, f"{path}[].")


def _columns(elements: Iterable[_Element]) -> Iterator[ColumnSpec]:
    for path, element in _walk(elements):
        private = "pii" in {element.classification and element.classification.casefold(), *(tag.casefold() for tag in element.tags)}
        yield ColumnSpec(
            name=path,
            type=element.physicalType or element.logicalType,
            description=element.description,
            nullable=False if element.primaryKey else None if element.required is None else not element.required,
            unique=element.unique,
            primary_key=element.primaryKey,
            pii=PiiLevel.HIGH if private else None,
            classification=element.classification,
        )


def _upstreams(contract: _Contract, item: _Object, dataset_id: str, known: dict[str, str]) -> Iterator[Upstream]:
    """What the columns are made from: objects of this contract, or of the data source behind it."""
    made_from: dict[str, list[ColumnLineage]] = {}
    for path, element in _walk(item.properties):
        for name in dict.fromkeys(element.transformSourceObjects):
            upstream_id = known.get(name) or f"odcs.{identifier(contract.id)}.source.{identifier(name)}"
            if upstream_id != dataset_id:
                made_from.setdefault(upstream_id, []).append(ColumnLineage(column=path))
    for upstream_id, columns in made_from.items():
        yield Upstream(dataset_id=upstream_id, columns=tuple(columns))


def _freshness(contract: _Contract, item: _Object, known: dict[str, str]) -> str | None:
    """The longest the object's data may go without a refresh; a level that names another object is that object's."""
    found: dict[str, str] = {}
    for index, level in enumerate(contract.slaProperties):
        element = (level.element or "").split(".")[0].strip()
        concerns = element not in known or element in {item.name, item.physicalName}
        if level.property in _FRESHNESS_PROPERTIES and concerns:
            found.setdefault(level.property, _duration(level, pointer("slaProperties", index)))
    return next((found[name] for name in _FRESHNESS_PROPERTIES if name in found), None)


def _duration(level: _ServiceLevel, place: str) -> str:
    unit_seconds = _UNIT_SECONDS.get((level.unit or "").strip().casefold())
    if unit_seconds is None:
        units = ", ".join(sorted(_UNIT_SECONDS, key=lambda unit: (_UNIT_SECONDS[unit], unit)))
        raise DocumentRefused(
            CONTRACT, [Problem(f"{place}/unit", f"the unit of {level.property} must be one of {units}", "Name the unit.")]
        )
    try:
        seconds = round(float(level.value) * unit_seconds)
    except (TypeError, ValueError, OverflowError):
        seconds = 0
    if not 0 < seconds < 100 * 365 * 86_400:
        rule = f"the value of {level.property} must be a number above 0, and less than 100 years"
        raise DocumentRefused(CONTRACT, [Problem(f"{place}/value", rule, "Give how many units.")])
    return seconds_as_duration(seconds)


def _terms(contract: _Contract, item: _Object) -> JsonObject:
    """What the contract promises and asks for; approvers are people, so only their opaque ids are kept."""
    quality = [dict(rule) for rule in item.quality]
    quality += [{"column": path, **rule} for path, element in _walk(item.properties) for rule in element.quality]
    roles = [
        {
            **role.model_dump(include={"role", "access", "description"}, exclude_none=True),
            "approver_ids": [ext_id(name) for name in (role.firstLevelApprovers, role.secondLevelApprovers) if name],
        }
        for role in contract.roles
    ]
    terms: JsonObject = portable(
        {
            "standard": "ODCS",
            "api_version": contract.apiVersion,
            "contract_id": contract.id,
            "name": contract.name,
            "version": contract.version,
            "status": contract.status,
            "data_product": contract.dataProduct,
            "quality": quality,
            "roles": roles,
            "service_levels": [level.model_dump(exclude_none=True) for level in contract.slaProperties],
        }
    )
    return {name: value for name, value in terms.items() if value not in (None, [])}
