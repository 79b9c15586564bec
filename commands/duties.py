"""What may be asked of the rules that separate duties, and whether somebody who asks for something keeps to them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

from domain.access import OWN_ACTORS
from domain.duties import (
    CommandName,
    Duties,
    DutyEvent,
    DutyRule,
    RuleDefined,
    RuleId,
    RuleRemoved,
    evolve,
    roles_conflict,
)
from domain.kernel import Asked, Asker, Command, Decider, JsonObject, Refused, require
from domain.values import Role, Text

ADMINS: Final = frozenset({Role.ADMIN})
RULES_MAX: Final = 100


class DefineRule(Command, name="duties.define_rule", roles=ADMINS):
    """Keep roles apart (nobody may hold two of `roles_apart`), or commands (of `commands_apart` the same hand may not do two to the
    same entity). Defined again under the same id, the rule reads like this from now on."""

    rule_id: RuleId
    reason: Annotated[Text, Field(min_length=1)]
    roles_apart: Annotated[tuple[Role, ...], Field(max_length=len(Role))] = ()
    commands_apart: Annotated[tuple[CommandName, ...], Field(max_length=50)] = ()


class RemoveRule(Command, name="duties.remove_rule", roles=ADMINS):
    """Let a rule hold no longer."""

    rule_id: RuleId


DutyCommand = DefineRule | RemoveRule


def decide(duties: Duties, command: DutyCommand, asked: Asked) -> list[DutyEvent]:
    if isinstance(command, DefineRule):
        return _defined(duties, DutyRule(**command.model_dump()), asked)
    require(
        command.rule_id in duties.rules,
        "rule_not_found",
        f"There is no rule {command.rule_id}.",
        field="rule_id",
        remedy="GET /v1/duties/rules lists those there are.",
    )
    return [RuleRemoved(rule_id=command.rule_id)]


def _defined(duties: Duties, rule: DutyRule, asked: Asked) -> list[DutyEvent]:
    require(
        bool(rule.roles_apart) != bool(rule.commands_apart),
        "rule_of_one_kind",
        "A rule keeps either roles apart or commands.",
        field="roles_apart",
        remedy="Give one of roles_apart and commands_apart, and the other kind in a rule of its own.",
    )
    named, name = (rule.roles_apart, "roles_apart") if rule.roles_apart else (rule.commands_apart, "commands_apart")
    require(
        len(set(named)) == len(named) >= 2,
        "rule_needs_two",
        "Two different ones at least are kept apart.",
        field=name,
        remedy="Name two or more, each once.",
    )
    require(
        rule.rule_id in duties.rules or len(duties.rules) < RULES_MAX,
        "too_many_rules",
        f"There are {RULES_MAX} rules already.",
        field="rule_id",
        remedy="Join some: one rule keeps any number of roles or commands apart.",
    )
    # Whoever breaks it would be held up by it at once, and could not even have it removed.
    require(
        roles_conflict(Duties({rule.rule_id: rule}), asked.by.actor, held_roles(asked.by, asked.at)) is None,
        "own_conflict",
        f"{asked.by.actor} holds two of these roles, and would break the rule by its first command.",
        field="roles_apart",
        remedy="Have one of the two taken from you first, or let another administrator define the rule.",
    )
    return [] if duties.rules.get(rule.rule_id) == rule else [RuleDefined(rule=rule)]


def held_roles(by: Asker, at: datetime) -> frozenset[Role]:
    """Every role that somebody holds then, wherever it reaches and however they came to it."""
    return by.roles | {holding.role for holding in by.holdings if holding.until is None or at < holding.until}


def hand_of(actor: str, owner: str | None) -> str:
    """Whose hand it is: an agent's or a service's is its owner's."""
    return owner or actor


def roles_apart(duties: Duties, by: Asker, at: datetime) -> Refused | None:
    """Why somebody may ask for nothing: they hold roles that are kept apart. Aureus' own services hold what they need."""
    return None if by.actor in OWN_ACTORS else roles_conflict(duties, by.actor, held_roles(by, at))


def commands_apart(rules: Iterable[DutyRule], command: str, hand: str, stream: str, did: Iterable[str]) -> Refused | None:
    """Why this hand may not do this here; `did` are the commands that it did on the stream, `rules` those about this one."""
    done = set(did) - {command}
    for rule in rules:
        for other in sorted(done & set(rule.commands_apart)):
            message = f"{hand} did {other} on {stream}, and rule {rule.rule_id} wants another hand for {command}: {rule.reason}"
            remedy = "Ask somebody else to do it; what your agents and services do counts as yours."
            return Refused(
                "duties_conflict", message, rule=rule.rule_id, commands=[other, command], hand=hand, reason=rule.reason, remedy=remedy
            )
    return None


def _facts(duties: Duties, command: DutyCommand) -> JsonObject:
    """Whether a rule that holds would be weakened, for which policies may want a second person."""
    known = duties.rules.get(command.rule_id)
    if isinstance(command, RemoveRule) or known is None:
        return {"loosens": known is not None}
    now = {*command.roles_apart, *command.commands_apart}
    return {"loosens": not now >= {*known.roles_apart, *known.commands_apart}}


DECIDER: Final[Decider[Duties, DutyCommand, DutyEvent]] = Decider(
    context="duties",
    category="duties",
    initial=Duties(),
    evolve=evolve,
    decide=decide,
    commands=(DefineRule, RemoveRule),
    events=(RuleDefined, RuleRemoved),
    entity=lambda _command: "rules",
    facts=_facts,
)
