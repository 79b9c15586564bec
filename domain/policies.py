"""A policy: what it says, its versions, and which of all policies are in force together.

All policies of a tenant stand in one stream, for it is the set that judges: every decision relies on its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, assert_never

from immutables import Map
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.evidence import ArtifactKind
from domain.kernel import Event, JsonObject, json_digest
from domain.values import Identifier, Label, Role, Sha256, Text

PolicyId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=80)]
"""Also the name of the Rego function that judges."""
PolicyType = Literal["access", "quality", "retention", "approval", "shared"]
"""`shared` judges nothing: it holds functions, lists and tests that the other policies have in common."""
Outcome = Literal["allow", "block", "require_approval"]
Version = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Values = Annotated[tuple[Label, ...], Field(max_length=100)]


class Scope(BaseModel):
    """What a policy looks at; an empty list stands for everything. An action is named whole, or as `catalog.*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domains: Values = ()
    pii_levels: Values = ()
    jurisdictions: Values = ()
    environments: Values = ()
    actions: Values = ()
    actor_kinds: Values = ()


class Rule(BaseModel):
    """A policy without code: whatever lies in its scope comes out like this."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    reason: Label
    approver_roles: tuple[Role, ...] = ()
    quorum: Annotated[int, Field(ge=1, le=20)] = 1
    approval_ttl_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    required_evidence: tuple[ArtifactKind, ...] = ()


class PolicyText(BaseModel):
    """What a policy says: Rego with its tests, or a rule without code; a shared one also lists (`data`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: PolicyType
    title: Label
    scope: Scope = Scope()
    rego: Annotated[str, Field(max_length=24_000)] | None = None
    tests: Annotated[str, Field(max_length=24_000)] | None = None
    rule: Rule | None = None
    data: JsonObject | None = None

    def text(self) -> JsonObject:
        """All of it as JSON values, whatever else the record holds."""
        return self.model_dump(mode="json", include=set(PolicyText.model_fields), exclude_none=True)


class PolicyRef(BaseModel):
    """One version of a policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy_id: PolicyId
    version: Version

    def __str__(self) -> str:
        return f"{self.policy_id}@{self.version}"


class Change(BaseModel):
    """A change of what is in force: versions that come in, in place of those there are, and policies that go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activate: Annotated[tuple[PolicyRef, ...], Field(max_length=100)] = ()
    retire: Annotated[tuple[PolicyId, ...], Field(max_length=100)] = ()


class Flip(BaseModel):
    """How many past decisions would come out differently in one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: Outcome
    after: Outcome
    count: Annotated[int, Field(ge=1)]


class PolicyProposed(PolicyText, Event, name="policies.policy_proposed"):
    """A version of a policy was written down; it judges nothing yet."""

    policy_id: PolicyId
    version: Version
    owner: Identifier
    sha256: Sha256
    """Of what it says: its canonical JSON."""


class DefaultsAdopted(Event, name="policies.defaults_adopted"):
    """The policies that came with Aureus, each proposed just before, are in force as the tenant's own from now on."""

    in_force: tuple[PolicyRef, ...]


class PoliciesTested(Event, name="policies.policies_tested"):
    """Aureus put together what the change would leave in force and ran its tests; `digest_after` says what that is."""

    change: Change
    digest_after: Sha256
    passed: Count
    failed: Count
    problems: tuple[Text, ...] = ()
    report: Sha256


class ImpactAnalysed(Event, name="policies.impact_analysed"):
    """Aureus asked past decisions again under what the change would leave in force: what would come out differently."""

    change: Change
    digest_before: Sha256
    digest_after: Sha256
    examined: Count
    flips: tuple[Flip, ...] = ()
    report: Sha256
    rollback_plan: Sha256


class PolicyActivated(Event, name="policies.policy_activated"):
    """This version judges from now on."""

    policy_id: PolicyId
    version: Version


class PolicySuperseded(Event, name="policies.policy_superseded"):
    """Another version of the policy judges in place of this one."""

    policy_id: PolicyId
    version: Version
    by_version: Version


class PolicyRetired(Event, name="policies.policy_retired"):
    """The policy judges no more."""

    policy_id: PolicyId
    version: Version


class PoliciesRolledBack(Event, name="policies.policies_rolled_back"):
    """What was in force at an earlier version of the stream is in force again; `withdrawn` was in force until now."""

    to_version: Version
    in_force: tuple[PolicyRef, ...]
    withdrawn: tuple[PolicyRef, ...]


PolicyEvent = (
    PolicyProposed
    | DefaultsAdopted
    | PoliciesTested
    | ImpactAnalysed
    | PolicyActivated
    | PolicySuperseded
    | PolicyRetired
    | PoliciesRolledBack
)

NOTHING_IN_FORCE: Final = json_digest({"in_force": []})


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Every policy with its versions, and which are in force. While none is, those shipped with Aureus judge."""

    versions: Map[str, tuple[PolicyProposed, ...]] = field(default_factory=Map)
    in_force: Map[str, int] = field(default_factory=Map)
    digest: str = NOTHING_IN_FORCE
    """Of what is in force: each policy, its version and what it says."""
    tested: Map[str, PoliciesTested] = field(default_factory=Map)
    """How the tests came out, by the digest of what was tested."""
    analysed: Map[str, ImpactAnalysed] = field(default_factory=Map)
    """What would flip, by the digest of what could come after this."""
    adopted_digest: str = NOTHING_IN_FORCE
    """Of what came with Aureus: nobody here had to test it."""

    @property
    def adopted(self) -> bool:
        return bool(self.in_force)

    def find(self, policy_id: str, version: int) -> PolicyProposed | None:
        known = self.versions.get(policy_id, ())
        return known[version - 1] if 1 <= version <= len(known) else None

    def active(self) -> list[PolicyProposed]:
        """The versions in force, in order of their ids."""
        return [self.versions[policy_id][version - 1] for policy_id, version in sorted(self.in_force.items())]

    def refs(self) -> tuple[PolicyRef, ...]:
        """Which are in force, in order of their ids."""
        return tuple(PolicyRef(policy_id=policy_id, version=version) for policy_id, version in sorted(self.in_force.items()))

    def evidence(self, digest: str) -> tuple[str, ...]:
        """The artifacts that Aureus made when it examined what has this digest."""
        tested, analysed = self.tested.get(digest), self.analysed.get(digest)
        return (*((tested.report,) if tested else ()), *((analysed.report, analysed.rollback_plan) if analysed else ()))

    def after(self, change: Change) -> PolicySet:
        """The set as the change would leave it; what it names must be there."""
        in_force = self.in_force.update({ref.policy_id: ref.version for ref in change.activate})
        for policy_id in change.retire:
            in_force = in_force.delete(policy_id)
        return self.having(in_force.items())

    def having(self, in_force: Iterable[tuple[str, int]]) -> PolicySet:
        """The set with exactly these in force. An analysis was of a step from what was in force before, so none is left."""
        chosen = Map(in_force)
        said = [[policy_id, version, self.versions[policy_id][version - 1].sha256] for policy_id, version in sorted(chosen.items())]
        return replace(self, in_force=chosen, digest=json_digest({"in_force": said}), analysed=Map())


def evolve(policies: PolicySet, event: PolicyEvent) -> PolicySet:
    match event:
        case PolicyProposed():
            known = policies.versions.get(event.policy_id, ())
            return replace(policies, versions=policies.versions.set(event.policy_id, (*known, event)))
        case DefaultsAdopted() | PoliciesRolledBack():
            restored = policies.having((ref.policy_id, ref.version) for ref in event.in_force)
            return replace(restored, adopted_digest=restored.digest) if isinstance(event, DefaultsAdopted) else restored
        case PoliciesTested():
            return replace(policies, tested=policies.tested.set(event.digest_after, event))
        case ImpactAnalysed():
            return replace(policies, analysed=policies.analysed.set(event.digest_after, event))
        case PolicyActivated():
            return policies.after(Change(activate=(PolicyRef(policy_id=event.policy_id, version=event.version),)))
        case PolicySuperseded():
            return policies  # the activation that goes with it says all
        case PolicyRetired():
            return policies.after(Change(retire=(event.policy_id,)))
        case _:
            assert_never(event)
