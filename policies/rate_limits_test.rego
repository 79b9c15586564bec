package aureus

import rego.v1

asking(kind, action, recent) := [finding.outcome |
	some finding in rate_limits({"action": action, "actor": {"kind": kind}, "recent": recent})
]

test_too_many_actions_a_minute_are_blocked if {
	every kind, limit in data.bank.actions_per_minute {
		asking(kind, "budgets.reserve_funds", limit) == []
		asking(kind, "budgets.reserve_funds", limit + 1) == ["block"]
	}
}

test_agents_are_held_shorter_than_people if {
	data.bank.actions_per_minute.agent < data.bank.actions_per_minute.person
}

test_the_platform_itself_is_not_limited if asking("service", "budgets.release_funds", 1048576) == []

test_to_stop_an_agent_is_never_too_much if asking("person", "agents.stop_agent", 1048576) == []
