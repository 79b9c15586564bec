package aureus

import rego.v1

kinds_for(kind, action, facts) := {evidence |
	some finding in evidence_gate(asked(kind, action, facts))
	finding.outcome == "allow"
	some evidence in finding.required_evidence
}

test_much_personal_data_is_onboarded_with_contract_and_tests if {
	every action in ["catalog.register_dataset", "catalog.sync_dataset"] {
		becoming := {"pii_level": "high", "becomes": {"pii_level": "high"}}
		kinds_for("service", action, becoming) == {"data_contract", "test_result"}
		kinds_for("service", action, {"pii_level": "low", "becomes": {"pii_level": "low"}}) == set()
		kinds_for("service", action, {"pii_level": "high", "becomes": {}}) == set()
	}
}

test_a_deployment_shows_its_model_and_its_tests if {
	every environment in ["dev", "staging", "production"] {
		kinds_for("person", "pipelines.deploy_version", {"environment": environment}) == {"sql", "test_result"}
	}
}

test_a_change_of_the_rules_shows_what_it_does_and_how_to_undo_it if {
	every action in ["policies.activate_policies", "policies.retire_policy", "policies.roll_back_policies"] {
		kinds_for("person", action, {}) == {"impact_analysis", "rollback_plan"}
	}
}

test_to_ask_for_evidence_is_not_to_allow if {
	evidence_gate(asked("agent", "pipelines.deploy_version", {})) == []
	judged("agent", "pipelines.deploy_version", {}).outcome == "block"
}

test_everything_else_completes_without if kinds_for("person", "catalog.tag_dataset", {"pii_level": "high"}) == set()
