"""Where the roles that somebody holds come from: their own, those of their groups, and those of their grants, at a moment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel

from api.reading import Reader
from domain.access import ROLES_OF_KIND
from domain.kernel import JsonObject, timestamp
from domain.values import ActorKind, Role
from infra.read_queries import ListQuery
from projections.engine import ReadTable
from projections.grants import grants
from projections.groups import groups, memberships

PAGE_ROWS: Final = 1_000


class RoleHeld(BaseModel):
    """A role, and the way somebody came to it: `source` is the group or the grant. `reach` is what a grant was given on, or the domains
    that bound the actor; null is the whole tenant. `until` is when a grant ends."""

    role: Role
    way: Literal["own", "group", "grant"]
    source: str | None = None
    reach: list[str] | None = None
    until: str | None = None


async def roles_held(reader: Reader, actors: Sequence[JsonObject], at: datetime) -> dict[str, list[RoleHeld]]:
    """For each of these rows of actors, every role and every way to it: what decides, whatever part of it the reader reaches."""
    around = await groups_around(reader, [row["actor_id"] for row in actors])
    known = {row["group_id"] for of_groups in around.values() for row in of_groups}
    grantees = [f"actor:{actor_id}" for actor_id in around] + [f"group:{group_id}" for group_id in sorted(known)]
    granted: dict[str, list[JsonObject]] = defaultdict(list)
    for row in await every_row(reader, grants, {"grantee": grantees, "status": "granted"}):
        if row["until"] > timestamp(at):
            granted[row["grantee"]].append(row)
    return {row["actor_id"]: _held(row, around[row["actor_id"]], granted) for row in actors}


async def groups_around(reader: Reader, actor_ids: Sequence[str]) -> dict[str, list[JsonObject]]:
    """For each of these actors the rows of the groups they are in, themselves or through other groups."""
    rows = await reader.services.reads.many(memberships, reader.asker.tenant, actor_ids, reader.as_of)
    direct = {actor_id: row["groups"] for actor_id, row in rows.items()}
    known = await _groups(reader, {group_id for groups_of in direct.values() for group_id in groups_of})
    return {actor_id: [known[each] for each in _closure(direct.get(actor_id, ()), known)] for actor_id in actor_ids}


def reached(held: Sequence[JsonObject]) -> list[str] | None:
    """The domains that an actor's own row and those of their groups name between them; None when none of them bounds the actor."""
    bounds = [row["domains"] for row in held if row["domains"] is not None]
    return sorted({domain for domains in bounds for domain in domains}) if bounds else None


def _held(actor: JsonObject, of_groups: Sequence[JsonObject], granted: Mapping[str, Sequence[JsonObject]]) -> list[RoleHeld]:
    reach = reached([actor, *of_groups])
    held = [RoleHeld(role=role, way="own", reach=reach) for role in actor["roles"]]
    held += [RoleHeld(role=role, way="group", source=row["group_id"], reach=reach) for row in of_groups for role in row["roles"]]
    for grantee in (f"actor:{actor['actor_id']}", *(f"group:{row['group_id']}" for row in of_groups)):
        for row in granted.get(grantee, ()):
            held.append(RoleHeld(role=row["role"], way="grant", source=row["grant_id"], reach=[row["about"]], until=row["until"]))
    allowed = ROLES_OF_KIND[ActorKind(actor["kind"])]
    return [one for one in held if one.role in allowed]


async def _groups(reader: Reader, wanted: Collection[str]) -> dict[str, JsonObject]:
    """These groups and all that they are in, as far as they give anything."""
    found: dict[str, JsonObject] = {}
    looked_at: set[str] = set()
    missing = set(wanted)
    while missing:
        looked_at |= missing
        rows = await reader.services.reads.many(groups, reader.asker.tenant, sorted(missing), reader.as_of)
        found |= {group_id: row for group_id, row in rows.items() if row["status"] == "active"}
        missing = {outer for group_id in rows if group_id in found for outer in found[group_id]["around"]} - looked_at
    return found


def _closure(direct: Collection[str], known: Mapping[str, JsonObject]) -> list[str]:
    found: dict[str, None] = {}
    missing = [group_id for group_id in direct if group_id in known]
    while missing:
        group_id = missing.pop()
        if group_id not in found:
            found[group_id] = None
            missing += [outer for outer in known[group_id]["around"] if outer in known]
    return list(found)


async def every_row(reader: Reader, table: ReadTable[Any], where: Mapping[str, Any]) -> list[JsonObject]:
    """All rows of the tenant that these filters find, at the reader's moment, page by page."""
    reads, tenant = reader.services.reads, reader.asker.tenant
    rows: list[JsonObject] = []
    cursor: str | None = None
    while True:
        page = await reads.page(table, tenant, ListQuery(where, limit=PAGE_ROWS, cursor=cursor), reader.as_of)
        rows += map(orjson.loads, page.documents)
        if page.next_cursor is None:
            return rows
        cursor = page.next_cursor
