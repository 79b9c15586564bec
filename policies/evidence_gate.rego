# Nothing that needs proof completes without it: the kinds of artifacts that the bank's table asks for, action by action.
package aureus

import rego.v1

evidence_gate(question) := [finding |
	needed := data.bank.required_evidence[question.action]
	applies(needed, question.facts)
	permitted(question.actor.kind, question.action) # to ask for evidence is not to allow
	finding := {
		"policy": "evidence_gate",
		"outcome": "allow",
		"reason": concat("", ["Completes with evidence: ", concat(", ", needed.kinds), "."]),
		"required_evidence": needed.kinds,
	}
]
