package aureus

import rego.v1

test_changing_the_rules_takes_two_approvers if {
	every action in ["policies.activate_policies", "policies.retire_policy", "policies.roll_back_policies"] {
		found := high_risk(asked("person", action, {}))[0]
		found.outcome == "require_approval"
		found.quorum == 2
	}
}

test_undoing_takes_an_approver if {
	every action in ["budgets.roll_back_settings", "catalog.roll_back_dataset", "pipelines.roll_back_pipeline"] {
		high_risk(asked("person", action, {"environment": "production"}))[0].quorum == 1
	}
	high_risk(asked("person", "pipelines.roll_back_pipeline", {"environment": "dev"})) == []
}

test_a_deployment_takes_an_approver_in_production_alone if {
	count(high_risk(asked("service", "pipelines.deploy_version", {"environment": "production"}))) == 1
	every facts in [{"environment": "staging"}, {"environment": null}, {}] {
		high_risk(asked("service", "pipelines.deploy_version", facts)) == []
	}
}

test_handing_over_personal_data_takes_an_approver if {
	high_risk(asked("person", "exports.request_export", {"may_disclose": true}))[0].quorum == 1
	every facts in [{"may_disclose": false}, {}] {
		high_risk(asked("person", "exports.request_export", facts)) == []
	}
}

test_erasing_somebody_takes_an_approver_and_so_does_what_lets_them_be_erased if {
	every action in ["subjects.erase_subject", "subjects.release_hold", "subjects.reopen_subject"] {
		high_risk(asked("person", action, {"ground": "objection"}))[0].quorum == 1
		high_risk(asked("service", action, {}))[0].outcome == "require_approval"
	}
	high_risk(asked("person", "subjects.place_hold", {})) == []
}

test_proposing_is_not_changing if high_risk(asked("person", "policies.propose_policy", {})) == []
