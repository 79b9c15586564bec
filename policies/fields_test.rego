package aureus

import rego.v1

reading(kind, roles, table) := {"action": concat("", ["read.", table]), "actor": {"kind": kind, "roles": roles}}

masked_for(kind, roles, table) := {field |
	some finding in fields(reading(kind, roles, table))
	some field in finding.masked
}

test_agents_see_nobodys_name_on_a_dataset if {
	masked_for("agent", ["agent"], "datasets") == {"owner_ids", "owners", "registered_by"}
	masked_for("agent", ["agent", "viewer"], "datasets") == {"owner_ids", "owners", "registered_by"}
}

test_people_and_services_see_datasets_whole if {
	masked_for("person", ["viewer"], "datasets") == set()
	masked_for("service", ["analyst"], "datasets") == set()
}

test_a_list_that_masks_nothing_is_let_be if {
	fields(reading("agent", ["agent"], "terms")) == []
}

test_a_command_is_none_of_its_business if {
	fields({"action": "catalog.read.datasets", "actor": {"kind": "agent", "roles": ["agent"]}}) == []
	fields({}) == []
}

test_roles_and_kinds_are_both_needed if {
	whom := {"kinds": ["person"], "roles": ["admin", "auditor"]}
	shown_to(whom, {"kind": "person", "roles": ["auditor", "viewer"]})
	not shown_to(whom, {"kind": "service", "roles": ["auditor"]})
	not shown_to(whom, {"kind": "person", "roles": ["viewer"]})
	not shown_to(whom, {"kind": "person", "roles": []})
	shown_to({}, {"kind": "agent", "roles": ["agent"]})
	not shown_to({}, {"kind": "agent", "roles": []})
}
