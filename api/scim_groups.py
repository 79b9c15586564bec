"""Groups that an identity provider manages: it made them, or took over what stood here under its name. Members are people and groups."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import orjson
from scim2_models import InvalidValueException, Meta, ScimFilter, UniquenessException

from api.scim_asking import ask
from api.scim_shapes import Group, Member
from api.services import Services
from commands.groups import AddMember, CreateGroup, NestGroup, RemoveGroup, RemoveMember, RenameGroup, UnnestGroup
from domain.groups import Nesting
from domain.kernel import Asker, Command, JsonObject
from infra.read_queries import ListQuery
from infra.scim_users import ScimChanges
from projections.access import actors
from projections.engine import ReadTable
from projections.groups import groups, memberships

NAME_LENGTH_MAX: Final = 200
EXTERNAL_NAME_LENGTH_MAX: Final = 300
_PAGE_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one tenant that a provider manages."""

    services: Services
    asker: Asker

    async def get(self, scim_id: str) -> Group | None:
        rows = await self.services.reads.many(groups, self.asker.tenant, [scim_id])
        return next(iter(await self._shown(rows.values(), {"groups": scim_id})), None)

    async def find(self, wanted: ScimFilter[Group] | None) -> list[Group]:
        found = await self._shown(await self._rows(groups, {"status": "active"}), {})
        return [group for group in found if wanted is None or wanted.match(group)]

    async def create(self, wanted: Group, changes: ScimChanges) -> str:
        """A group that an administrator made for this external name already, with what it gives, becomes the provider's."""
        external_name = _external_name(wanted)
        await self._require_members(_member_ids(wanted))
        prepared = await self._free(external_name, None)
        group_id = f"grp-{secrets.token_hex(8)}" if prepared is None else str(prepared["group_id"])
        if prepared is None:
            await self._ask(CreateGroup(group_id=group_id, label=_name(wanted), external_name=external_name))
        await changes.keep_group(group_id, wanted.external_id)
        made = await self.get(group_id)
        assert made is not None, "it was just put on record"
        await self.change(made, wanted, changes)
        return group_id

    async def change(self, before: Group, after: Group, changes: ScimChanges) -> None:
        """Everything that can be wrong is looked for first: what is refused has changed nothing."""
        group_id, external_name = before.id or "", _external_name(after)
        leaving, joining = _member_ids(before) - _member_ids(after), _member_ids(after) - _member_ids(before)
        await self._free(external_name, group_id)
        await self._require_members(joining)
        await self._require_no_ring(group_id, joining, leaving)
        for command in [_leaving(group_id, each) for each in sorted(leaving)] + [_joining(group_id, each) for each in sorted(joining)]:
            await self._ask(command)
        row = (await self.services.reads.many(groups, self.asker.tenant, [group_id]))[group_id]
        ours = after.external_id is None and row["label"] != row["external_name"]
        label = row["label"] if ours else _name(after)
        if (label, external_name) != (row["label"], row["external_name"]):
            await self._ask(RenameGroup(group_id=group_id, label=label, external_name=external_name))
        await changes.keep_group(group_id, after.external_id)

    async def remove(self, before: Group, changes: ScimChanges) -> None:
        group_id = before.id or ""
        await self._ask(RemoveGroup(group_id=group_id))
        await changes.forget_group(group_id)

    async def _ask(self, command: Command) -> None:
        await ask(self.services, self.asker, command)

    async def _free(self, external_name: str, group_id: str | None) -> JsonObject | None:
        """The group that has this external name and is no provider's yet. Raises when another group is the provider's by it."""
        managed = await self.services.scim.groups(self.asker.tenant)
        rows = await self._rows(groups, {"external_name": external_name, "status": "active"})
        others = [row for row in rows if row["group_id"] != group_id]
        if any(group_id is not None or row["group_id"] in managed for row in others):
            raise UniquenessException(detail=f"Another group is called {external_name!r} already.")
        return next(iter(others), None)

    async def _require_members(self, member_ids: AbstractSet[str]) -> None:
        """Everybody who is to be a member is somebody here."""
        reads, tenant = self.services.reads, self.asker.tenant
        nested = {each for each in member_ids if _is_group(each)}
        known = set(await reads.many(actors, tenant, sorted(member_ids - nested)))
        known |= {group_id for group_id, row in (await reads.many(groups, tenant, sorted(nested))).items() if row["status"] == "active"}
        missing = sorted(member_ids - known)
        if missing:
            raise InvalidValueException(detail=f"members: there is no {missing[0]} here; create it first, and use the id in the answer.")

    async def _require_no_ring(self, group_id: str, joining: AbstractSet[str], leaving: AbstractSet[str]) -> None:
        inside: Mapping[str, frozenset[str]] = {
            row["group_id"]: frozenset(row["inside"]) for row in await self._rows(groups, {"status": "active"})
        }
        inside = {**inside, group_id: inside.get(group_id, frozenset()) - leaving}
        for nested in sorted(filter(_is_group, joining)):
            way = Nesting(inside=inside).way(nested, group_id)
            if way is not None:
                raise InvalidValueException(detail=f"members: {nested} cannot be in {group_id}, which is in it: {' > '.join(way)}.")

    async def _shown(self, rows: Iterable[JsonObject], members_where: JsonObject) -> list[Group]:
        """Those rows that are the provider's."""
        managed = await self.services.scim.groups(self.asker.tenant)
        members: dict[str, list[str]] = {}
        for membership in await self._rows(memberships, members_where):
            for group_id in membership["groups"]:
                members.setdefault(group_id, []).append(membership["actor_id"])
        return [
            _group(row, [*members.get(row["group_id"], ()), *row["inside"]], managed[row["group_id"]])
            for row in rows
            if row["status"] == "active" and row["group_id"] in managed
        ]

    async def _rows(self, table: ReadTable[Any], where: JsonObject) -> list[JsonObject]:
        found: list[JsonObject] = []
        cursor: str | None = None
        while True:
            page = await self.services.reads.page(table, self.asker.tenant, ListQuery(where, limit=_PAGE_ROWS, cursor=cursor))
            found += [orjson.loads(document) for document in page.documents]
            if (cursor := page.next_cursor) is None:
                return found


