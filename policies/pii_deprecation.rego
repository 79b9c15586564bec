# A dataset that holds much personal data is not retired on one person's word: duties to keep or erase may stand on it.
package aureus

import rego.v1

pii_deprecation(question) := [finding |
	question.action == "catalog.deprecate_dataset"
	question.facts.pii_level == "high"
	finding := {
		"policy": "pii_deprecation",
		"outcome": "require_approval",
		"reason": "Duties to keep or erase may stand on a dataset of PII level high.",
		"approver_roles": ["admin", "approver"],
		"quorum": 1,
	}
]
