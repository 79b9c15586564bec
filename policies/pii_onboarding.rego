# Data that holds much about people enters the catalogue, or is classified so or no longer so, only with a second pair of
# eyes; it matters what an action changes, not what it is called, so a nightly sync that changes nothing of it passes.
package aureus

import rego.v1

pii_onboarding(question) := [finding |
	question.facts.pii_level == "high"
	"pii_level" in changed(question)
	finding := {
		"policy": "pii_onboarding",
		"outcome": "require_approval",
		"reason": "The dataset is or was classified as holding much personal data (PII level high).",
		"approver_roles": ["admin", "approver"],
		"quorum": onboarding_quorum(question.facts),
	}
]

# Where the law wants it, more than one approver.
onboarding_quorum(facts) := object.get(data.bank.onboarding_quorum, object.get(facts, "jurisdiction", "none"), 1)
