"""What an actor holds by explicit grants at a moment: roles on domains, on streams, and on all that a project holds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

import orjson

from domain.kernel import Holding, timestamp
from domain.values import Role
from infra.read_queries import ListQuery, Reads
from projections.grants import grants
from projections.projects import projects

HELD_MAX: Final = 500
"""Grants looked at for one actor; whoever has more than that in force belongs in a group with roles."""


async def holdings_of(
    reads: Reads, tenant: str, actor_id: str, group_ids: Iterable[str], at: datetime, as_of: int | None = None
) -> tuple[Holding, ...]:
    """The roles granted to the actor or one of its groups and not ended then, whatever its kind may hold."""
    grantees = [f"actor:{actor_id}", *(f"group:{group_id}" for group_id in group_ids)]
    asked = ListQuery({"grantee": grantees, "status": "granted"}, sort="-until", limit=HELD_MAX)
    page = await reads.page(grants, tenant, asked, as_of)
    found = [row for row in map(orjson.loads, page.documents) if row["until"] > timestamp(at)]
    if not found:
        return ()
    named = sorted({row["about"].removeprefix("project:") for row in found if row["about"].startswith("project:")})
    known = await reads.many(projects, tenant, named, as_of) if named else {}
    held = {project_id: {f"project:{project_id}", *row["resources"]} for project_id, row in known.items() if row["status"] == "open"}
    return tuple(
        Holding(
            Role(row["role"]),
            row["grant_id"],
            frozenset({entity}) if kind == "domain" else frozenset(),
            frozenset(held.get(entity, ())) if kind == "project" else frozenset({row["about"]} if kind != "domain" else ()),
            datetime.fromisoformat(row["until"]),
        )
        for row in found
        for kind, _, entity in [row["about"].partition(":")]
    )
