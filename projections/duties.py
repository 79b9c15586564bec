"""The rules that separate duties, as people read them."""

from domain.duties import RuleDefined, RuleRemoved
from domain.kernel import Recorded
from projections.engine import Projection, ReadTable, read_row


@read_row
class DutyRuleRow:
    """One rule in force: of `roles_apart` nobody may hold two, of `commands_apart` one hand may not do two to the same entity."""

    rule_id: str
    kind: str
    reason: str
    roles_apart: list[str]
    commands_apart: list[str]
    defined_by: str
    defined_at: str


duty_rules = ReadTable(
    "duty_rules",
    DutyRuleRow,
    filters=("kind", "roles_apart", "commands_apart"),
    sorts=("rule_id", "defined_at"),
    search=("rule_id", "reason"),
    ends=True,
)


def _rule(recorded: Recorded[RuleDefined | RuleRemoved]) -> tuple[str, ...]:
    event = recorded.event
    return (event.rule.rule_id if isinstance(event, RuleDefined) else event.rule_id,)


@duty_rules.on(RuleDefined, keys=_rule)
def defined(_row: DutyRuleRow | None, recorded: Recorded[RuleDefined], rule_id: str) -> DutyRuleRow:
    rule = recorded.event.rule
    return DutyRuleRow(
        rule_id=rule_id,
        kind="roles" if rule.roles_apart else "commands",
        reason=rule.reason,
        roles_apart=[role.value for role in rule.roles_apart],
        commands_apart=list(rule.commands_apart),
        defined_by=recorded.actor,
        defined_at=recorded.at_text,
    )


@duty_rules.on(RuleRemoved, keys=_rule)
def removed(_row: DutyRuleRow, _recorded: Recorded[RuleRemoved], _rule_id: str) -> None:
    return None


PROJECTION = Projection("duties", (duty_rules,), ordering="stream")
