"""What may be asked of the policies themselves, and when the answer is yes: nothing untested, nothing unexamined comes into force."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, assert_never

from pydantic import Field

from domain.kernel import Asked, Command, Decider, JsonObject, json_digest, require
from domain.policies import (
    Change,
    Count,
    DefaultsAdopted,
    Flip,
    ImpactAnalysed,
    PoliciesRolledBack,
    PoliciesTested,
    PolicyActivated,
    PolicyEvent,
    PolicyId,
    PolicyProposed,
    PolicyRef,
    PolicyRetired,
    PolicySet,
    PolicySuperseded,
    PolicyText,
    Version,
    evolve,
)
from domain.rollback import require_version
from domain.values import Identifier, Role, Sha256, Text

AUTHORS: Final = frozenset({Role.ADMIN, Role.ANALYST})
ADMINS: Final = frozenset({Role.ADMIN})


class WrittenPolicy(PolicyText):
    """A policy as files hold it."""

    policy_id: PolicyId


class ProposePolicy(PolicyText, Command, name="policies.propose_policy", roles=AUTHORS):
    """Write down a policy, or the next version of one; it judges nothing until it is tested and activated."""

    policy_id: PolicyId
    owner: Identifier | None = None


class AdoptDefaults(Command, name="policies.adopt_defaults", roles=ADMINS):
    """Take on the policies that come with Aureus as the tenant's own; Aureus asks this itself, once."""

    policies: Annotated[tuple[WrittenPolicy, ...], Field(min_length=1, max_length=100)]


class RecordTest(Command, name="policies.record_test", roles=AUTHORS):
    """Put on record how the tests came out of what a change would leave in force; only Aureus itself asks this."""

    change: Change
    digest_after: Sha256
    passed: Count
    failed: Count
    problems: Annotated[tuple[Text, ...], Field(max_length=20)] = ()
    report: Sha256


class RecordImpact(Command, name="policies.record_impact", roles=AUTHORS):
    """Put on record which past decisions would flip under what a change would leave in force; only Aureus itself asks this."""

    change: Change
    digest_before: Sha256
    digest_after: Sha256
    examined: Count
    flips: tuple[Flip, ...] = ()
    report: Sha256
    rollback_plan: Sha256


class ActivatePolicies(Command, name="policies.activate_policies", roles=ADMINS):
    """Put versions of policies in force, all in one step; what they leave in force must have been tested and its impact analysed."""

    activate: Annotated[tuple[PolicyRef, ...], Field(min_length=1, max_length=100)]
    retire: Annotated[tuple[PolicyId, ...], Field(max_length=100)] = ()


class RetirePolicy(Command, name="policies.retire_policy", roles=ADMINS):
    """Take a policy out of force; what is left must have been tested and its impact analysed."""

    policy_id: PolicyId


class RollBackPolicies(Command, name="policies.roll_back_policies", roles=ADMINS):
    """Put back in force what was in force at an earlier version of the stream of policies."""

    to_version: Version

    def past_version(self) -> int:
        return self.to_version


PolicyCommand = ProposePolicy | AdoptDefaults | RecordTest | RecordImpact | ActivatePolicies | RetirePolicy | RollBackPolicies


def decide(policies: PolicySet, command: PolicyCommand, asked: Asked) -> list[PolicyEvent]:
    match command:
        case ProposePolicy():
            return [_proposed(policies, command, command.policy_id, command.owner or asked.by.actor)]
        case AdoptDefaults():
            return _adopt(policies, command, asked)
        case RecordTest():
            _require_same(left_by(policies, command.change).digest, command.digest_after)
            return [PoliciesTested(**command.model_dump())]
        case RecordImpact():
            _require_same(policies.digest, command.digest_before)
            _require_same(left_by(policies, command.change).digest, command.digest_after)
            return [ImpactAnalysed(**command.model_dump())]
        case ActivatePolicies():
            return _changed(policies, Change(activate=command.activate, retire=command.retire))
        case RetirePolicy():
            return _changed(policies, Change(retire=(command.policy_id,)))
        case RollBackPolicies():
            return [_rolled_back(policies, command, asked)]
        case _:
            assert_never(command)


