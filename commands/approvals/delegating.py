"""When a person may let another decide for them: both are people, it ends, and whoever gave it can take it back."""

from datetime import UTC, timedelta
from typing import Any, Final, assert_never

from commands.approvals.intents import AuthorityCommand, DelegateAuthority, RevokeAuthority, actor_stream
from domain.access import Registration
from domain.approvals import (
    DELEGATIONS,
    AuthorityDelegated,
    AuthorityEvent,
    AuthorityRevoked,
    Delegations,
    evolve_delegations,
)
from domain.kernel import Asked, Decider, require, timestamp
from domain.values import ActorKind, Role

LONGEST_DELEGATION: Final = timedelta(days=90)


def decide(delegations: Delegations, command: AuthorityCommand, asked: Asked) -> list[AuthorityEvent]:
    match command:
        case DelegateAuthority():
            return _delegate(command, asked)
        case RevokeAuthority():
            standing = delegations.standing.get(command.delegation_id)
            require(
                standing is not None,
                "delegation_not_found",
                f"No delegation {command.delegation_id} stands.",
                field="delegation_id",
                remedy="List the delegations: it may have been revoked already.",
            )
            assert standing is not None
            require(
                asked.by.actor in {standing.delegator, standing.delegate} or Role.ADMIN in asked.by.roles,
                "delegation_of_another",
                f"Delegation {command.delegation_id} was given by {standing.delegator} to {standing.delegate}: it is theirs to end.",
                field="delegation_id",
                remedy="Ask one of them, or an administrator.",
            )
            return [AuthorityRevoked(delegation_id=command.delegation_id, comment=command.comment)]
        case _:
            assert_never(command)


def _delegate(command: DelegateAuthority, asked: Asked) -> list[AuthorityEvent]:
    require(
        asked.by.kind is ActorKind.PERSON,
        "delegator_not_a_person",
        f"Only people approve, so {asked.by.actor}, of kind {asked.by.kind.value}, has no authority to delegate.",
        remedy="The person whose authority it is has to delegate it.",
    )
    require(
        command.delegate != asked.by.actor,
        "delegate_is_delegator",
        "Nobody delegates to themselves.",
        field="delegate",
        remedy="Name another person.",
    )
    registration: Registration = asked.others[actor_stream(command.delegate)]
    require(
        registration.actor is not None and not registration.actor.suspended,
        "delegate_cannot_act",
        f"{command.delegate} is not registered here, or suspended.",
        field="delegate",
        remedy="Name a person who can log in.",
    )
    starts_at = (command.starts_at or asked.at).astimezone(UTC)
    ends_at = command.ends_at.astimezone(UTC)
    require(
        max(starts_at, asked.at) < ends_at <= starts_at + LONGEST_DELEGATION,
        "delegation_period",
        f"A delegation ends in the future, after it starts, and within {LONGEST_DELEGATION.days} days of that.",
        field="ends_at",
        latest=timestamp(starts_at + LONGEST_DELEGATION),
        remedy="Name an earlier end, and delegate again when it is near.",
    )
    delegated = AuthorityDelegated(
        delegation_id=str(asked.action_id),
        delegator=asked.by.actor,
        delegate=command.delegate,
        types=tuple(sorted(set(command.types))),
        risk_up_to=command.risk_up_to,
        starts_at=starts_at,
        ends_at=ends_at,
        comment=command.comment,
    )
    return [delegated]


def _facts(_delegations: Delegations, command: AuthorityCommand) -> dict[str, Any]:
    return {"risk_level": command.risk_up_to} if isinstance(command, DelegateAuthority) else {}


AUTHORITY: Final[Decider[Delegations, AuthorityCommand, AuthorityEvent]] = Decider(
    context="approvals",
    category=DELEGATIONS.partition(":")[0],
    initial=Delegations(),
    evolve=evolve_delegations,
    decide=decide,
    commands=(DelegateAuthority, RevokeAuthority),
    events=(AuthorityDelegated, AuthorityRevoked),
    entity=lambda _command: DELEGATIONS.partition(":")[2],
    facts=_facts,
)
