# To bring much personal data under several jurisdictions, or out of one of them, takes two approvers.
package aureus

import rego.v1

cross_jurisdiction(question) := [finding |
	question.facts.pii_level == "high"
	question.facts.jurisdiction == "multi"
	count(changed(question) & {"pii_level", "jurisdiction"}) > 0
	finding := {
		"policy": "cross_jurisdiction",
		"outcome": "require_approval",
		"reason": "Personal data of PII level high falls under several jurisdictions.",
		"approver_roles": ["admin", "approver"],
		"quorum": 2,
	}
]