def _proposed(policies: PolicySet, said: PolicyText, policy_id: str, owner: str) -> PolicyProposed:
    require(
        policy_id != "judgements" and not policy_id.endswith("_test"),
        "policy_id_reserved",
        f"A policy cannot be called {policy_id}: the file that Aureus writes, and files of tests, have such names.",
        field="policy_id",
        remedy="Choose another id.",
    )
    _require_form(said)
    known = policies.versions.get(policy_id, ())
    text = said.text()
    sha256 = json_digest(text)
    require(
        not known or known[-1].sha256 != sha256,
        "policy_unchanged",
        f"Version {len(known)} of {policy_id} says exactly this.",
        field="policy_id",
        version=len(known),
        remedy="Use the version that is there, or change something.",
    )
    return PolicyProposed(policy_id=policy_id, version=len(known) + 1, owner=owner, sha256=sha256, **text)


def _require_form(said: PolicyText) -> None:
    if said.type == "shared":
        require(
            said.rule is None and (said.rego, said.tests, said.data) != (None, None, None),
            "shared_policy_judges",
            "A shared policy judges nothing: it holds Rego that others call, data or tests, and no rule.",
            field="rule" if said.rule else "rego",
            remedy="Give rego, data or tests; or choose the type access, quality, retention or approval.",
        )
        return
    require(
        (said.rego is None) != (said.rule is None),
        "policy_judges_nothing",
        f"A policy of type {said.type} judges either by Rego or by one rule.",
        field="rego",
        remedy="Give `rego` or `rule`, not both.",
    )
    require(said.data is None, "data_misplaced", "Lists belong to a shared policy.", field="data", remedy="Propose them with type shared.")
    rule = said.rule
    require(
        rule is None or bool(rule.approver_roles) == (rule.outcome == "require_approval"),
        "approvers_misplaced",
        "A rule names approver roles when its outcome is require_approval, and only then.",
        field="rule.approver_roles",
        remedy="Name who may approve, or leave them out.",
    )


def _adopt(policies: PolicySet, command: AdoptDefaults, asked: Asked) -> list[PolicyEvent]:
    require(not policies.adopted, "defaults_adopted", "This tenant has policies of its own already.", remedy="Propose a change of them.")
    proposed = [_proposed(policies, default, default.policy_id, asked.by.actor) for default in command.policies]
    refs = tuple(PolicyRef(policy_id=event.policy_id, version=event.version) for event in proposed)
    _require_once([ref.policy_id for ref in refs], "policies")
    return [*proposed, DefaultsAdopted(in_force=refs)]


def _changed(policies: PolicySet, change: Change) -> list[PolicyEvent]:
    digest = left_by(policies, change).digest
    require(
        digest != policies.digest,
        "policies_in_force",
        "All of this is in force already.",
        field="activate",
        remedy="Nothing is left to do.",
    )
    _require_tested(policies, digest, "activate")
    _require_analysed(policies, digest, "activate")
    return list(_steps(policies, change))


def _require_tested(policies: PolicySet, digest: str, field: str) -> None:
    tested = policies.tested.get(digest)
    require(
        tested is not None,
        "policies_untested",
        "What this would leave in force has not been tested.",
        field=field,
        remedy="Run the tests of exactly this change: POST /v1/policies/test.",
    )
    assert tested is not None
    require(
        tested.failed == 0,
        "policy_tests_failed",
        "What this would leave in force does not compile, or its tests fail.",
        field=field,
        problems=list(tested.problems),
        remedy="Read the test's report, and propose a version that passes.",
    )


def _require_analysed(policies: PolicySet, digest: str, field: str) -> None:
    require(
        digest in policies.analysed,
        "impact_not_analysed",
        "Nobody has looked at what this would do to past decisions.",
        field=field,
        remedy="Analyse exactly this change: POST /v1/policies/impact, then name its artifacts in Aureus-Evidence.",
    )


def _steps(policies: PolicySet, change: Change) -> Iterator[PolicyEvent]:
    for ref in change.activate:
        before = policies.in_force.get(ref.policy_id)
        if before == ref.version:
            continue
        if before is not None:
            yield PolicySuperseded(policy_id=ref.policy_id, version=before, by_version=ref.version)
        yield PolicyActivated(policy_id=ref.policy_id, version=ref.version)
    for policy_id in change.retire:
        yield PolicyRetired(policy_id=policy_id, version=policies.in_force[policy_id])