def _name(group: Group) -> str:
    name = (group.display_name or "").strip()
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise InvalidValueException(detail=f"displayName has 1 to {NAME_LENGTH_MAX} characters.")
    return name


def _external_name(group: Group) -> str:
    """What the provider calls the group in its tokens: its own id, as with Entra ID, or else the name, as with Okta and Keycloak."""
    name = _name(group)
    return name if group.external_id is None else group.external_id[:EXTERNAL_NAME_LENGTH_MAX]


def _is_group(member_id: str) -> bool:
    return member_id.startswith("grp-")


def _member_ids(group: Group) -> frozenset[str]:
    """A member named twice is one member."""
    return frozenset(member.value for member in group.members or () if member.value)


def _joining(group_id: str, member_id: str) -> Command:
    return NestGroup(group_id=group_id, nested_id=member_id) if _is_group(member_id) else AddMember(group_id=group_id, actor_id=member_id)


def _leaving(group_id: str, member_id: str) -> Command:
    if _is_group(member_id):
        return UnnestGroup(group_id=group_id, nested_id=member_id)
    return RemoveMember(group_id=group_id, actor_id=member_id)


def _group(row: JsonObject, member_ids: list[str], external_id: str | None) -> Group:
    members = [Member(value=each, type="Group" if _is_group(each) else "User") for each in member_ids]
    group = Group(
        id=row["group_id"],
        external_id=external_id,
        display_name=row["external_name"] if external_id is None else row["label"],
        members=members or None,
    )
    group.meta = Meta(created=row["created_at"], last_modified=row["changed_at"])
    return group
