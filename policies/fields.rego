# Who is shown a field of a list: whoever has one of its roles, and is one of its kinds. To others it is masked.
#
# It judges questions about reading (`read.datasets`), which tell no more than who reads; what is masked, it names.
package aureus

import rego.v1

fields(question) := [finding |
	startswith(question.action, "read.")
	masked := masked_in(data.bank.fields[trim_prefix(question.action, "read.")], question.actor)
	count(masked) > 0
	finding := {"policy": "fields", "outcome": "allow", "reason": "Some fields are shown to others.", "masked": masked}
]

masked_in(shown, actor) := {field |
	some field in object.keys(shown)
	not shown_to(shown[field], actor)
}

shown_to(whom, actor) if {
	one_of(actor.kind, whom, "kinds")
	some role in actor.roles
	one_of(role, whom, "roles")
}

# An entry that does not say which is for all of them.
one_of(_, whom, name) if not whom[name]

one_of(value, whom, name) if value in whom[name]
