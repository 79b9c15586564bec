package aureus

import rego.v1

reaching(actor, action, facts) := [finding.outcome |
	some finding in reach({"action": action, "actor": actor, "facts": facts})
]

bounded := {"kind": "person", "roles": ["admin"], "bounded": true}

granted := {"kind": "person", "roles": ["analyst"], "by_grant": true}

test_whoever_is_bounded_changes_nothing_for_all if {
	every context in data.bank.reach.tenant_wide {
		reaching(bounded, concat("", [context, ".change_everything"]), {}) == ["block"]
	}
}

test_whoever_is_bounded_works_within_the_domains if {
	reaching(bounded, "catalog.tag_dataset", {"environment": "production"}) == []
	reaching(bounded, "budgets.reserve_funds", {}) == []
}

test_whoever_is_bounded_keeps_keys_of_their_own if {
	every action in data.bank.reach.for_oneself { reaching(bounded, action, {}) == [] }
}

test_whoever_reaches_everything_is_not_held_up if {
	reaching({"kind": "person", "roles": ["admin"]}, "access.change_roles", {}) == []
}

test_a_grant_opens_no_change_of_production if {
	reaching(granted, "catalog.describe_dataset", {"environment": "production"}) == ["block"]
	reaching(granted, "pipelines.deploy_version", {"environment": "production"}) == ["block"]
}

test_a_grant_opens_what_is_not_in_production if {
	reaching(granted, "catalog.describe_dataset", {"environment": "staging"}) == []
	reaching(granted, "budgets.fund_budget", {}) == []
}

test_to_report_on_production_is_not_to_change_it if {
	every action in data.bank.reach.reports { reaching(granted, action, {"environment": "production"}) == [] }
}
