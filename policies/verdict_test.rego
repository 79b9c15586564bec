package aureus

import rego.v1

judged(kind, action, facts) := combined(findings({
	"action": action,
	"actor": {"roles": ["analyst"], "kind": kind},
	"tenant": "acme",
	"facts": facts,
	"has_reason": false,
}))

policies_of(answered) := {result.policy | some result in answered.results}

test_nothing_matched_is_blocked if {
	judged("person", "payments.send_money", {}) == {
		"outcome": "block",
		"results": [{"policy": "default_deny", "outcome": "block", "reason": "No policy allows this."}],
		"approver_roles": [],
		"quorum": 1,
	}
}

test_an_empty_question_is_blocked if combined(findings({})).outcome == "block"

test_people_and_services_act_in_every_context if {
	outcomes_over := {judged(kind, sprintf("%s.do_something", [context]), {}).outcome |
		some kind in ["person", "service"]
		some context in data.bank.contexts
	}
	outcomes_over == {"allow"}
}

test_an_unknown_kind_of_actor_is_blocked if judged("robot", "catalog.register_dataset", {}).outcome == "block"

test_a_context_is_matched_whole if judged("person", "catalogue.register_dataset", {}).outcome == "block"

test_agents_do_what_is_listed_and_no_more if {
	every action in data.bank.agents.actions {
		judged("agent", action, {"environment": "production"}).outcome == "allow"
	}
	judged("agent", "evidence.attach_artifact", {}).outcome == "allow"
	every action in ["budgets.open_budget", "catalog.register_dataset", "approvals.approve", "access.add_actor"] {
		policies_of(judged("agent", action, {})) == {"default_deny"}
	}
}

test_agents_do_not_write_production if {
	answered := judged("agent", "catalog.describe_dataset", {"environment": "production"})
	answered.outcome == "block"
	policies_of(answered) == {"production_write"}
}

test_people_write_production if judged("person", "catalog.describe_dataset", {"environment": "production"}).outcome == "allow"

entering := ["catalog.register_dataset", "catalog.sync_dataset", "catalog.describe_dataset", "catalog.change_schema"]

test_imports_without_much_personal_data_pass if {
	outcomes_over := {judged("person", action, {"pii_level": level, "jurisdiction": "multi"}).outcome |
		some action in entering
		some level in ["none", "low", null]
	}
	outcomes_over == {"allow"}
}

test_becoming_high_pii_takes_one_approver if {
	every action in entering {
		answered := judged("person", action, {"pii_level": "high", "jurisdiction": "EU", "becomes": {"pii_level": "high"}})
		answered.outcome == "require_approval"
		answered.approver_roles == ["admin", "approver"]
		answered.quorum == 1
		policies_of(answered) == {"baseline_allow", "pii_onboarding"}
	}
}

test_no_longer_being_high_pii_takes_an_approver if {
	answered := judged("person", "catalog.describe_dataset", {"pii_level": "high", "becomes": {"pii_level": "none"}})
	policies_of(answered) == {"baseline_allow", "pii_onboarding"}
}

test_what_does_not_change_the_classification_passes if {
	every action in ["catalog.sync_dataset", "catalog.tag_dataset", "catalog.record_refresh"] {
		judged("service", action, {"pii_level": "high", "jurisdiction": "multi", "becomes": {}}).outcome == "allow"
	}
}

test_an_action_that_does_not_say_what_changes_is_held if {
	judged("person", "catalog.tag_dataset", {"pii_level": "high"}).outcome == "require_approval"
}

test_high_pii_in_several_jurisdictions_takes_two if {
	every change in [{"pii_level": "high"}, {"jurisdiction": "US"}] {
		answered := judged("service", "catalog.describe_dataset", {"pii_level": "high", "jurisdiction": "multi", "becomes": change})
		answered.outcome == "require_approval"
		answered.approver_roles == ["admin", "approver"]
		answered.quorum == 2
	}
}

test_retiring_high_pii_takes_an_approver if {
	answered := judged("person", "catalog.deprecate_dataset", {"pii_level": "high", "becomes": {}})
	answered.outcome == "require_approval"
	policies_of(answered) == {"baseline_allow", "pii_deprecation"}
	judged("person", "catalog.deprecate_dataset", {"pii_level": "low", "becomes": {}}).outcome == "allow"
}

test_block_beats_approval_beats_allow if {
	allowed := {"policy": "a", "outcome": "allow", "reason": ""}
	parked := {"policy": "b", "outcome": "require_approval", "reason": "", "approver_roles": ["admin"], "quorum": 3}
	blocked := {"policy": "c", "outcome": "block", "reason": ""}
	combined([allowed, parked, blocked]).outcome == "block"
	combined([allowed, parked]).outcome == "require_approval"
	combined([allowed, parked]).quorum == 3
	combined([allowed]).outcome == "allow"
}

test_approvers_suit_every_policy_that_asks if {
	one := {"policy": "a", "outcome": "require_approval", "reason": "", "approver_roles": ["admin", "approver"], "quorum": 1}
	two := {"policy": "b", "outcome": "require_approval", "reason": "", "approver_roles": ["approver", "auditor"], "quorum": 1}
	combined([one, two]).approver_roles == ["approver"]
}
