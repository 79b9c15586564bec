"""The catalog over REST: datasets with their schemas, lineage, freshness and usage, and the glossary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query
from pydantic import AwareDatetime

from api.errors import ApiError
from api.reading import Reader
from api.routing import ContextRouter, Reading
from commands.catalog import (
    AgreeFreshness,
    AssignOwner,
    ChangeSchema,
    DefineTerm,
    DeprecateDataset,
    DescribeDataset,
    LinkTerm,
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
from domain.values import EVERYBODY
from infra.read_queries import ListQuery
from projections.catalog import (
    Freshness,
    Lineage,
    dataset_schemas,
    datasets,
    freshness_at,
    lineage,
    lineage_node,
    term_links,
    terms,
    usage,
    without_columns,
)
from projections.engine import ReadTable

Direction = Literal["upstream", "downstream", "both"]
MAX_LINEAGE_EDGES = 10_000
_PAGE = 500

router = ContextRouter(prefix="/v1", tags=["catalog"])
router.command("/datasets", RegisterDataset, status=201)
router.command("/datasets/{dataset_id}/sync", SyncDataset)
router.command("/datasets/{dataset_id}/describe", DescribeDataset)
router.command("/datasets/{dataset_id}/schema", ChangeSchema)
router.command("/datasets/{dataset_id}/owners", AssignOwner)
router.command("/datasets/{dataset_id}/owners/{owner_id}/remove", RemoveOwner)
router.command("/datasets/{dataset_id}/owners/{owner_id}/contact", RecordOwnerContact)
router.command("/datasets/{dataset_id}/tags", TagDataset)
router.command("/datasets/{dataset_id}/lineage", RecordLineage)
router.command("/datasets/{dataset_id}/lineage/{upstream_id}/remove", RemoveLineage)
router.command("/datasets/{dataset_id}/freshness", AgreeFreshness)
router.command("/datasets/{dataset_id}/refreshes", RecordRefresh)
router.command("/datasets/{dataset_id}/usage", RecordUsage)
router.command("/datasets/{dataset_id}/contract", RecordContract)
router.command("/datasets/{dataset_id}/terms", LinkTerm)
router.command("/datasets/{dataset_id}/terms/unlink", UnlinkTerm)
router.command("/datasets/{dataset_id}/deprecate", DeprecateDataset)
router.command("/datasets/{dataset_id}/reinstate", ReinstateDataset)
router.command("/terms", DefineTerm, status=201)
router.command("/terms/{term_id}/revise", ReviseTerm)
router.views("/datasets", datasets, row_id="dataset_id", roles=EVERYBODY, stream=lambda dataset_id: f"dataset:{dataset_id}")
router.views("/terms", terms, row_id="term_id", roles=EVERYBODY, stream=lambda term_id: f"term:{term_id}")


@router.query("/datasets/{dataset_id}/schema-versions", roles=EVERYBODY, narrowed=True)
async def schema_versions(dataset_id: str, reader: Reading) -> dict[str, Any]:
    """Every version of a dataset's schema, with what was added, removed and changed."""
    await _known(reader, datasets, dataset_id, "dataset")
    versions = await _all(reader, dataset_schemas, {"dataset_id": dataset_id})
    return {"items": sorted(versions, key=lambda version: int(version["schema_version"]))}


@router.query("/datasets/{dataset_id}/usage", roles=EVERYBODY, narrowed=True)
async def dataset_usage(dataset_id: str, reader: Reading) -> dict[str, Any]:
    """Who read a dataset, and how often."""
    await _known(reader, datasets, dataset_id, "dataset")
    items = await _all(reader, usage, {"dataset_id": dataset_id})
    return {"items": items, "query_count": sum(item["query_count"] for item in items), "user_count": len(items)}


@router.query("/datasets/{dataset_id}/terms", roles=EVERYBODY, narrowed=True)
async def dataset_terms(dataset_id: str, reader: Reading) -> dict[str, Any]:
    """What a dataset's columns mean: the glossary terms they are linked to, and how those are worded."""
    await _known(reader, datasets, dataset_id, "dataset")
    links = await _all(reader, term_links, {"dataset_id": dataset_id})
    worded = await reader.many(terms, sorted({link["term_id"] for link in links}))
    return {"items": [{**link, "term": worded.get(link["term_id"])} for link in links]}


@router.query("/terms/{term_id}/columns", roles=EVERYBODY, narrowed=True)
async def term_columns(term_id: str, reader: Reading) -> dict[str, Any]:
    """The columns that mean what a term says."""
    return {"items": await _all(reader, term_links, {"term_id": term_id})}


