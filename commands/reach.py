"""Where a command takes effect, and which of their roles its asker holds there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import reduce
from typing import Any, Final

from pydantic import ValidationError

from domain.approvals import Approval
from domain.kernel import Asker, Command, Decider, Refused
from domain.values import Role

AnyDecider = Decider[Any, Any, Any]
Place = tuple[str, frozenset[str]]
"""A stream, and the data domains that it belongs to or would."""
APPROVAL: Final = "approval"


def roles_in(by: Asker, places: Iterable[Place], at: datetime) -> frozenset[Role]:
    """The roles held in every one of the places."""
    held = (by.roles_on(stream, domain, at) for stream, domains in places for domain in domains or {None})
    return reduce(frozenset.intersection, held)


def approved_command(approval: Approval, commands: Mapping[str, type[Command]]) -> Command | None:
    """The very command that an approval is about, if it names one that still reads like this."""
    request = approval.request
    known = commands.get(request.command) if request is not None and request.command is not None else None
    if request is None or known is None:
        return None
    try:
        return known.model_validate(request.inputs or {})
    except ValidationError:
        return None


def outside_reach(by: Asker, command: type[Command], places: Iterable[Place], at: datetime) -> Refused:
    """Why somebody may not ask this here: they hold no such role, or hold it elsewhere only."""
    name, needed = command.command_name, sorted(role.value for role in command.roles)
    elsewhere = by.roles | {holding.role for holding in by.holdings if holding.until is None or at < holding.until}
    if elsewhere.isdisjoint(command.roles):
        message = f"{name} needs one of the roles {', '.join(needed)}."
        return Refused("role_missing", message, roles_needed=needed, remedy="Ask somebody who holds one.")
    concerned = list(places)
    domains = sorted({domain for _, found in concerned for domain in found})
    where = f"in the domain {' and '.join(domains)}" if domains else f"on {concerned[0][0]}"
    return Refused(
        "outside_reach",
        f"{name} needs one of the roles {', '.join(needed)} {where}; you hold one, but not there.",
        roles_needed=needed,
        domains=domains,
        streams=[stream for stream, _ in concerned],
        rule="a role reaches the domains that bound it, or what it was granted on",
        remedy="Have the role granted on that domain, project or stream (POST /v1/grants), or ask somebody who holds it there.",
    )
