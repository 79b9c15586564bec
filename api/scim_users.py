"""People whose accounts an identity provider manages: actors of the ledger, and what the provider says of them beside it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import orjson
from scim2_models import InvalidValueException, Meta, ScimFilter, UniquenessException
from scim2_models.path import CompareOperator, Comparison

from api.scim_asking import ask, row_of
from api.scim_shapes import User
from api.services import Services
from commands.access import OffboardActor, RegisterActor, ReinstateActor, SuspendActor
from domain.kernel import Asker, JsonObject
from domain.values import ActorKind, Role
from infra.read_queries import ListQuery
from infra.scim_users import NameTaken, ScimChanges, ScimUser
from projections.access import actors

ATTRIBUTES_BYTES_MAX: Final = 65_536
_KEPT: Final = {"user_name", "external_id", "name", "display_name", "emails", "preferred_language"}


@dataclass(frozen=True, slots=True)
class Users:
    """The people of one tenant whom a provider manages."""

    services: Services
    asker: Asker

    async def get(self, scim_id: str) -> User | None:
        found = await self.services.scim.get(self.asker.tenant, scim_id)
        return next(iter(await self._shown([found])), None) if found is not None else None

    async def find(self, wanted: ScimFilter[User] | None) -> list[User]:
        if wanted is None:
            return await self._shown(await self.services.scim.all(self.asker.tenant))
        return [user for user in await self._shown(await self._candidates(wanted)) if wanted.match(user)]

    async def _candidates(self, wanted: ScimFilter[User]) -> list[ScimUser]:
        """Providers look for one person before each change: that one is found by digest, for everything else all are looked at."""
        scim, tenant = self.services.scim, self.asker.tenant
        sought = wanted.ast
        if isinstance(sought, Comparison) and sought.op is CompareOperator.eq and isinstance(sought.value, str):
            match str(sought.attr_path).lower():
                case "username":
                    found = await scim.named(tenant, sought.value)
                    return [found] if found is not None else []
                case "externalid":
                    return await scim.with_external_id(tenant, sought.value)
                case _:
                    pass
        return await scim.all(tenant)

    async def create(self, wanted: User, changes: ScimChanges) -> str:
        """Registers the person, who may do what groups and grants give them; whoever was stopped half-way goes on with the same id."""
        tenant = self.asker.tenant
        begun = await self.services.scim.named(tenant, wanted.user_name or "")
        if begun is not None and begun.registered:
            raise UniquenessException(detail="Somebody has this userName already.")
        actor_id = begun.actor_id if begun is not None else f"usr-{secrets.token_hex(8)}"
        keep = changes.reserve if begun is None else changes.change
        await keep(actor_id, _kept(wanted))
        named = wanted.display_name or (wanted.name.formatted if wanted.name else None)
        register = RegisterActor(
            actor_id=actor_id, kind=ActorKind.PERSON, granted_roles=(), display_name=named[:200] if named is not None else None
        )
        await ask(self.services, self.asker, register, key=f"scim:{actor_id}")
        await changes.registered(actor_id)
        if wanted.active is False:
            await ask(self.services, self.asker, SuspendActor(actor_id=actor_id))
        return actor_id

    async def change(self, before: User, after: User, changes: ScimChanges) -> None:
        """Whether they may act first: should the rest fail, a leaver is out."""
        actor_id = before.id or ""
        wanted_active = before.active if after.active is None else after.active
        if wanted_active != before.active:
            await ask(self.services, self.asker, (ReinstateActor if wanted_active else SuspendActor)(actor_id=actor_id))
        if _kept(after) != _kept(before):
            try:
                await changes.change(actor_id, _kept(after))
            except NameTaken as taken:
                raise UniquenessException(detail="Somebody has this userName already.") from taken

    async def remove(self, before: User, changes: ScimChanges) -> None:
        """They have left for good: nothing they show counts any more, and what was kept of them here goes."""
        actor_id = before.id or ""
        remaining = await self._remaining_administrator(actor_id)
        await ask(self.services, self.asker, OffboardActor(actor_id=actor_id, administrator=remaining))
        await changes.forget(actor_id)

    async def _remaining_administrator(self, leaver: str) -> str | None:
        """Somebody who can still administer when the leaver is out: what no person asks for has to name one."""
        wanted = {"roles": [Role.ADMIN.value], "status": ["active"], "kind": [ActorKind.PERSON.value]}
        page = await self.services.reads.page(actors, self.asker.tenant, ListQuery(wanted, limit=200))
        rows = [orjson.loads(document) for document in page.documents]
        return next((row["actor_id"] for row in rows if row["actor_id"] != leaver and row["domains"] is None), None)

    async def _shown(self, found: list[ScimUser]) -> list[User]:
        known = [user for user in found if user.registered]
        rows = await self.services.reads.many(actors, self.asker.tenant, [user.actor_id for user in known])
        return [_user(user, row_of(rows, user.actor_id)) for user in known]


def _user(kept: ScimUser, row: JsonObject) -> User:
    user: User = User.model_validate({**kept.attributes, "id": kept.actor_id, "active": row.get("status") == "active"})
    user.meta = Meta(created=kept.created_at, last_modified=kept.changed_at)
    return user


def _kept(user: User) -> JsonObject:
    """What is kept of a person beside the ledger: what the ledger knows itself, whether they may act, is not."""
    attributes: JsonObject = user.model_dump(include=_KEPT)
    attributes.pop("schemas", None)
    if len(repr(attributes)) > ATTRIBUTES_BYTES_MAX:
        raise InvalidValueException(detail=f"What is kept of a person has at most {ATTRIBUTES_BYTES_MAX} characters.")
    return attributes
