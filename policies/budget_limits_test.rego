package aureus

import rego.v1

reserving(amount) := [finding.outcome | some finding in budget_limits(asked("agent", "budgets.reserve_funds", {"amount_up_to": amount}))]

limits_of_reserving := data.bank.budget_limits["budgets.reserve_funds"]

test_small_promises_pass if {
	reserving(1) == []
	reserving(limits_of_reserving.approval_above_minor) == []
}

test_large_promises_take_an_approver if {
	reserving(limits_of_reserving.approval_above_minor + 1) == ["require_approval"]
	reserving(limits_of_reserving.block_above_minor) == ["require_approval"]
}

test_very_large_promises_are_not_made if reserving(limits_of_reserving.block_above_minor + 1) == ["block"]

test_to_give_back_or_to_open_is_not_to_promise if {
	every action in ["budgets.release_funds", "budgets.open_budget"] {
		budget_limits(asked("person", action, {"amount_up_to": limits_of_reserving.block_above_minor + 1})) == []
	}
}

test_no_amount_is_no_large_amount if {
	reserving(null) == []
	budget_limits(asked("agent", "budgets.reserve_funds", {})) == []
}
