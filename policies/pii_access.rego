# Data that holds much about people is used by an agent only with an approver's word for that one use.
package aureus

import rego.v1

pii_access(question) := [finding |
	question.action == "agents.request_action"
	question.facts.pii_level == "high"
	finding := {
		"policy": "pii_access",
		"outcome": "require_approval",
		"reason": "The data holds much about people (PII level high).",
		"approver_roles": ["admin", "approver"],
		"quorum": 1,
	}
]