def _rolled_back(policies: PolicySet, command: RollBackPolicies, asked: Asked) -> PoliciesRolledBack:
    past: PolicySet | None = asked.past
    require_version(asked, command.to_version)
    assert past is not None
    require(
        past.adopted,
        "nothing_in_force_then",
        f"At version {command.to_version} this tenant had no policies of its own.",
        field="to_version",
        remedy="Choose a version at or after the adoption of the defaults.",
    )
    require(
        past.digest != policies.digest,
        "nothing_to_roll_back",
        f"What was in force at version {command.to_version} is in force now.",
        field="to_version",
        remedy="Nothing is left to do.",
    )
    # A step of several policies passes through versions of the stream at which nothing whole was in force.
    if past.digest != policies.adopted_digest:
        _require_tested(policies, past.digest, "to_version")
    _require_analysed(policies, past.digest, "to_version")
    withdrawn = tuple(ref for ref in policies.refs() if past.in_force.get(ref.policy_id) != ref.version)
    return PoliciesRolledBack(to_version=command.to_version, in_force=past.refs(), withdrawn=withdrawn)


def left_by(policies: PolicySet, change: Change) -> PolicySet:
    """The set as the change would leave it; Refused when it names what is not there."""
    require(
        policies.adopted,
        "defaults_not_adopted",
        "This tenant has no policies of its own yet.",
        remedy="Start Aureus for it once: it adopts those it comes with.",
    )
    _require_once([*(ref.policy_id for ref in change.activate), *change.retire], "activate")
    for ref in change.activate:
        require(
            policies.find(ref.policy_id, ref.version) is not None,
            "policy_not_found",
            f"There is no version {ref.version} of a policy {ref.policy_id}.",
            field="activate",
            remedy="Propose it first.",
        )
    for policy_id in change.retire:
        require(
            policy_id in policies.in_force,
            "policy_not_in_force",
            f"No version of {policy_id} is in force.",
            field="retire" if change.activate else "policy_id",
            remedy="Leave it out.",
        )
    return policies.after(change)


def _require_once(named: list[str], field: str) -> None:
    twice = sorted({policy_id for policy_id in named if named.count(policy_id) > 1})
    require(not twice, "policy_named_twice", f"{', '.join(twice)} would change twice in one step.", field=field, remedy="Name it once.")


def _require_same(digest: str, examined: str) -> None:
    require(
        digest == examined,
        "policies_changed_meanwhile",
        "The policies changed while these were examined.",
        field="digest_after",
        remedy="Do it again, on what is there now.",
    )


def _facts(policies: PolicySet, command: PolicyCommand) -> dict[str, Any]:
    """Which types of policies a command is about."""
    match command:
        case ProposePolicy():
            return {"types": [command.type]}
        case RetirePolicy():
            ids = {command.policy_id: policies.in_force.get(command.policy_id, 0)}
        case ActivatePolicies():
            ids = {ref.policy_id: ref.version for ref in command.activate}
        case _:
            return {}
    found = [policies.find(policy_id, version) for policy_id, version in ids.items()]
    return {"types": sorted({policy.type for policy in found if policy is not None})}


def _snapshot(policies: PolicySet) -> JsonObject | None:
    return {"in_force": dict(sorted(policies.in_force.items()))} if policies.adopted else None


DECIDER: Decider[PolicySet, PolicyCommand, PolicyEvent] = Decider(
    context="policies",
    category="policyset",
    initial=PolicySet(),
    evolve=evolve,
    decide=decide,
    commands=(ProposePolicy, AdoptDefaults, RecordTest, RecordImpact, ActivatePolicies, RetirePolicy, RollBackPolicies),
    events=(
        PolicyProposed,
        DefaultsAdopted,
        PoliciesTested,
        ImpactAnalysed,
        PolicyActivated,
        PolicySuperseded,
        PolicyRetired,
        PoliciesRolledBack,
    ),
    entity=lambda _command: "active",
    facts=_facts,
    snapshot=_snapshot,
)
