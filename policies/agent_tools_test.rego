package aureus

import rego.v1

using(statuses, contracts, fresh) := [finding.outcome |
	facts := {"statuses": statuses, "contracts": contracts, "fresh": fresh}
	some finding in agent_tools(asked("agent", "agents.request_action", facts))
]

test_sound_data_is_worked_with if using(["active"], ["active", "none"], true) == []

test_deprecated_and_unknown_data_is_not if {
	using(["active", "deprecated"], ["active"], true) == ["block"]
	using(["deprecated", "unknown"], ["active"], true) == ["block", "block"]
}

test_an_ended_contract_ends_the_use if {
	every status in data.bank.agents.refused_contracts {
		using(["active"], ["active", status], true) == ["block"]
	}
}

test_stale_data_takes_an_approver if using(["active"], ["active"], false) == ["require_approval"]

test_other_actions_are_no_use_of_data if agent_tools(asked("person", "catalog.tag_dataset", {"statuses": ["deprecated"]})) == []
