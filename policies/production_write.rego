# Agents may report on what is in production, never change it or what the catalogue says of it, whatever else would allow it.
package aureus

import rego.v1

production_write(question) := [finding |
	question.actor.kind == "agent"
	question.facts.environment == "production"
	context_of(question.action) in {"catalog", "pipelines"}
	not question.action in data.bank.agents.actions
	finding := {
		"policy": "production_write",
		"outcome": "block",
		"reason": "An agent may not change what is in production.",
	}
]
