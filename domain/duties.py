"""Separation of duties: which roles nobody may hold together, and which commands the same hand may not both do to the same thing.

The hand is a person's: what an agent or a service does counts as done by its owner.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

from domain.kernel import Event, Refused
from domain.values import Role, Text

RULES_STREAM: Final = "duties:rules"
"""A tenant's rules, all in one stream: what relies on them relies on one version."""
RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=60)]
CommandName = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z_]+$", max_length=100)]


class DutyRule(BaseModel):
    """A rule of one of two kinds: of `roles_apart` nobody may hold two, however they come to them; of `commands_apart` the same hand
    may not do two to the same entity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule_id: RuleId
    reason: Text
    roles_apart: tuple[Role, ...] = ()
    commands_apart: tuple[CommandName, ...] = ()


class RuleDefined(Event, name="duties.rule_defined"):
    """The rule reads like this from now on."""

    rule: DutyRule


class RuleRemoved(Event, name="duties.rule_removed"):
    """The rule holds no longer."""

    rule_id: RuleId


DutyEvent = RuleDefined | RuleRemoved


@dataclass(frozen=True, slots=True)
class Duties:
    """The rules in force, by id."""

    rules: Mapping[str, DutyRule] = field(default_factory=lambda: MappingProxyType({}))

    def about(self, command: str) -> tuple[DutyRule, ...]:
        """The rules that set this command apart from others."""
        return tuple(rule for rule in self.rules.values() if command in rule.commands_apart)

    def broken_by(self, held: Iterable[Role]) -> list[tuple[DutyRule, tuple[Role, Role]]]:
        """Every rule that these roles break, each with the two roles that do."""
        ordered = sorted(set(held))
        return [
            (rule, pair) for rule in self.rules.values() for pair in combinations([role for role in ordered if role in rule.roles_apart], 2)
        ]


def evolve(duties: Duties, event: DutyEvent) -> Duties:
    if isinstance(event, RuleDefined):
        return Duties(MappingProxyType({**duties.rules, event.rule.rule_id: event.rule}))
    return Duties(MappingProxyType({rule_id: rule for rule_id, rule in duties.rules.items() if rule_id != event.rule_id}))


def roles_conflict(duties: Duties, actor_id: str, held: Iterable[Role]) -> Refused | None:
    """The refusal of roles that nobody may hold together, naming the rule; None when they may be held."""
    for rule, (one, other) in duties.broken_by(held):
        message = f"{actor_id} would hold {one} and {other}, which rule {rule.rule_id} keeps apart: {rule.reason}"
        remedy = "Give one of the two roles to somebody else; GET /v1/why tells where each comes from."
        return Refused("duties_conflict", message, rule=rule.rule_id, roles=[one.value, other.value], reason=rule.reason, remedy=remedy)
    return None


def require_apart(duties: Duties, actor_id: str, held: Iterable[Role]) -> None:
    """Refuses (`duties_conflict`) roles that nobody may hold together: asked before a role, a membership or a grant is given."""
    refusal = roles_conflict(duties, actor_id, held)
    if refusal is not None:
        raise refusal
