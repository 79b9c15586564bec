package aureus

import rego.v1

retiring(domain, jurisdiction) := retention(asked("person", "catalog.deprecate_dataset", {"domain": domain, "jurisdiction": jurisdiction}))

test_data_to_be_kept_is_retired_by_two if {
	every duty in data.bank.duties_to_keep {
		found := retiring(duty.domains[0], duty.jurisdictions[0])[0]
		found.outcome == "require_approval"
		found.quorum == 2
	}
}

test_no_duty_stands_on_other_data if {
	retiring("web", "EU") == []
	retiring("kyc", "APAC") == []
}

test_to_describe_data_is_not_to_retire_it if {
	retention(asked("person", "catalog.describe_dataset", {"domain": "kyc", "jurisdiction": "EU"})) == []
}
