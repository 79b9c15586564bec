# What the bank's people, services and agents may do at all. Roles are the commands' own business; policies come on top.
package aureus

import rego.v1

baseline_allow(question) := [finding |
	permitted(question.actor.kind, question.action)
	finding := {
		"policy": "baseline_allow",
		"outcome": "allow",
		"reason": sprintf("Open to every %s.", [question.actor.kind]),
	}
]

permitted(kind, action) if {
	kind in {"person", "service"}
	context_of(action) in data.bank.contexts
}

permitted("agent", action) if action in data.bank.agents.actions

permitted("agent", action) if context_of(action) in data.bank.agents.contexts

context_of(action) := split(action, ".")[0]
