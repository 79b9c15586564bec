# To bring much personal data under several jurisdictions, out of one of them, or to use it across them takes two approvers.
package aureus

import rego.v1

cross_jurisdiction(question) := [finding |
	question.facts.pii_level == "high"
	question.facts.jurisdiction == "multi"
	crosses(question)
	finding := {
		"policy": "cross_jurisdiction",
		"outcome": "require_approval",
		"reason": "Personal data of PII level high falls under several jurisdictions.",
		"approver_roles": ["admin", "approver"],
		"quorum": 2,
	}
]

crosses(question) if count(changed(question) & {"pii_level", "jurisdiction"}) > 0

crosses(question) if question.action == "agents.request_action"