@router.query("/datasets/{dataset_id}/history", roles=EVERYBODY, narrowed=True, recorded=True)
async def dataset_history(dataset_id: str, reader: Reading) -> dict[str, Any]:
    """Everything that happened to a dataset, in order, straight from the ledger; personal data is left out."""
    if reader.reach is not None:
        await _known(reader, datasets, dataset_id, "dataset")
    happened = await reader.services.ledger.read_stream(reader.asker.tenant, f"dataset:{dataset_id}")
    items = [
        {
            "position": recorded.position,
            "version": recorded.version,
            "at": recorded.at_text,
            "type": recorded.event.event_name,
            "actor": recorded.actor,
            "action_id": str(recorded.causation),
            "data": recorded.event.told(),
        }
        for recorded in happened
        if reader.as_of is None or recorded.position <= reader.as_of
    ]
    if not items:
        raise _not_found("dataset", dataset_id)
    return {"items": items}


@router.query("/datasets/{dataset_id}/freshness", roles=EVERYBODY, narrowed=True)
async def dataset_freshness(
    dataset_id: str,
    reader: Reading,
    now: Annotated[AwareDatetime | None, Query(description="The moment to judge it at; else that of as_of, else the present.")] = None,
) -> Freshness:
    """Whether a dataset is as fresh as was promised, judged at one moment."""
    row = await _known(reader, datasets, dataset_id, "dataset")
    return freshness_at(dataset_id, row["freshness_sla"], row["last_refresh_at"], now or await reader.moment())


@router.query("/datasets/{dataset_id}/lineage", roles=EVERYBODY, narrowed=True)
async def dataset_lineage(
    dataset_id: str,
    reader: Reading,
    direction: Annotated[Direction, Query(description="What it is made from, what is made from it, or both.")] = "both",
    depth: Annotated[int, Query(ge=1, le=20, description="How many steps away.")] = 5,
    columns: Annotated[bool, Query(description="With the columns each edge carries, where they are known.")] = False,
) -> Lineage:
    """The lineage graph around a dataset, nearest first."""
    edges: dict[str, dict[str, Any]] = {}
    distances = {dataset_id: 0}
    if direction != "downstream":
        await _walk(reader, dataset_id, ("downstream_id", "upstream_id"), depth, edges, distances)
    if direction != "upstream":
        await _walk(reader, dataset_id, ("upstream_id", "downstream_id"), depth, edges, distances)
    rows = await reader.many(datasets, list(distances))
    if not edges and dataset_id not in rows:
        raise _not_found("dataset", dataset_id)
    nodes = [
        lineage_node(node_id, distance, rows.get(node_id)) for node_id, distance in sorted(distances.items(), key=lambda item: item[::-1])
    ]
    found = [edges[edge_id] for edge_id in sorted(edges)]
    return Lineage(dataset_id=dataset_id, nodes=nodes, edges=found if columns else without_columns(found))


async def _walk(
    reader: Reader, dataset_id: str, ends: tuple[str, str], depth: int, edges: dict[str, dict[str, Any]], distances: dict[str, int]
) -> None:
    """Breadth first, one query for each level; a dataset met again is not opened again, so a circle ends."""
    near, far = ends
    level, seen = [dataset_id], {dataset_id}
    for distance in range(1, depth + 1):
        if not level:
            return
        found = await _all(reader, lineage, {near: level})
        edges.update({edge["edge_id"]: edge for edge in found})
        if len(edges) > MAX_LINEAGE_EDGES:
            message = f"The lineage of {dataset_id} has more than {MAX_LINEAGE_EDGES} edges within {depth} steps."
            raise ApiError(422, "lineage_too_large", message, field="depth", remedy="Ask for fewer steps, or for one direction.")
        level = sorted({edge[far] for edge in found} - seen)
        seen.update(level)
        for node_id in level:
            distances.setdefault(node_id, distance)


async def _all(reader: Reader, table: ReadTable[Any], where: dict[str, str | Sequence[str]]) -> list[dict[str, Any]]:
    """Every row that matches, page by page."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await reader.page(table, ListQuery(where, limit=_PAGE, cursor=cursor))
        rows.extend(orjson.loads(document) for document in page.documents)
        cursor = page.next_cursor
        if cursor is None or len(rows) > MAX_LINEAGE_EDGES:
            return rows


async def _known(reader: Reader, table: ReadTable[Any], row_id: str, kind: str) -> dict[str, Any]:
    row = await reader.get(table, row_id)
    if row is None:
        raise _not_found(kind, row_id)
    return row


def _not_found(kind: str, row_id: str) -> ApiError:
    message = f"There is no {kind} {row_id!r} at that time."
    return ApiError(404, f"{kind}_not_found", message, field=f"{kind}_id", remedy="List them to see what is there.")
