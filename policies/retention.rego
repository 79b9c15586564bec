# Data that the bank has to keep is not retired as lightly as other data: it takes two approvers.
package aureus

import rego.v1

# METADATA
# custom:
#   type: retention
retention(question) := [finding |
	question.action == "catalog.deprecate_dataset"
	some duty in data.bank.duties_to_keep
	question.facts.domain in duty.domains
	question.facts.jurisdiction in duty.jurisdictions
	finding := {
		"policy": "retention",
		"outcome": "require_approval",
		"reason": concat("", ["Such data has to be kept: ", duty.reason, "."]),
		"approver_roles": ["admin", "approver"],
		"quorum": 2,
	}
]
