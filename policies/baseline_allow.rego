# What the bank's people, services and agents may do at all. Roles are the commands' own business; policies come on top.
package aureus

import rego.v1

baseline_allow(question) := [finding |
	permitted(question.actor.kind, question.action)
	finding := {
		"policy": "baseline_allow",
		"outcome": "allow",
		"reason": concat("", ["Open to every ", question.actor.kind, "."]),
	}
]
