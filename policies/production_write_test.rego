package aureus

import rego.v1

in_production := {"environment": "production"}

test_agents_do_not_write_production if {
	every action in ["catalog.describe_dataset", "pipelines.deploy_version"] {
		production_write(asked("agent", action, in_production))[0].outcome == "block"
	}
}

test_agents_report_on_production if {
	production_write(asked("agent", "catalog.record_usage", in_production)) == []
}

test_elsewhere_they_are_a_matter_of_the_list if {
	production_write(asked("agent", "catalog.describe_dataset", {"environment": "dev"})) == []
}

test_people_write_production if production_write(asked("person", "catalog.describe_dataset", in_production)) == []
