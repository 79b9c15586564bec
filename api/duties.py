"""The separation of duties over REST: its rules, and who breaks them, today or at a past moment."""

from __future__ import annotations

from functools import cache
from typing import Final

from pydantic import BaseModel

from api.errors import ApiError
from api.roles_held import RoleHeld, every_row, roles_held
from api.routing import ContextRouter, Reading
from api.services import Services, deciders
from commands.duties import DefineRule, RemoveRule
from domain.duties import Duties, DutyRule
from domain.kernel import Asker
from domain.values import EVERYBODY, Role
from projections.access import actors
from projections.duties import duty_rules

OVERSEERS: Final = frozenset({Role.ADMIN, Role.AUDITOR, Role.APPROVER})


class Violation(BaseModel):
    """An actor who holds two roles that a rule keeps apart, and every way in which they hold them."""

    actor_id: str
    rule_id: str
    reason: str
    roles: list[Role]
    held: list[RoleHeld]


class Violations(BaseModel):
    """Who holds what is kept apart: until one of the roles is given up, whatever they ask for is refused."""

    items: list[Violation]


@cache
def _categories() -> dict[str, str]:
    """The category of the streams that each command is about."""
    return {command.command_name: decider.category for decider in deciders() for command in decider.commands}


async def _meeting(_services: Services, _asker: Asker, command: DefineRule) -> DefineRule:
    """The rule, if its commands are known and ever about the same thing: one that could never hold would only seem to. ApiError 422."""
    categories = _categories()
    unknown = next((name for name in command.commands_apart if name not in categories), None)
    if unknown is not None:
        message, remedy = f"There is no command {unknown}.", "Name commands of the API's schema, such as pipelines.deploy_version."
        raise ApiError(422, "invalid_parameter", message, field="commands_apart", rule="names of commands", remedy=remedy)
    about = sorted({categories[name] for name in command.commands_apart})
    if len(about) > 1:
        message, remedy = (
            f"These commands are never about the same entity: {', '.join(about)}.",
            "Name commands that are about one kind of entity.",
        )
        raise ApiError(422, "invalid_parameter", message, field="commands_apart", rule="about one kind of entity", remedy=remedy)
    return command


router = ContextRouter(prefix="/v1", tags=["duties"])
router.command("/duties/rules", DefineRule, status=201, complete=_meeting)
router.command("/duties/rules/{rule_id}/remove", RemoveRule)
router.views("/duties/rules", duty_rules, row_id="rule_id", roles=EVERYBODY)


@router.query("/duties/violations", roles=OVERSEERS, name="list_duty_violations")
async def violations(reader: Reading) -> Violations:
    """Who holds roles that are kept apart, and whether they are their own, of a group, or granted."""
    rules = [
        DutyRule(rule_id=row["rule_id"], reason=row["reason"], roles_apart=tuple(row["roles_apart"]))
        for row in await every_row(reader, duty_rules, {"kind": "roles"})
    ]
    duties = Duties({rule.rule_id: rule for rule in rules})
    active = await every_row(reader, actors, {"status": "active"}) if rules else []
    held = await roles_held(reader, active, await reader.moment())
    found = [
        Violation(
            actor_id=actor_id,
            rule_id=rule.rule_id,
            reason=rule.reason,
            roles=list(pair),
            held=[one for one in held[actor_id] if one.role in pair],
        )
        for actor_id in sorted(held)
        for rule, pair in duties.broken_by(one.role for one in held[actor_id])
    ]
    return Violations(items=found)
