"""What may be asked about actors, their keys and identities, and when the answer is yes: nobody grants anything to themselves."""

from typing import Final

from commands.access.actors import DECIDER
from commands.access.identities import IDENTITIES
from commands.access.intents import (
    AccessCommand,
    BoundDomains,
    ChangeOwner,
    ChangeRoles,
    ChangeTier,
    IssueApiKey,
    LinkIdentity,
    OffboardActor,
    RegisterActor,
    ReinstateActor,
    RevokeApiKey,
    RotateApiKey,
    SuspendActor,
    UnlinkIdentity,
)

DECIDERS: Final = (DECIDER, IDENTITIES)

__all__ = [
    "DECIDER",
    "DECIDERS",
    "IDENTITIES",
    "AccessCommand",
    "BoundDomains",
    "ChangeOwner",
    "ChangeRoles",
    "ChangeTier",
    "IssueApiKey",
    "LinkIdentity",
    "OffboardActor",
    "RegisterActor",
    "ReinstateActor",
    "RevokeApiKey",
    "RotateApiKey",
    "SuspendActor",
    "UnlinkIdentity",
]
