# An agent works with data that is in use and under a contract that has not ended; on data older than promised, only with an
# approver's word.
package aureus

import rego.v1

agent_tools(question) := [finding |
	question.action == "agents.request_action"
	some finding in objections(question.facts)
]

objections(facts) := array.concat(
	[finding |
		some status in facts.statuses
		status != "active"
		finding := unusable(concat("", ["One of the datasets is ", status, "."]))
	],
	array.concat(
		[finding |
			some status in facts.contracts
			status in data.bank.agents.refused_contracts
			finding := unusable(concat("", ["The contract of one of the datasets is ", status, "."]))
		],
		[finding |
			facts.fresh == false
			finding := {
				"policy": "agent_tools",
				"outcome": "require_approval",
				"reason": "One of the datasets is older than was promised.",
				"approver_roles": ["admin", "approver"],
				"quorum": 1,
			}
		],
	),
)

unusable(reason) := {"policy": "agent_tools", "outcome": "block", "reason": reason}
