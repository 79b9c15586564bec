# Whoever reaches some domains only changes nothing that holds for the whole tenant; and a role that was granted for a time opens no
# change of what is in production.
package aureus

import rego.v1

reach(question) := array.concat(
	[finding |
		question.actor.bounded
		context_of(question.action) in data.bank.reach.tenant_wide
		not question.action in data.bank.reach.for_oneself
		finding := beyond_reach("It would hold for the whole tenant, and you reach some domains of it.")
	],
	[finding |
		question.actor.by_grant
		question.facts.environment == "production"
		context_of(question.action) in {"catalog", "pipelines"}
		not question.action in data.bank.reach.reports
		finding := beyond_reach("A grant opens no change of what is in production.")
	],
)

beyond_reach(reason) := {"policy": "reach", "outcome": "block", "reason": reason}
