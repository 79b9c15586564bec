package aureus

import rego.v1

test_much_personal_data_is_used_with_an_approval if {
	found := pii_access(asked("agent", "agents.request_action", {"pii_level": "high", "becomes": {}}))[0]
	found.outcome == "require_approval"
	found.quorum == 1
}

test_other_data_is_used_freely if {
	every level in ["none", "low", null] {
		pii_access(asked("agent", "agents.request_action", {"pii_level": level, "becomes": {}})) == []
	}
}

test_describing_a_dataset_is_not_using_it if {
	pii_access(asked("person", "catalog.tag_dataset", {"pii_level": "high", "becomes": {}})) == []
}
