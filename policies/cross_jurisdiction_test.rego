package aureus

import rego.v1

test_high_pii_in_several_jurisdictions_takes_two if {
	every change in [{"pii_level": "high"}, {"jurisdiction": "US"}] {
		facts := {"pii_level": "high", "jurisdiction": "multi", "becomes": change}
		found := cross_jurisdiction(asked("service", "catalog.describe_dataset", facts))[0]
		found.outcome == "require_approval"
		found.approver_roles == ["admin", "approver"]
		found.quorum == 2
	}
}

test_using_it_across_jurisdictions_takes_two if {
	facts := {"pii_level": "high", "jurisdiction": "multi", "becomes": {}}
	cross_jurisdiction(asked("agent", "agents.request_action", facts))[0].quorum == 2
}

test_one_jurisdiction_less_personal_data_or_no_change_crosses_nothing if {
	every facts in [
		{"pii_level": "high", "jurisdiction": "EU", "becomes": {"pii_level": "high"}},
		{"pii_level": "low", "jurisdiction": "multi", "becomes": {"pii_level": "low"}},
		{"pii_level": "high", "jurisdiction": "multi", "becomes": {"environment": "dev"}},
	] {
		cross_jurisdiction(asked("person", "catalog.describe_dataset", facts)) == []
	}
}
