package aureus

import rego.v1

entering := ["catalog.register_dataset", "catalog.sync_dataset", "catalog.describe_dataset", "catalog.change_schema"]

test_imports_without_much_personal_data_pass if {
	every level in ["none", "low", null] {
		facts := {"pii_level": level, "jurisdiction": "multi", "becomes": {"pii_level": level}}
		{count(pii_onboarding(asked("person", action, facts))) | some action in entering} == {0}
	}
}

onboarded(action, jurisdiction) := found[0] if {
	facts := {"pii_level": "high", "jurisdiction": jurisdiction, "becomes": {"pii_level": "high"}}
	found := pii_onboarding(asked("person", action, facts))
}

test_becoming_high_pii_takes_an_approver if {
	every action in entering {
		found := onboarded(action, "US")
		found.outcome == "require_approval"
		found.approver_roles == ["admin", "approver"]
		found.quorum == 1
	}
}

test_in_the_eu_it_takes_two if {
	every action in entering {
		found := onboarded(action, "EU")
		found.quorum == 2
	}
}

test_without_a_jurisdiction_it_takes_one if {
	every action in entering {
		found := onboarded(action, null)
		found.quorum == 1
	}
}

test_no_longer_being_high_pii_takes_an_approver if {
	count(pii_onboarding(asked("person", "catalog.describe_dataset", {"pii_level": "high", "becomes": {"pii_level": "none"}}))) == 1
}

test_what_does_not_change_the_classification_passes if {
	every action in ["catalog.sync_dataset", "catalog.tag_dataset", "catalog.record_refresh"] {
		pii_onboarding(asked("service", action, {"pii_level": "high", "jurisdiction": "multi", "becomes": {}})) == []
	}
}

test_an_action_that_does_not_say_what_changes_is_held if {
	count(pii_onboarding(asked("person", "catalog.tag_dataset", {"pii_level": "high"}))) == 1
}
