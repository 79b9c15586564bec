# A large promise of money takes an approver, and a very large one is not made here at all.
package aureus

import rego.v1

budget_limits(question) := [finding |
	limits := data.bank.budget_limits[question.action]
	is_number(question.facts.amount_up_to)
	finding := over(question.facts.amount_up_to, limits)
]

over(amount, limits) := {
	"policy": "budget_limits",
	"outcome": "block",
	"reason": "So large an amount is not promised here.",
} if {
	amount > limits.block_above_minor
} else := {
	"policy": "budget_limits",
	"outcome": "require_approval",
	"reason": "The amount is large.",
	"approver_roles": ["admin", "approver"],
	"quorum": 1,
} if {
	amount > limits.approval_above_minor
}
