# How policies combine: block beats require_approval beats allow, and what no policy allows is blocked.
#
# A policy is a function from the question to the findings it makes (none, one or several), in a file of its own; it
# takes part by its line in `judgements`. Policies are functions, and not rules over `input`, so that tests can ask them
# anything without `with`, which the embedded evaluator does not survive.
package aureus

import rego.v1

verdict := combined(findings(input))

judgements(question) := [
	agent_tools(question),
	baseline_allow(question),
	budget_limits(question),
	cross_jurisdiction(question),
	evidence_gate(question),
	fields(question),
	high_risk(question),
	pii_access(question),
	pii_deprecation(question),
	pii_onboarding(question),
	production_write(question),
	rate_limits(question),
	reach(question),
	retention(question),
]

findings(question) := [finding |
	some judgement in judgements(question)
	some finding in judgement
]

combined(found) := strictest(found, {finding.outcome | some finding in found})

strictest(found, outcomes) := answer("block", found) if {
	"block" in outcomes
} else := parked(found, [finding | some finding in found; finding.outcome == "require_approval"]) if {
	"require_approval" in outcomes
} else := answer("allow", found) if {
	"allow" in outcomes
} else := answer("block", [default_deny])

default_deny := {"policy": "default_deny", "outcome": "block", "reason": "No policy allows this."}

answer(outcome, found) := {
	"outcome": outcome,
	"results": found,
	"required_evidence": required_evidence(found),
}

# Whoever approves suits every policy that asks, there are as many as the strictest wants, and no longer than the shortest waits.
parked(found, asking) := {
	"outcome": "require_approval",
	"results": found,
	"required_evidence": required_evidence(found),
	"approver_roles": [role |
		some role in asking[0].approver_roles
		every finding in asking { role in finding.approver_roles }
	],
	"quorum": highest([finding.quorum | some finding in asking]),
	"approval_ttl_seconds": lowest([object.get(finding, "approval_ttl_seconds", 86400) | some finding in asking]),
}

required_evidence(found) := {kind |
	some finding in found
	some kind in finding.required_evidence
}

# Written out, for the embedded evaluator's `max` and `min` compare numbers as text.
highest(numbers) := number if {
	some number in numbers
	every other in numbers { number >= other }
}

lowest(numbers) := number if {
	some number in numbers
	every other in numbers { number <= other }
}
