package aureus

import rego.v1

# A question as the Guard asks it.
asked(kind, action, facts) := {
	"action": action,
	"actor": {"roles": ["analyst"], "kind": kind},
	"tenant": "acme",
	"facts": facts,
	"has_reason": false,
	"evidence": {"kinds": [], "failed_tests": 0},
	"recent": 64,
}

judged(kind, action, facts) := combined(findings(asked(kind, action, facts)))

found_by(policy, outcome) := {"policy": policy, "outcome": outcome, "reason": ""}

asking_for(roles, quorum) := {"policy": "p", "outcome": "require_approval", "reason": "", "approver_roles": roles, "quorum": quorum}

test_nothing_matched_is_blocked if {
	judged("person", "payments.send_money", {}) == {
		"outcome": "block",
		"results": [{"policy": "default_deny", "outcome": "block", "reason": "No policy allows this."}],
		"required_evidence": set(),
	}
}

test_an_empty_question_is_blocked if combined(findings({})).outcome == "block"

test_block_beats_approval_beats_allow if {
	allowed := found_by("a", "allow")
	parked_by := asking_for(["admin"], 3)
	blocked := found_by("c", "block")
	combined([allowed, parked_by, blocked]).outcome == "block"
	combined([allowed, parked_by]).outcome == "require_approval"
	combined([allowed]).outcome == "allow"
}

test_every_finding_is_answered_with if {
	found := [found_by("a", "allow"), found_by("b", "block")]
	combined(found).results == found
}

test_approvers_suit_every_policy_that_asks if {
	found := [asking_for(["admin", "approver"], 1), asking_for(["approver", "auditor"], 1)]
	combined(found).approver_roles == ["approver"]
}

test_the_largest_quorum_counts if {
	combined([asking_for(["admin"], 2), asking_for(["admin"], 10), asking_for(["admin"], 9)]).quorum == 10
	combined([found_by("a", "allow"), asking_for(["admin"], 3)]).quorum == 3
}

test_the_shortest_time_to_approve_counts if {
	combined([asking_for(["admin"], 1)]).approval_ttl_seconds == 86400
	quick := {"policy": "p", "outcome": "require_approval", "reason": "", "approver_roles": ["admin"], "quorum": 1, "approval_ttl_seconds": 3600}
	slow := {"policy": "q", "outcome": "require_approval", "reason": "", "approver_roles": ["admin"], "quorum": 1, "approval_ttl_seconds": 100000}
	combined([slow, quick]).approval_ttl_seconds == 3600
	combined([slow]).approval_ttl_seconds == 100000
}

test_all_evidence_that_anybody_asks_for_is_required if {
	sql := {"policy": "a", "outcome": "allow", "reason": "", "required_evidence": ["sql", "test_result"]}
	plan := {"policy": "b", "outcome": "allow", "reason": "", "required_evidence": ["rollback_plan", "sql"]}
	combined([sql, plan, found_by("c", "allow")]).required_evidence == {"rollback_plan", "sql", "test_result"}
}
