package aureus

import rego.v1

test_retiring_high_pii_takes_an_approver if {
	found := pii_deprecation(asked("person", "catalog.deprecate_dataset", {"pii_level": "high", "becomes": {}}))[0]
	found.outcome == "require_approval"
	pii_deprecation(asked("person", "catalog.deprecate_dataset", {"pii_level": "low", "becomes": {}})) == []
}
