# How policies combine: block beats require_approval beats allow, and what no policy allows is blocked.
#
# A policy is a function from the question to the findings it makes (none, one or several), in a file of its own; it
# takes part by its line in `judgements`. Policies are functions, and not rules over `input`, so that tests can ask them
# anything without `with`, which the embedded evaluator does not survive.
package aureus

import rego.v1

verdict := combined(findings(input))

judgements(question) := [
	baseline_allow(question),
	pii_onboarding(question),
	cross_jurisdiction(question),
	pii_deprecation(question),
	production_write(question),
]

findings(question) := [finding |
	some judgement in judgements(question)
	some finding in judgement
]

combined(found) := answer("block", found, [], 1) if {
	"block" in outcomes(found)
} else := answer("require_approval", found, approvers(found), quorum(found)) if {
	"require_approval" in outcomes(found)
} else := answer("allow", found, [], 1) if {
	"allow" in outcomes(found)
} else := answer("block", [default_deny], [], 1)

default_deny := {"policy": "default_deny", "outcome": "block", "reason": "No policy allows this."}

answer(outcome, found, roles, needed) := {
	"outcome": outcome,
	"results": found,
	"approver_roles": roles,
	"quorum": needed,
}

outcomes(found) := {finding.outcome | some finding in found}

asking(found) := [finding |
	some finding in found
	finding.outcome == "require_approval"
]

# Whoever approves must be acceptable to every policy that asks for an approval.
approvers(found) := sort([role |
	some role in asking(found)[0].approver_roles
	unacceptable := [finding |
		some finding in asking(found)
		not role in finding.approver_roles
	]
	count(unacceptable) == 0
])

quorum(found) := max([finding.quorum | some finding in asking(found)])
