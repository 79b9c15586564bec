"""What is asked about actors, their keys and their identities."""

from datetime import timedelta
from typing import Annotated, ClassVar, Final

from pydantic import AwareDatetime, Field

from domain.access import ActorId, ApiKeyId, DomainName, Issuer, KeyScope, PersonId
from domain.duties import RULES_STREAM
from domain.kernel import Command
from domain.values import PEOPLE, ActorKind, Label, Personal, Role, Sha256, Tier

ADMINS: Final = frozenset({Role.ADMIN})
KEY_LIFETIME: Final = timedelta(days=90)
KEY_LIFETIME_MAX: Final = timedelta(days=365)
KEYS_MAX: Final = 20
OVERLAP_HOURS: Final = 24
OVERLAP_HOURS_MAX: Final = 7 * 24
DOMAINS_MAX: Final = 100
SCOPES_MAX: Final = 50

Roles = Annotated[tuple[Role, ...], Field(min_length=1, max_length=len(Role))]
Domains = Annotated[tuple[DomainName, ...], Field(max_length=DOMAINS_MAX)]
Scopes = Annotated[tuple[KeyScope, ...], Field(min_length=1, max_length=SCOPES_MAX)]


def actor_stream(actor_id: str) -> str:
    return f"actor:{actor_id}"


class RegisterActor(Command, name="access.register_actor", roles=ADMINS):
    """Register a person (`usr-...`), an agent (`agt-...`) or a service (`svc-...`); the last two need an owner."""

    actor_id: ActorId
    kind: ActorKind
    granted_roles: Annotated[tuple[Role, ...], Field(max_length=len(Role))]
    """None for whoever is to hold what groups and grants give, and nothing else."""
    owner: PersonId | None = None
    display_name: Annotated[Annotated[str, Field(max_length=200)] | None, Personal(subject="actor_id")] = None

    def relies_on(self) -> tuple[str, ...]:
        return (RULES_STREAM, actor_stream(self.owner)) if self.owner else (RULES_STREAM,)


class ChangeRoles(Command, name="access.change_roles", roles=ADMINS):
    """Replace the roles an actor holds; nobody changes their own."""

    actor_id: ActorId
    granted_roles: Roles

    def relies_on(self) -> tuple[str, ...]:
        return (RULES_STREAM,)


class ChangeOwner(Command, name="access.change_owner", roles=ADMINS):
    """Have another person answer for an agent or a service."""

    actor_id: ActorId
    owner: PersonId

    def relies_on(self) -> tuple[str, ...]:
        return (actor_stream(self.owner),)


class ChangeTier(Command, name="access.change_tier", roles=ADMINS):
    """Let an actor ask as much within an hour as a tier allows; nobody changes their own."""

    actor_id: ActorId
    tier: Tier


class BoundDomains(Command, name="access.bound_domains", roles=ADMINS):
    """Let an actor's roles reach these data domains only, or all of them when there is no list; nobody bounds themselves."""

    actor_id: ActorId
    domains: Domains | None = None


class SuspendActor(Command, name="access.suspend_actor", roles=ADMINS):
    """Keep an actor from acting, whatever tokens and keys it still has; nobody suspends themselves."""

    actor_id: ActorId


class ReinstateActor(Command, name="access.reinstate_actor", roles=ADMINS):
    """Let a suspended actor act again."""

    actor_id: ActorId


class OffboardActor(Command, name="access.offboard_actor", roles=ADMINS):
    """End for good all that an actor may do: tokens, keys, unused approvals, and the agents and services it answers for.

    Nobody offboards themselves, so the administrator who asks remains. What is no person and has an administrator leave, as an identity
    provider does, names another `administrator` who remains.
    """

    restrains: ClassVar[bool] = True
    actor_id: ActorId
    administrator: PersonId | None = None

    def relies_on(self) -> tuple[str, ...]:
        return (actor_stream(self.administrator),) if self.administrator else ()


class IssueApiKey(Command, name="access.issue_api_key", roles=PEOPLE):
    """Give an actor a key: people for themselves, an owner or an administrator for an agent or a service.

    With `scopes` it is good for these only: `read`, the commands of a context (`catalog`), or one command
    (`catalog.register_dataset`) - as far as its actor may do that at all.
    """

    actor_id: ActorId
    key_id: ApiKeyId
    label: Label
    secret_sha256: Sha256
    expires_at: AwareDatetime | None = None
    scopes: Scopes | None = None


class RotateApiKey(Command, name="access.rotate_api_key", roles=PEOPLE):
    """Put a new key beside one, for the same uses; the old one ends after `overlap_hours`, at most a week."""

    actor_id: ActorId
    key_id: ApiKeyId
    replaces: ApiKeyId
    secret_sha256: Sha256
    expires_at: AwareDatetime | None = None
    overlap_hours: Annotated[int, Field(ge=0, le=OVERLAP_HOURS_MAX)] = OVERLAP_HOURS


class RevokeApiKey(Command, name="access.revoke_api_key", roles=PEOPLE):
    """Make a key worthless at once: its actor, the actor's owner, or an administrator."""

    actor_id: ActorId
    key_id: ApiKeyId


AccessCommand = (
    RegisterActor
    | ChangeRoles
    | ChangeOwner
    | ChangeTier
    | BoundDomains
    | SuspendActor
    | ReinstateActor
    | OffboardActor
    | IssueApiKey
    | RotateApiKey
    | RevokeApiKey
)


class LinkIdentity(Command, name="access.link_identity", roles=ADMINS):
    """Let whoever an identity provider knows by this subject be an actor here.

    `subject_sha256` is the digest of the issuer, a line feed and the subject: the subject itself stays with the provider.
    """

    subject_sha256: Sha256
    issuer: Issuer
    actor_id: ActorId

    def relies_on(self) -> tuple[str, ...]:
        return (actor_stream(self.actor_id),)


class UnlinkIdentity(Command, name="access.unlink_identity", roles=ADMINS):
    """End that somebody an identity provider knows is an actor here."""

    subject_sha256: Sha256


IdentityCommand = LinkIdentity | UnlinkIdentity
