"""A dbt project's manifest and catalog, read into datasets: models, seeds, snapshots and sources, and what is made from what."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import Field

from commands.catalog import Owner
from commands.importing import (
    DocumentRefused,
    ImportCommand,
    Parsed,
    Problem,
    Source,
    build,
    contact,
    ext_id,
    parse,
    pointer,
    seconds_as_duration,
    text_in_nfc,
)
from domain.catalog import ColumnSpec, Environment, Jurisdiction, PiiLevel, Upstream
from domain.values import Identifier, Label, Text

MANIFEST: Final = "dbt manifest"
CATALOG: Final = "dbt catalog"
_MATERIAL: Final = frozenset({"model", "seed", "snapshot", "source"})
_PERIOD_SECONDS: Final = {"minute": 60, "hour": 3_600, "day": 86_400}


class _Metadata(Source):
    dbt_schema_version: str


class _Artifact(Source):
    metadata: _Metadata


class _Profile(Source):
    domain: Identifier | None = None
    pii_level: PiiLevel | None = None
    jurisdiction: Jurisdiction | None = None
    environment: Environment | None = None


class _Meta(Source):
    """`meta` is a project's own: only `aureus` in it is held to rules, and an owner is read where it is text."""

    aureus: _Profile = _Profile()
    owner: Any = None

    @property
    def owner_name(self) -> str | None:
        return self.owner.strip() or None if isinstance(self.owner, str) else None


class _ColumnMeta(Source):
    pii: Any = None
    contains_pii: Any = None
    classification: Any = None


class _Constraint(Source):
    type: str
    columns: tuple[str, ...] = ()


class _Column(Source):
    name: Label
    description: Text = ""
    data_type: Label | None = None
    tags: tuple[Label, ...] = ()
    meta: _ColumnMeta = _ColumnMeta()
    constraints: tuple[_Constraint, ...] = ()


class _Age(Source):
    count: int | None = Field(default=None, gt=0)
    period: Literal["minute", "hour", "day"] | None = None

    @property
    def duration(self) -> str | None:
        return seconds_as_duration(self.count * _PERIOD_SECONDS[self.period]) if self.count and self.period else None


class _Freshness(Source):
    warn_after: _Age | None = None
    error_after: _Age | None = None

    @property
    def duration(self) -> str | None:
        """The age from which the data counts as stale: that of the error, else that of the warning."""
        return next((age.duration for age in (self.error_after, self.warn_after) if age and age.duration), None)


class _DependsOn(Source):
    nodes: tuple[str, ...] = ()


class _Material(Source):
    """What a node and a source have in common."""

    resource_type: str
    name: Label
    description: Text = ""
    tags: tuple[Label, ...] = ()
    meta: _Meta = _Meta()
    columns: Mapping[str, _Column] = MappingProxyType({})


class _TestMetadata(Source):
    name: str


class _TestConfig(Source):
    enabled: bool = True
    severity: str = "ERROR"
    where: str | None = None


class _Node(_Material):
    group: str | None = None
    depends_on: _DependsOn = _DependsOn()
    constraints: tuple[_Constraint, ...] = ()
    primary_key: tuple[str, ...] | None = None
    test_metadata: _TestMetadata | None = None
    column_name: str | None = None
    attached_node: str | None = None
    config: _TestConfig = _TestConfig()


class _SourceTable(_Material):
    freshness: _Freshness | None = None


class _GroupOwner(Source):
    name: str | None = None
    email: str | tuple[str, ...] | None = None


class _Group(Source):
    name: str
    owner: _GroupOwner = _GroupOwner()


class _Manifest(Source):
    nodes: Mapping[Identifier, _Node]
    sources: Mapping[Identifier, _SourceTable] = MappingProxyType({})
    groups: Mapping[str, _Group] = MappingProxyType({})


class _CatalogColumn(Source):
    name: Label
    type: Label
    index: int
    comment: Text | None = None


class _CatalogTable(Source):
    columns: Mapping[str, _CatalogColumn]


class _Catalog(Source):
    nodes: Mapping[str, _CatalogTable] = MappingProxyType({})
    sources: Mapping[str, _CatalogTable] = MappingProxyType({})


def read(document: object, catalog: object = None) -> list[ImportCommand]:
    """The commands that bring the catalog to what a project's manifest.json describes, with the types of its catalog.json."""
    manifest = _parse(_Manifest, document, MANIFEST, "target/manifest.json", "dbt parse")
    tables: Mapping[str, _CatalogTable] = {}
    if catalog is not None:
        built = _parse(_Catalog, catalog, CATALOG, "target/catalog.json", "dbt docs generate")
        tables = {**built.sources, **built.nodes}
    tested = _tested_columns(manifest.nodes.values())
    commands: list[ImportCommand] = []
    for dataset_id, source in manifest.sources.items():
        freshness_sla = source.freshness.duration if source.freshness else None
        place = pointer("sources", dataset_id)
        commands += _dataset(dataset_id, source, place, tables, tested, (), freshness_sla=freshness_sla)
    for dataset_id, node in manifest.nodes.items():
        if node.resource_type in _MATERIAL:
            owners = _group_owners(manifest.groups, node)
            commands += _dataset(
                dataset_id, node, pointer("nodes", dataset_id), tables, tested, owners, upstreams=_upstreams(dataset_id, node)
            )
    if not commands:
        raise DocumentRefused(
            MANIFEST, [Problem("/nodes", "it describes no model, seed, snapshot or source", "Send a project's manifest.")]
        )
    return commands


