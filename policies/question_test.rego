package aureus

import rego.v1

test_an_entry_applies_to_what_is_and_to_what_would_become if {
	facts := {"environment": "production", "domain": "web", "becomes": {"pii_level": "high"}}
	applies({}, facts)
	applies({"when": {"environment": "production", "domain": "web"}, "becomes": {"pii_level": "high"}}, facts)
	not applies({"when": {"environment": "production", "domain": "sales"}}, facts)
	not applies({"when": {"pii_level": "high"}}, facts)
	not applies({"becomes": {"environment": "production"}}, facts)
}

test_what_an_action_changes_is_what_would_become_else_all_it_knows if {
	changed({"facts": {"domain": "web", "becomes": {"pii_level": "low"}}}) == {"pii_level"}
	changed({"facts": {"domain": "web", "pii_level": "low"}}) == {"domain", "pii_level"}
}

test_an_action_belongs_to_the_context_before_its_dot if context_of("catalog.tag_dataset") == "catalog"
