# What changes the rules themselves, goes to production, or undoes what was decided takes as many approvers as the bank lists.
package aureus

import rego.v1

high_risk(question) := [finding |
	risk := data.bank.high_risk[question.action]
	applies(risk, question.facts)
	finding := {
		"policy": "high_risk",
		"outcome": "require_approval",
		"reason": risk.reason,
		"approver_roles": ["admin", "approver"],
		"quorum": risk.quorum,
	}
]
