"""Who the people of an identity provider are here: a first login makes an actor, and every login brings the groups up to date."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from api.errors import ApiError, refusal_status
from commands.access import LinkIdentity, RegisterActor
from commands.groups import AddMember, RemoveMember
from commands.path import Ask, CommandPath
from domain.access import PROVISIONING
from domain.kernel import Asker, Command, JsonObject, timestamp
from domain.keys import SYSTEM_TENANT
from domain.values import ActorKind, Role, uuid7
from infra.oidc_settings import TENANT, OidcPlace
from infra.read_queries import ListQuery, Reads
from infra.scim_users import ScimUsers
from infra.standing import Unauthenticated
from projections.access import actors, identities
from projections.groups import groups, memberships
from streams.progress import Progress

log = logging.getLogger(__name__)
READ_WAIT_SECONDS: Final = 5.0
GROUPS_MAX: Final = 500
NAME_MAX: Final = 200
_REMEMBERED: Final = 10_000

Claims = dict[str, Any]


def subject_digest(issuer: str, subject: str) -> str:
    """What is kept of somebody's name at a provider: it may be an e-mail address, and the ledger is for ever."""
    return hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()


class Joining:
    """Registers, links and groups the provider's people, as Aureus itself, through the one command path."""

    def __init__(self, place: OidcPlace, tenant: str, path: CommandPath, reads: Reads, progress: Progress, scim: ScimUsers) -> None:
        self._place, self._tenant = place, place.tenant or tenant
        self._path, self._reads, self._progress, self._scim = path, reads, progress, scim
        self._followed: OrderedDict[tuple[str, str], tuple[frozenset[str], float, str | None]] = OrderedDict()
        """By tenant and actor: the groups that a token named, when it was made, and when the memberships had changed last by then."""

    async def admit(self, claims: Claims) -> tuple[str, str]:
        """The tenant and the actor of somebody who just logged in. Raises Unauthenticated, and ApiError for what would help."""
        tenant, named = self.tenant_of(claims), self._groups_named(claims)
        actor_id = await self._linked(tenant, claims) or await self._join(tenant, claims)
        row = (await self._reads.many(actors, tenant, [actor_id])).get(actor_id)
        if row is None or row["status"] != "active":
            raise Unauthenticated(f"actor_{row['status'] if row else 'unknown'}")
        await self._follow(tenant, actor_id, named)
        return tenant, actor_id

    async def known(self, claims: Claims) -> tuple[str, str]:
        """The tenant and the actor an access token speaks for. Raises Unauthenticated when nobody has logged in as them yet."""
        tenant = self.tenant_of(claims)
        actor_id = await self._linked(tenant, claims)
        if actor_id is None:
            raise Unauthenticated("identity_unknown")
        if self._place.groups_claim in claims:
            await self._follow_token(tenant, actor_id, claims)
        return tenant, actor_id

    async def found(self, claims: Claims) -> tuple[str, str] | None:
        """The tenant and the actor, if anybody is known by that name."""
        tenant = self.tenant_of(claims)
        row = await self._identity(tenant, claims)
        return (tenant, row["actor_id"]) if row and row["actor_id"] else None

    def tenant_of(self, claims: Claims) -> str:
        if self._place.tenant_claim is None:
            return self._tenant
        tenant = claims.get(self._place.tenant_claim)
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant) or tenant == SYSTEM_TENANT:
            raise ApiError(
                403,
                "tenant_not_told",
                f"The provider does not say whose person this is: {self._place.tenant_claim} in the token names no tenant.",
                field=self._place.tenant_claim,
                remedy="Have the provider put the claim into the tokens of this client.",
            )
        return tenant

    async def _identity(self, tenant: str, claims: Claims) -> JsonObject | None:
        digest = subject_digest(claims["iss"], claims["sub"])
        return (await self._reads.many(identities, tenant, [digest])).get(digest)

    async def _linked(self, tenant: str, claims: Claims) -> str | None:
        row = await self._identity(tenant, claims)
        if row is not None and row["actor_id"] is None:
            raise ApiError(
                403,
                "identity_unlinked",
                "An administrator has parted this identity from its actor.",
                remedy="Ask an administrator to link it again.",
            )
        return row["actor_id"] if row is not None else None

    async def _join(self, tenant: str, claims: Claims) -> str:
        """Whom the provider sent by SCIM before, or a new actor, who may do nothing yet.

        The new one's id follows from the identity, so that two first logins at once make one.
        """
        digest = subject_digest(claims["iss"], claims["sub"])
        actor_id = await self._provisioned(tenant, claims)
        if actor_id is None:
            actor_id = f"usr-{subject_digest(tenant, digest)[:24]}"
            await self._register(tenant, actor_id, claims)
        position = await self._do(tenant, LinkIdentity(actor_id=actor_id, issuer=claims["iss"], subject_sha256=digest))
        await self._seen(position)
        return actor_id

    async def _provisioned(self, tenant: str, claims: Claims) -> str | None:
        """The actor whom the provider's SCIM client calls what its token does; nobody who has logged in as somebody else before."""
        names = [claims.get("preferred_username"), claims.get("upn"), claims.get("email") if claims.get("email_verified") is True else None]
        for name in names:
            found = await self._scim.actor_of_user_name(tenant, name) if isinstance(name, str) and name else None
            if found is not None:
                others = await self._reads.page(identities, tenant, ListQuery(where={"actor_id": [found]}, limit=1))
                return None if others.documents else found
        return None

    async def _register(self, tenant: str, actor_id: str, claims: Claims) -> None:
        named = claims.get("name")
        register = RegisterActor(
            actor_id=actor_id,
            kind=ActorKind.PERSON,
            granted_roles=(),
            display_name=named[:NAME_MAX] if isinstance(named, str) and named else None,
        )
        await self._do(tenant, register, fine="actor_exists")

    def _groups_named(self, claims: Claims) -> frozenset[str]:
        """The groups that somebody is in, as the provider calls them: all of them, or whoever left one would stay in it here."""
        claim = self._place.groups_claim
        named = claims.get(claim, [])
        listed = [named] if isinstance(named, str) else named
        elsewhere = claims.get("_claim_names")
        if not isinstance(listed, list) or len(listed) > GROUPS_MAX or (isinstance(elsewhere, dict) and claim in elsewhere):
            raise ApiError(
                403,
                "groups_not_told",
                f"The provider does not put a list of at most {GROUPS_MAX} groups into the token.",
                field=claim,
                remedy="Have it name those groups only that are assigned to this application.",
            )
        return frozenset(name for name in listed if isinstance(name, str))

    async def _follow_token(self, tenant: str, actor_id: str, claims: Claims) -> None:
        """Groups as a token names them, unless they changed after it was made: an old token must not bring back what is over."""
        membership = (await self._reads.many(memberships, tenant, [actor_id])).get(actor_id)
        named = self._groups_named(claims)
        seen = (named, claims["iat"], membership["changed_at"] if membership else None)
        if self._followed.get((tenant, actor_id)) == seen:
            return
        if membership is None or membership["changed_at"] < timestamp(datetime.fromtimestamp(claims["iat"], UTC)):
            await self._follow(tenant, actor_id, named)
        self._followed[tenant, actor_id] = seen
        if len(self._followed) > _REMEMBERED:
            self._followed.popitem(last=False)

    async def _follow(self, tenant: str, actor_id: str, named: frozenset[str]) -> None:
        """Puts somebody into the groups here that stand for these, and takes them out of all others of the provider's."""
        membership = (await self._reads.many(memberships, tenant, [actor_id])).get(actor_id)
        held = set(membership["groups"] if membership else ())
        wanted = await self._standing_for(tenant, named)
        provided = {row["group_id"] for row in (await self._reads.many(groups, tenant, sorted(held))).values() if _provided(row)}
        position = 0
        for group_id in sorted(provided - wanted):
            position = await self._do(tenant, RemoveMember(group_id=group_id, actor_id=actor_id), fine="group_not_found")
        for group_id in sorted(wanted - held):
            # One group that a rule keeps somebody out of (separation of duties, say) does not keep them out of everything.
            position = await self._do(tenant, AddMember(group_id=group_id, actor_id=actor_id), needed=False)
        await self._seen(position)

    async def _standing_for(self, tenant: str, named: frozenset[str]) -> set[str]:
        """The groups here that somebody mapped to these."""
        found: set[str] = set()
        cursor: str | None = None
        while named:
            asked = ListQuery(where={"external_name": sorted(named), "status": ["active"]}, limit=500, cursor=cursor)
            page = await self._reads.page(groups, tenant, asked)
            found |= {orjson.loads(document)["group_id"] for document in page.documents}
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    async def _do(self, tenant: str, command: Command, *, fine: str | None = None, needed: bool = True) -> int:
        """The position it was carried out at. A refusal with the code `fine` says that nothing is left to do; any other ends the login
        where the command is `needed`, and is on record in the ledger in any case.
        """
        provisioning = Asker(PROVISIONING, tenant, frozenset({Role.ADMIN}), ActorKind.SERVICE)
        ask = Ask(command, provisioning, uuid7(), datetime.now(UTC), reason=f"Told by {self._place.issuer}.")
        outcome = await self._path.handle(ask)
        if outcome.outcome == "allowed" or (fine is not None and outcome.code == fine):
            return outcome.position
        if not needed:
            log.warning("%s is not carried out for somebody who logs in: %s", command.command_name, outcome.code or outcome.outcome)
            return outcome.position
        code = outcome.code or "approval_not_possible"
        message = outcome.message or "A policy wants an approval for this, and a login cannot wait for one."
        raise ApiError(refusal_status(code, denied=outcome.denied), code, message, **outcome.facts)

    async def _seen(self, position: int) -> None:
        if self._progress.position < position and not await self._progress.wait_for(position, READ_WAIT_SECONDS):
            remedy = "Try again in a moment."
            raise ApiError(503, "read_models_behind", "The read models are behind.", {"retry-after": "1"}, remedy=remedy)


def _provided(row: JsonObject) -> bool:
    return row["external_name"] is not None and row["status"] == "active"