def _parse(model: type[Parsed], document: object, kind: str, file: str, maker: str) -> Parsed:
    """The artifact, once it has said that it is one of this kind: the two are easily sent for each other."""
    remedy = f"Send {file} as `{maker}` writes it."
    document = text_in_nfc(document)
    said = parse(_Artifact, document, kind, remedy).metadata.dbt_schema_version
    if f"/{kind.removeprefix('dbt ')}/" not in said:
        raise DocumentRefused(kind, [Problem("/metadata/dbt_schema_version", f"it is no {kind} but says {said}", remedy)])
    return parse(model, document, kind, remedy)


def _dataset(
    dataset_id: str,
    node: _Material,
    place: str,
    tables: Mapping[str, _CatalogTable],
    tested: Mapping[tuple[str, str], frozenset[str]],
    owners: Iterable[tuple[str, str | None]],
    **fields: Any,
) -> Iterator[ImportCommand]:
    named = dict(owners)
    if name := node.meta.owner_name:
        named.setdefault(name, None)
    yield build(
        MANIFEST,
        place,
        dataset_id=dataset_id,
        name=node.name,
        description=node.description or None,
        **node.meta.aureus.model_dump(),
        columns=tuple(_columns(dataset_id, node, tables.get(dataset_id), tested)) or None,
        tags=(*node.tags, f"dbt:{node.resource_type}"),
        owners=tuple(Owner(owner_id=ext_id(name)) for name in named) or None,
        **fields,
    )
    for name, email in named.items():
        yield contact(dataset_id, ext_id(name), name, email)


def _columns(
    dataset_id: str, node: _Material, table: _CatalogTable | None, tested: Mapping[tuple[str, str], frozenset[str]]
) -> Iterator[ColumnSpec]:
    """The columns as built, in their order, with what the project says of them; then those it declares and nobody has built."""
    declared = {column.name.casefold(): column for column in node.columns.values()}
    built = sorted(table.columns.values(), key=lambda column: column.index) if table else []
    keys = {name.casefold() for name in _primary_key(node)}
    seen = {column.name.casefold() for column in built}
    for column in built:
        said = declared.get(column.name.casefold())
        yield _column(dataset_id, said or _Column(name=column.name), column, keys, tested)
    for name, said in declared.items():
        if name not in seen:
            yield _column(dataset_id, said, None, keys, tested)


def _column(
    dataset_id: str,
    said: _Column,
    built: _CatalogColumn | None,
    keys: set[str],
    tested: Mapping[tuple[str, str], frozenset[str]],
) -> ColumnSpec:
    key = said.name.casefold()
    rules = tested.get((dataset_id, key), frozenset()) | {constraint.type for constraint in said.constraints}
    primary_key = key in keys or "primary_key" in rules
    return ColumnSpec(
        name=built.name if built else said.name,
        type=built.type if built else said.data_type,
        description=said.description or (built.comment if built else None) or None,
        nullable=False if primary_key or "not_null" in rules else None,
        unique=True if "unique" in rules else None,
        primary_key=primary_key,
        pii=_pii(said),
        classification=_classification(said),
    )


def _pii(column: _Column) -> PiiLevel | None:
    """The level that the meta states; any other way of saying yes is taken for the high one."""
    stated = column.meta.contains_pii if column.meta.pii is None else column.meta.pii
    if isinstance(stated, str) and stated.casefold() in set(PiiLevel):
        return PiiLevel(stated.casefold())
    if stated or "pii" in {tag.casefold() for tag in column.tags}:
        return PiiLevel.HIGH
    return None if stated is None else PiiLevel.NONE


def _classification(column: _Column) -> str | None:
    stated = column.meta.classification
    return stated.strip()[:200] or None if isinstance(stated, str) else None


def _primary_key(node: _Material) -> Iterator[str]:
    if isinstance(node, _Node):
        yield from node.primary_key or ()
        for constraint in node.constraints:
            if constraint.type == "primary_key":
                yield from constraint.columns


def _tested_columns(nodes: Iterable[_Node]) -> Mapping[tuple[str, str], frozenset[str]]:
    """What tests hold of whole columns: `not_null` and `unique`, where they are enforced on every row."""
    held: dict[tuple[str, str], frozenset[str]] = defaultdict(frozenset)
    for node in nodes:
        test, config = node.test_metadata, node.config
        whole = config.enabled and config.severity.upper() == "ERROR" and config.where is None
        if test and whole and test.name in {"not_null", "unique"} and node.attached_node and node.column_name:
            held[node.attached_node, node.column_name.casefold()] |= {test.name}
    return held


def _upstreams(dataset_id: str, node: _Node) -> tuple[Upstream, ...]:
    sources = dict.fromkeys(upstream for upstream in node.depends_on.nodes if upstream.partition(".")[0] in _MATERIAL)
    return tuple(Upstream(dataset_id=upstream) for upstream in sources if upstream != dataset_id)


def _group_owners(groups: Mapping[str, _Group], node: _Node) -> Iterator[tuple[str, str | None]]:
    for group in groups.values():
        owner, emails = group.owner, group.owner.email
        email = emails if isinstance(emails, str) or emails is None else next(iter(emails), None)
        if group.name == node.group and (name := owner.name or email):
            yield name, email
