package aureus

import rego.v1

test_people_and_services_act_in_every_context if {
	every kind in ["person", "service"] {
		outcomes_in_every_context(kind) == {"allow"}
	}
}

outcomes_in_every_context(kind) := {finding.outcome |
	some context in data.bank.contexts
	some finding in baseline_allow(asked(kind, concat(".", [context, "do_something"]), {}))
}

test_in_every_context_means_in_each_of_them if {
	every context in data.bank.contexts {
		count(baseline_allow(asked("person", concat(".", [context, "do_something"]), {}))) == 1
	}
}

test_an_unknown_kind_of_actor_is_not_allowed if baseline_allow(asked("robot", "catalog.register_dataset", {})) == []

test_a_context_is_matched_whole if baseline_allow(asked("person", "catalogue.register_dataset", {})) == []

test_agents_do_what_is_listed_and_no_more if {
	every action in data.bank.agents.actions {
		count(baseline_allow(asked("agent", action, {"environment": "production"}))) == 1
	}
	count(baseline_allow(asked("agent", "evidence.register_artifact", {}))) == 1
	every action in [
		"access.register_actor", "agents.resume_agent", "agents.stop_agent", "approvals.approve_request",
		"budgets.open_budget", "catalog.register_dataset", "pipelines.deploy_version", "policies.propose_policy",
	] {
		baseline_allow(asked("agent", action, {})) == []
	}
}

# Reactions of the platform itself may not wait for anybody, and nor may whoever stops an agent.
test_what_must_not_wait_does_not_wait if {
	every action in [
		"agents.stop_agent", "approvals.escalate_request", "approvals.expire_request", "approvals.void_request",
		"budgets.release_funds", "notifications.notify",
	] {
		judged("service", action, {"stopped": false}).outcome == "allow"
	}
	judged("person", "agents.stop_agent", {"stopped": false}).outcome == "allow"
}
