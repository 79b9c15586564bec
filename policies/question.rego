# How policies read a question: what several of them need to know of it. It judges nothing itself.
package aureus

import rego.v1

# Whether somebody of this kind may do it at all.
permitted(kind, action) if {
	kind in {"person", "service"}
	context_of(action) in data.bank.contexts
}

permitted("agent", action) if action in data.bank.agents.actions

permitted("agent", action) if context_of(action) in data.bank.agents.contexts

context_of(action) := split(action, ".")[0]

# The attributes an action changes; of an action that does not say, all it knows.
changed(question) := object.keys(object.get(question.facts, "becomes", question.facts))

# Whether an entry of a list is about these facts: as they are (`when`), or as they would become (`becomes`).
applies(entry, facts) if {
	every name, value in object.get(entry, "when", {}) { facts[name] == value }
	every name, value in object.get(entry, "becomes", {}) { facts.becomes[name] == value }
}
