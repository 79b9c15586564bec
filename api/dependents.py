"""What stands around an entity that is to be rolled back: what would break with it, and whom and what it touches."""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel

from api.catalog import dataset_lineage
from api.routing import Reader
from domain.catalog import Dataset
from domain.kernel import JsonObject
from domain.pipelines import Pipeline
from domain.rollback import BROKEN_MAX
from projections.agents import agents, tool_actions
from projections.approvals import approvals
from projections.budgets import reservations
from projections.catalog import lineage, usage
from projections.pipelines import pipelines, versions

RUNNING: Final = ("deployed", "failed")
LINEAGE_STEPS: Final = 5
LOOKED_AT_MAX: Final = 10_000
LISTED_MAX: Final = 100


class Surroundings(BaseModel):
    """Whom and what a rollback touches.

    `downstream` are the datasets made from those it changes, nearest first, and `pipelines` those that read or make these.
    `approvals` are what waits for the entity, or is granted. `agents` used the data; `reservations` are the open ones of
    these agents, and those on a budget itself.
    """

    downstream: list[JsonObject]
    pipelines: list[JsonObject]
    approvals: list[JsonObject]
    agents: list[JsonObject]
    reservations: list[JsonObject]


async def surroundings(reader: Reader, stream: str, datasets: list[str]) -> Surroundings:
    """What stands around the entity of a stream, and around the datasets that it is, reads or makes."""
    category, _, entity = stream.partition(":")
    used_by = await _agents(reader, datasets)
    held = await reader.find(reservations, {"reserved_by": used_by, "status": "reserved"}, LISTED_MAX) if used_by else []
    if category == "budget":
        held += await reader.find(reservations, {"root_id": entity, "status": "reserved"}, LISTED_MAX)
    known = await reader.many(agents, used_by)
    return Surroundings(
        downstream=await _downstream(reader, datasets),
        pipelines=await _pipelines(reader, datasets, entity if category == "pipeline" else ""),
        approvals=await reader.find(approvals, {"stream": stream, "status": ["pending", "approved"]}, LISTED_MAX),
        agents=[known.get(agent_id, {"agent_id": agent_id}) for agent_id in used_by],
        reservations=held,
    )


async def _agents(reader: Reader, datasets: list[str]) -> list[str]:
    """The agents that asked to use a tool on one of the datasets, or read it."""
    if not datasets:
        return []
    asked = {row["agent_id"] for row in await reader.find(tool_actions, {"dataset_ids": datasets}, LOOKED_AT_MAX)}
    read = {row["used_by"] for row in await reader.find(usage, {"dataset_id": datasets}, LOOKED_AT_MAX)}
    return sorted(asked | {actor for actor in read if actor.startswith("agt-")})[:LISTED_MAX]


async def _downstream(reader: Reader, datasets: list[str]) -> list[JsonObject]:
    nearest: dict[str, JsonObject] = {}
    for dataset_id in datasets:
        if await reader.find(lineage, {"upstream_id": dataset_id}, limit=1):
            graph = await dataset_lineage(dataset_id, reader, "downstream", LINEAGE_STEPS)
            for node in graph.nodes[1:]:
                other = nearest.get(node["dataset_id"], node)
                nearest[node["dataset_id"]] = min(node, other, key=lambda each: int(each["distance"]))
    return sorted(nearest.values(), key=lambda node: (node["distance"], node["dataset_id"]))


async def _pipelines(reader: Reader, datasets: list[str], itself: str) -> list[JsonObject]:
    if not datasets:
        return []
    found = [
        *await reader.find(pipelines, {"inputs": datasets, "status": RUNNING}, LISTED_MAX),
        *await reader.find(pipelines, {"outputs": datasets, "status": RUNNING}, LISTED_MAX),
    ]
    named = {row["pipeline_id"]: row for row in found if row["pipeline_id"] != itself}
    return [
        {name: row[name] for name in ("pipeline_id", "label", "owner", "environment", "version", "status", "inputs", "outputs")}
        for _, row in sorted(named.items())
    ]


async def broken_by_dataset(reader: Reader, dataset_id: str, now: Dataset, past: Dataset, since: str) -> list[str]:
    """What relies on columns that the dataset did not have then: lineage, terms, and pipelines that were deployed `since`."""
    gone = {column.name for column in now.columns} - {column.name for column in past.columns}
    if not gone:
        return []
    made = [
        f"dataset {edge['downstream_id']} makes its column {link['column']} from {link['upstream_column']}"
        for edge in await reader.find(lineage, {"upstream_id": dataset_id}, LOOKED_AT_MAX)
        for link in edge["columns"]
        if link.get("upstream_column") in gone
    ]
    meant = [f"term {term_id} says what column {column} means" for column, term_id in sorted(now.term_links) if column in gone]
    return [*made, *meant, *await _readers_of(reader, dataset_id, gone, since)][:BROKEN_MAX]


async def _readers_of(reader: Reader, dataset_id: str, columns: set[str], since: str) -> list[str]:
    """The pipelines deployed since then whose queries name one of the columns, or take all there are."""
    found = await reader.find(pipelines, {"inputs": dataset_id, "status": RUNNING}, LOOKED_AT_MAX)
    deployed = [f"{row['pipeline_id']}@{row['version']}" for row in found if row["deployed_at"] > since]
    names = re.compile(rf"\*|\b({'|'.join(map(re.escape, sorted(columns)))})\b", re.IGNORECASE)
    return [
        f"pipeline {row['pipeline_id']} reads it in version {row['version']}"
        for _, row in sorted((await reader.many(versions, deployed)).items())
        if any(names.search(model["sql"]) for model in row["models"])
    ]


async def broken_by_pipeline(reader: Reader, pipeline_id: str, now: Pipeline, past: Pipeline, _since: str) -> list[str]:
    """Other pipelines that read what nobody would make any more."""
    gone = sorted(_outputs(now) - _outputs(past))
    if not gone:
        return []
    makers = await reader.find(pipelines, {"outputs": gone, "status": RUNNING}, LOOKED_AT_MAX)
    made = {dataset_id for row in makers if row["pipeline_id"] != pipeline_id for dataset_id in row["outputs"]}
    readers = await reader.find(pipelines, {"inputs": gone, "status": RUNNING}, LOOKED_AT_MAX)
    return [
        f"pipeline {row['pipeline_id']} reads {dataset_id}, which nothing else makes"
        for row in readers
        for dataset_id in row["inputs"]
        if row["pipeline_id"] != pipeline_id and dataset_id in gone and dataset_id not in made
    ][:BROKEN_MAX]


def _outputs(pipeline: Pipeline) -> set[str]:
    deployment = pipeline.settings.deployment
    return set(deployment.outputs) if deployment and pipeline.settings.running else set()
