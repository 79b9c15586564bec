# Nobody asks so much in a minute that others have to wait; to stop an agent is never too much.
package aureus

import rego.v1

rate_limits(question) := [finding |
	question.recent > data.bank.actions_per_minute[question.actor.kind]
	question.action != "agents.stop_agent"
	finding := {
		"policy": "rate_limits",
		"outcome": "block",
		"reason": concat("", ["More than one ", question.actor.kind, " may ask in a minute."]),
	}
]
