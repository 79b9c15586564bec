"""When somebody that an identity provider knows is an actor here: one actor for each, and nobody becomes another."""

from typing import Any, Final, assert_never

from commands.access.intents import IdentityCommand, LinkIdentity, UnlinkIdentity, actor_stream
from commands.access.rules import not_oneself
from domain.access import (
    Identity,
    IdentityEvent,
    IdentityLinked,
    IdentityUnlinked,
    Registration,
    identify,
    reach_everywhere,
    registered,
    require_staying,
)
from domain.kernel import Asked, Decider, require


def decide(identity: Identity, command: IdentityCommand, asked: Asked) -> list[IdentityEvent]:
    match command:
        case LinkIdentity():
            return _link(identity, command, asked)
        case UnlinkIdentity():
            require(
                identity.actor_id is not None,
                "identity_not_found",
                "Nobody here has this identity.",
                field="subject_sha256",
                remedy="Look at GET /v1/identities.",
            )
            assert identity.actor_id is not None
            return [IdentityUnlinked(subject_sha256=command.subject_sha256, actor_id=identity.actor_id)]
        case _:
            assert_never(command)


def _link(identity: Identity, command: LinkIdentity, asked: Asked) -> list[IdentityEvent]:
    registration: Registration = asked.others[actor_stream(command.actor_id)]
    require_staying(registered(registration, command.actor_id))
    not_oneself(command.actor_id, asked, "own_identity", "Nobody says themselves who they are elsewhere.")
    reach_everywhere(asked)
    require(
        identity.actor_id in (None, command.actor_id),
        "identity_of_another",
        f"This identity is {identity.actor_id}'s.",
        field="subject_sha256",
        actor_id=identity.actor_id,
        remedy="Unlink it first.",
    )
    linked = IdentityLinked(subject_sha256=command.subject_sha256, issuer=command.issuer, actor_id=command.actor_id)
    return [] if identity.actor_id else [linked]


def _facts(identity: Identity, _command: IdentityCommand) -> dict[str, Any]:
    return {"linked": identity.actor_id is not None}


IDENTITIES: Final[Decider[Identity, IdentityCommand, IdentityEvent]] = Decider(
    context="access",
    category="identity",
    initial=Identity(),
    evolve=identify,
    decide=decide,
    commands=(LinkIdentity, UnlinkIdentity),
    events=(IdentityLinked, IdentityUnlinked),
    entity=lambda command: command.subject_sha256,
    facts=_facts,
)
